"""Molecules out of files: SDF and MOL by RDKit, XYZ and extended XYZ by ASE, alone, gzipped or in tar archives.

Every reader yields records for `molecules.from_records` and `check_record`, with a `BadMolecule` in the place of each
that cannot be read, so that nothing is lost silently and one bad entry does not end the reading.
"""

import gzip
import io
import os
import pathlib
import tarfile
from collections.abc import Iterator

from equiscale.data.molecules import BadMolecule, Record, import_rdkit

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")


def read_molecules(path: str | os.PathLike) -> Iterator[Record | BadMolecule]:
    """The molecules of a file, of every file in an archive, or of every file below a folder, in the order of names.

    Records are `(name, elements, coordinates in angstrom)`. A file of another kind is one `BadMolecule`.
    Raises FileNotFoundError for a path that is not there; ImportError without RDKit or ASE where they are needed.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if path.is_dir():
        for inner in sorted(p for p in path.rglob("*") if p.is_file()):
            yield from read_molecules(inner)
    elif path.name.endswith(ARCHIVES):
        yield from _archive(path)
    else:
        yield from _file(path.name, path.read_bytes(), str(path))


def _archive(path: pathlib.Path) -> Iterator[Record | BadMolecule]:
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile():
                    yield from _file(member.name, archive.extractfile(member).read(), f"{path}:{member.name}")
    except (tarfile.ReadError, EOFError, OSError) as error:
        yield BadMolecule("in a damaged archive", f"{path} ends early or is damaged: {error}")


def _file(name: str, content: bytes, where: str) -> Iterator[Record | BadMolecule]:
    if name.endswith(".gz"):
        try:
            name, content = name.removesuffix(".gz"), gzip.decompress(content)
        except (EOFError, OSError) as error:
            yield BadMolecule("in a damaged file", f"{where} ends early or is damaged: {error}")
            return
    kind = pathlib.PurePath(name).suffix
    if kind not in READERS:
        yield BadMolecule(
            f"in a file of unknown kind ({kind or 'no suffix'})",
            f"{where}: no reader for {kind!r}; there are {', '.join(READERS)}",
        )
        return
    yield from READERS[kind](content.decode(errors="replace"), where)


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
    try:
        import ase.io
    except ImportError as error:
        raise ImportError("reading XYZ files needs ASE: pip install 'equiscale[data]'") from error
    frames = ase.io.iread(io.StringIO(text), index=":", format="extxyz")
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
