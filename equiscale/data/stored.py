"""Sets that need not fit in memory: examples end to end in one file a field, read by index without loading the rest.

A folder holds `set.json` (what is in it), `lengths.bin` (atoms, or residues, of each example) and one flat binary file
a field. Nothing is padded on disk: a batch is padded to the length that is asked for when it is read. A set is
written whole or not at all.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Int

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Field:
    """One array of a set: `shape` of one atom's entry if `ragged`, of one example's otherwise."""

    dtype: str
    shape: tuple[int, ...]
    ragged: bool


@dataclasses.dataclass(frozen=True, eq=False)
class StoredSet:
    """A set on disk, opened by `open_set`; `lengths` int64 [n], `arrays` mapped into memory, `source` one line."""

    folder: pathlib.Path
    source: str
    lengths: np.ndarray
    fields: Mapping[str, Field]
    arrays: Mapping[str, np.ndarray]
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    def __repr__(self) -> str:
        return f"StoredSet({len(self):,} examples of up to {self.lengths.max()}, {self.source})"

    def read(self, indices: Int[np.ndarray, " batch"], length: int) -> dict[str, np.ndarray]:
        """Examples as arrays `[batch, length, ...]`, zero beyond their end, or `[batch, ...]` of fields without atoms.

        Raises ValueError naming an example longer than `length`, IndexError for one that is not there.
        """
        lengths = self.lengths[indices]
        if (lengths > length).any():
            worst = int(np.argmax(lengths))
            raise ValueError(
                f"example {indices[worst]} of {self.folder} has {lengths[worst]} entries, more than the {length} asked "
                "for"
            )
        slots = np.arange(length)
        inside = slots < lengths[:, None]
        rows = np.where(inside, self.starts[indices][:, None] + slots, 0)
        found = {}
        for name, field in self.fields.items():
            if field.ragged:
                found[name] = self.arrays[name][rows]
                found[name][~inside] = 0
            else:
                found[name] = self.arrays[name][indices]
        return found


def write_set(
    folder: str | os.PathLike,
    examples: Iterable[tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]],
    source: str,
) -> StoredSet:
    """Write examples as they come, each `(ragged, whole)`: arrays with one entry an atom, and arrays without.

    Every example has the same fields, types and shapes but for the number of atoms, which its ragged fields share.
    Raises ValueError naming the example and the field otherwise, or when there is no example; FileExistsError for a
    folder that is there already.
    """
    folder = pathlib.Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists: delete it, or write to another folder")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    fields: dict[str, Field] = {}
    n = 0
    with contextlib.ExitStack() as stack:
        lengths = stack.enter_context((partial / "lengths.bin").open("wb"))
        files = {}
        for ragged, whole in examples:
            found, length = _checked(ragged, whole, n)
            if not fields:
                fields = found
                files = {name: stack.enter_context((partial / f"{name}.bin").open("wb")) for name in fields}
            if found != fields:
                raise ValueError(f"example {n} has fields {found}, those before {fields}")
            np.int64(length).tofile(lengths)
            for name, array in (*ragged.items(), *whole.items()):
                np.ascontiguousarray(array).tofile(files[name])
            n += 1
    if not n:
        raise ValueError(f"no example in {source}: nothing to write to {folder}")
    about = {
        "format": FORMAT,
        "source": source,
        "n": n,
        "fields": {name: dataclasses.asdict(field) for name, field in fields.items()},
    }
    (partial / "set.json").write_text(json.dumps(about, indent=2) + "\n")
    partial.rename(folder)
    return open_set(folder)


def _checked(ragged: Mapping, whole: Mapping, n: int) -> tuple[dict[str, Field], int]:
    """The fields of an example and its length."""
    lengths = {name: len(array) for name, array in ragged.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise ValueError(f"example {n} has ragged fields of lengths {lengths}: give each the same, at least 1")
    fields = {name: Field(a.dtype.str, a.shape[1:], True) for name, a in ragged.items()}
    fields |= {name: Field(np.asarray(a).dtype.str, np.shape(a), False) for name, a in whole.items()}
    return fields, next(iter(lengths.values()))


def open_set(folder: str | os.PathLike) -> StoredSet:
    """Open a set for reading.

    Raises FileNotFoundError for a folder without one, ValueError naming a file of another size than it should have.
    """
    folder = pathlib.Path(folder)
    path = folder / "set.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: {folder} holds no stored set")
    about = json.loads(path.read_text())
    if about["format"] != FORMAT:
        raise ValueError(f"{path} is of format {about['format']}, this version reads {FORMAT}: write the set again")
    lengths = _mapped(folder / "lengths.bin", "<i8", (about["n"],))
    total = int(lengths.sum())
    fields = {name: Field(f["dtype"], tuple(f["shape"]), f["ragged"]) for name, f in about["fields"].items()}
    arrays = {
        name: _mapped(folder / f"{name}.bin", f.dtype, (total if f.ragged else about["n"], *f.shape))
        for name, f in fields.items()
    }
    lengths = np.array(lengths)
    return StoredSet(folder, about["source"], lengths, fields, arrays, np.cumsum(lengths) - lengths)


def _mapped(path: pathlib.Path, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    wanted = np.dtype(dtype).itemsize * int(np.prod(shape))
    size = path.stat().st_size if path.exists() else 0
    if size != wanted:
        raise ValueError(f"{path} holds {size:,} bytes where {wanted:,} belong: it is cut short or of another set")
    return np.memmap(path, dtype, "r", shape=shape)
