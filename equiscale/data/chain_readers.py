"""Protein chains out of PDB and mmCIF files by gemmi, and out of NumPy archives of C-alpha positions.

As `equiscale.data.readers`: alone, gzipped, in tar archives or below folders, a `BadChain` in the place of each chain
that cannot be used. Of the first model every chain is read: the C-alpha of its standard residues, at the alternate
location with the highest occupancy, the first of equals. Files are in angstrom, records in nm.
"""

import itertools
import os
import pathlib
from collections import Counter
from collections.abc import Iterator

import numpy as np

from equiscale.data.chains import BREAK, BadChain, ChainRecord, breaks_of
from equiscale.data.molecules import BadMolecule
from equiscale.data.readers import Source, reader_of, walk

LETTERS = dict(
    zip(
        "ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL".split(),
        "ARNDCQEGHILKMFPSTWYV",
        strict=True,
    )
)

# What readers count of each chain.
ALTERNATE = "residues at alternate locations, one kept"
SELENIUM = "MSE read as MET"
NONSTANDARD = "non-standard residues left out"
NO_ALPHA = "residues without C-alpha left out"
MISSING = "missing residues, kept as gaps in the numbers"
CLOSED = "jumps in the numbers without a break, closed"
BROKEN = f"breaks of more than {BREAK} nm"


def import_gemmi():
    """`gemmi`, or an ImportError that says how to get it."""
    try:
        import gemmi
    except ImportError as error:
        raise ImportError("this needs gemmi: pip install 'equiscale[proteins]'") from error
    return gemmi


def read_chains(path: str | os.PathLike) -> Iterator[ChainRecord | BadMolecule]:
    """The chains of a file, of every file in an archive, or of every file below a folder, in the order of names.

    A chain is named by its entry, or its file where that has no code, and its letter as in `pdb_seqres.txt`:
    "1aki_A". A file of another kind is one `BadMolecule`. A file that ends early is one too, and nothing of it is
    read: which of its chains are whole cannot be told.
    Raises FileNotFoundError for a path that is not there; ImportError without gemmi where it is needed.
    """
    for source in walk(path):
        found = source if isinstance(source, BadMolecule) else reader_of(source, READERS)
        if isinstance(found, BadMolecule):
            yield found
        else:
            yield from found(source)


def _pdb(source: Source) -> Iterator[ChainRecord | BadChain]:
    gemmi = import_gemmi()
    text = source.file.read().decode(errors="replace")
    lines = text.rstrip().splitlines()
    last = lines[-1] if lines else ""
    # The last line of a whole file is END, but many programs leave it out; what they write has no header.
    published = any(line.startswith(("HEADER", "SEQRES")) for line in lines)
    half = last.startswith(("ATOM", "HETATM")) and len(last) < 54
    if half or (published and last.strip() != "END"):
        yield _cut(source, f"{last[:40]!r} where a whole PDB file has the line END")
        return
    yield from _structure(source, lambda: gemmi.read_pdb_string(text))


def _cif(source: Source) -> Iterator[ChainRecord | BadChain]:
    gemmi = import_gemmi()
    text = source.file.read().decode(errors="replace")
    lines = text.rstrip().splitlines()
    # Published files part their tables by a line of "#", and end in one.
    if any(line.strip() == "#" for line in lines[:-1]) and lines[-1].strip() != "#":
        yield _cut(source, f"{lines[-1][:40]!r} where a whole mmCIF file has the line #")
        return

    def read():
        document = gemmi.cif.read_string(text)
        blocks = [block for block in document if block.find_values("_atom_site.Cartn_x")]
        return gemmi.make_structure_from_block(blocks[0]) if blocks else gemmi.Structure()

    yield from _structure(source, read)


def _cut(source: Source, found: str) -> BadChain:
    return BadChain(
        "in a file cut short", f"{source.where} ends in {found}: get it again, or add the line if nothing is lost"
    )


def _structure(source: Source, read) -> Iterator[ChainRecord | BadChain]:
    try:
        structure = read()
    except Exception as error:  # gemmi raises many kinds
        yield BadChain("in a file that cannot be read", f"{source.where}: {str(error)[:200]}")
        return
    if not len(structure) or not structure[0].count_atom_sites():
        yield BadChain("in a file without atoms", f"{source.where} holds no atom: no structure, or another format")
        return
    structure.merge_chain_parts()
    structure.setup_entities()
    structure.assign_label_seq_id()
    entry = structure.info["_entry.id"] if "_entry.id" in structure.info else ""
    entry = entry.strip().lower() or pathlib.PurePath(source.name).stem
    method = structure.info["_exptl.method"] if "_exptl.method" in structure.info else None
    for chain in structure[0]:
        name = f"{entry}_{chain.name}" if chain.name.strip() else entry
        polymer = chain.get_polymer()
        if not len(polymer):
            yield BadChain("of ligands or water alone", f"{source.where}: chain {name} holds no polymer")
            continue
        entity = structure.get_entity_of(polymer)
        kind = polymer.check_polymer_type()
        if kind not in _peptides():
            yield BadChain("that are no protein chain", f"{source.where}: chain {name} is {kind.name}")
            continue
        record = _record(name, polymer, len(entity.full_sequence) if entity else 0)
        yield record._replace(resolution=structure.resolution or None, method=method or None)


