"""Molecules out of files: SDF and MOL by RDKit, XYZ and extended XYZ by ASE, alone, gzipped or in tar archives.

Every reader yields records for `molecules.from_records` and `check_record`, with a `BadMolecule` in the place of each
that cannot be read, so that nothing is lost silently and one bad entry does not end the reading.
"""

import gzip
import io
import lzma
import os
import pathlib
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO, NamedTuple

from equiscale.data.molecules import BadMolecule, Record, import_rdkit

DAMAGE = (tarfile.ReadError, lzma.LZMAError, zlib.error, EOFError, OSError)
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")


class Source(NamedTuple):
    """A file to read: `name` with the suffix that tells its kind, `where` for errors, its content from the start."""

    name: str
    where: str
    file: BinaryIO


def walk(path: str | os.PathLike) -> Iterator[Source | BadMolecule]:
    """The file, every file in the archive, or every file below the folder, in the order of names; gzipped ones opened.

    Of a damaged or cut archive or gzipped file all that can be read comes first, then a `BadMolecule`. A source is
    closed when the next is asked for. Raises FileNotFoundError for a path that is not there.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if path.is_dir():
        for inner in sorted(p for p in path.rglob("*") if p.is_file()):
            yield from walk(inner)
    elif path.name.endswith(ARCHIVES):
        yield from _archive(path)
    else:
        with path.open("rb") as file:
            yield from _opened(path.name, str(path), file)


def _archive(path: pathlib.Path) -> Iterator[Source | BadMolecule]:
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile():
                    content, error = _salvage(archive.extractfile(member))
                    yield from _opened(member.name, f"{path}:{member.name}", io.BytesIO(content))
                    if error is not None:
                        raise error
    except DAMAGE as error:
        yield BadMolecule("in a damaged archive", f"{path} ends early or is damaged: {error}")


def _opened(name: str, where: str, file: BinaryIO) -> Iterator[Source | BadMolecule]:
    if not name.endswith(".gz"):
        yield Source(name, where, file)
        return
    content, error = _salvage(gzip.GzipFile(fileobj=file))
    yield Source(name.removesuffix(".gz"), where, io.BytesIO(content))
    if error is not None:
        yield BadMolecule("in a damaged file", f"{where} ends early or is damaged: {error}")


def _salvage(file: BinaryIO) -> tuple[bytes, Exception | None]:
    """What can be read, and what stopped the reading if it was not the end."""
    parts = []
    try:
        while part := file.read1(2**16) if hasattr(file, "read1") else file.read(2**16):
            parts.append(part)
    except DAMAGE as error:
        return b"".join(parts), error
    return b"".join(parts), None


def read_molecules(path: str | os.PathLike) -> Iterator[Record | BadMolecule]:
    """The molecules of all that `walk` finds.

    Records are `(name, elements, coordinates in angstrom)`. A file of another kind is one `BadMolecule`.
    Raises FileNotFoundError for a path that is not there; ImportError without RDKit or ASE where they are needed.
    """
    for source in walk(path):
        found = source if isinstance(source, BadMolecule) else reader_of(source, READERS)
        if isinstance(found, BadMolecule):
            yield found
        else:
            yield from found(source.file.read().decode(errors="replace"), source.where)


def reader_of(source: Source, readers: Mapping[str, Callable]) -> Callable | BadMolecule:
    """The reader for a source by its suffix, or what to say of a kind that has none."""
    kind = pathlib.PurePath(source.name).suffix
    return readers.get(kind) or BadMolecule(
        f"in a file of unknown kind ({kind or 'no suffix'})",
        f"{source.where}: no reader for {kind!r}; there are {', '.join(readers)}",
    )


def import_ase():
    """`ase` with what is read and measured with it, or an ImportError that says how to get it."""
    try:
        import ase.data
        import ase.db
        import ase.geometry
        import ase.io
        import ase.io.extxyz
        import ase.io.trajectory
    except ImportError as error:
        raise ImportError("this needs ASE: pip install 'equiscale[data]'") from error
    return ase


def _sdf(text: str, where: str) -> Iterator[Record | BadMolecule]:
    """Mol blocks, one or many; elements and coordinates alone, so that nothing need pass RDKit's chemistry."""
    chem = import_rdkit()
    from rdkit import rdBase

    for number, block in enumerate(text.split("$$$$\n"), start=1):
        if not block.strip():
            continue
        with rdBase.BlockLogs():
            molecule = chem.MolFromMolBlock(block, sanitize=False, removeHs=False, strictParsing=False)
        if molecule is None or not molecule.GetNumConformers():
            yield BadMolecule("that cannot be read", f"{where}, entry {number}: no mol block with coordinates")
            continue
        name = block.split("\n", 1)[0].strip() or f"{where}, entry {number}"
        yield name, [atom.GetAtomicNum() for atom in molecule.GetAtoms()], molecule.GetConformer().GetPositions()


def _xyz(text: str, where: str) -> Iterator[Record | BadMolecule]:
    """Frames, one or many; each is named by its place in the file."""
    frames = import_ase().io.iread(io.StringIO(text), index=":", format="extxyz")
    number = 0
    while True:
        number += 1
        try:
            frame = next(frames)
        except StopIteration:
            return
        except Exception as error:  # ASE raises many kinds; a file cut short or with a bad line ends here
            yield BadMolecule("that cannot be read", f"{where}, frame {number}: {error}")
            return
        yield f"{where}, frame {number}", frame.numbers, frame.positions


READERS = {".sdf": _sdf, ".mol": _sdf, ".xyz": _xyz, ".extxyz": _xyz}