def _peptides() -> tuple:
    kinds = import_gemmi().PolymerType
    return kinds.PeptideL, kinds.PeptideD, kinds.Unknown  # of residues that gemmi does not know: told apart by name


def _record(name: str, polymer, length: int) -> ChainRecord:
    """The C-alpha of one polymer; `length` residues in its sequence, 0 where the file does not tell."""
    positions, letters, places, kept, changes = [], [], [], [], Counter()
    sites = [
        list(group)
        for _, group in itertools.groupby(polymer, key=lambda residue: (residue.label_seq, str(residue.seqid)))
    ]
    for site, residues in enumerate(sites):  # more than one where a place holds different residues in turn
        standard = [r for r in residues if r.name in LETTERS or r.name == "MSE"]
        if not standard:
            changes[NONSTANDARD] += 1
            continue
        options = [(residue, atom) for residue in standard for atom in residue if atom.name == "CA"]
        if not options:
            changes[NO_ALPHA] += 1
            continue
        residue, atom = max(options, key=lambda option: option[1].occ)  # the first of equals
        changes[ALTERNATE] += len(options) > 1
        changes[SELENIUM] += residue.name == "MSE"
        positions.append(atom.pos.tolist())
        letters.append(LETTERS.get(residue.name, "M"))
        kept.append(site)
        places.append((residue.label_seq, residue.seqid.num))
    if positions:
        positions = np.array(positions) / 10
        numbers, changes[CLOSED] = _numbers(places, breaks_of(positions)[:-1])
        between = kept[-1] - kept[0] + 1
        # Where the sequence is known its ends may be missing too; else only what the numbers pass over.
        changes[MISSING] = max(length - len(sites) if length else int(numbers[-1] - numbers[0]) + 1 - between, 0)
        changes[BROKEN] = int(breaks_of(positions).sum())
    else:
        positions, numbers = np.zeros((0, 3)), np.zeros(0, int)
    told = {what: count for what, count in changes.items() if count}
    return ChainRecord(name, positions, numbers, "".join(letters), length or None, changes=told)


def _numbers(places: list[tuple[int | None, int]], breaks: np.ndarray) -> tuple[np.ndarray, int]:
    """Places in the sequence where known of all; else the file's numbers, and how many jumps in them were closed.

    Numbers that stay or fall, as of inserted residues (52, 52A, 53) and of chains that were joined, rise by one
    instead; and so do numbers that jump without a break, since nothing is missing between neighbours.
    """
    if all(label is not None for label, _ in places):
        return np.array([label for label, _ in places], np.int64), 0
    numbers = np.array([number for _, number in places])
    steps = np.maximum(np.diff(numbers), 1)
    closed = (steps > 1) & ~breaks
    steps[closed] = 1
    return numbers[0] + np.concatenate([[0], np.cumsum(steps)]), int(closed.sum())


ARRAYS = ("ids", "length", "ca")


def _npz(source: Source) -> Iterator[ChainRecord | BadChain]:
    """`ids` [n], `length` [n] and `ca` [sum of lengths, 3] in angstrom; `seq`, `resolution` and `cluster` [n] if there.

    Chains are taken to be without gaps, of the length they have.
    """
    try:
        with np.load(source.file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except Exception as error:  # zipfile's, zlib's and NumPy's kinds
        yield BadChain("in a file that cannot be read", f"{source.where} is no whole NumPy archive: {error}")
        return
    missing = [name for name in ARRAYS if name not in arrays]
    if missing:
        yield BadChain("in arrays of unknown names", f"{source.where} holds {', '.join(arrays)}, not {missing[0]}")
        return
    ends = np.cumsum(arrays["length"], dtype=np.int64)
    if arrays["ca"].shape != (ends[-1] if len(ends) else 0, 3):
        yield BadChain(
            "with lengths that disagree", f"{source.where}: lengths add up to {ends[-1:]}, ca is {arrays['ca'].shape}"
        )
        return
    for i, end in enumerate(ends):
        n = int(arrays["length"][i])
        positions = arrays["ca"][end - n : end] / 10
        resolution = float(arrays["resolution"][i]) if "resolution" in arrays else np.nan
        broken = int(breaks_of(positions).sum()) if n else 0
        yield ChainRecord(
            str(arrays["ids"][i]),
            positions,
            np.arange(1, n + 1),
            str(arrays["seq"][i]) if "seq" in arrays else "",
            n,
            resolution if np.isfinite(resolution) else None,
            cluster=str(arrays["cluster"][i]) if "cluster" in arrays else None,
            changes={BROKEN: broken} if broken else {},
        )


READERS = {".pdb": _pdb, ".ent": _pdb, ".cif": _cif, ".mmcif": _cif, ".npz": _npz}
