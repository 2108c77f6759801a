"""Quantities of molecules without a download: the NCI list's compounds at a minimum of MMFF94, by GFN2-xTB.

Each compound has one conformer and the quantities of `xtb.QUANTITIES`: dipole, quadrupole, orbital energies. They
depend on the compound, the settings and the versions of RDKit and tblite, not on the number of processes or of
molecules: a smaller set is the beginning of a larger one.
"""

import collections
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from equiscale.data import nci, xtb
from equiscale.data.cache import cache_path, read_arrays, write_arrays
from equiscale.data.grown import CHUNK, Found, grown
from equiscale.data.molecules import BadMolecule, Molecules, Skipped, atomic_number, from_records, import_rdkit

ELEMENTS = ("H", "C", "N", "O", "F")  # QM9's
FORMAT = 1  # part of the cache key: raise it when the same settings come to make other molecules or numbers


def load(
    n_molecules: int = 2_000,
    *,
    elements: Sequence[str] = ELEMENTS,
    max_atoms: int = 29,
    seed: int = 0,
    processes: int | None = None,
    cache_dir: str | os.PathLike | None = None,
    progress: bool = True,
) -> tuple[Molecules, Skipped]:
    """The first `n_molecules` of the set, named by SMILES, and the report on the compounds tried up to there.

    Their `columns` are the quantities, in the units of `xtb.QUANTITIES`. What is made is kept in `cache_dir` (see
    `cache.cache_path`) in files of a few compounds, written whole or not at all: a run that ends early goes on from
    there. `processes` share the work, by default one per core.

    Raises ImportError without RDKit or tblite; ValueError for a setting below 1 or more molecules than the list gives.
    """
    import_rdkit()
    xtb.import_tblite()
    from rdkit import rdBase

    for name, value in (("n_molecules", n_molecules), ("max_atoms", max_atoms)):
        if value < 1:
            raise ValueError(f"{name}={value}: give at least 1")
    settings = {
        "format": FORMAT,
        "rdkit": rdBase.rdkitVersion,
        "tblite": version("tblite"),
        "elements": sorted({atomic_number(symbol) for symbol in elements}),
        "max_heavy_atoms": None,
        "max_atoms": max_atoms,
        "conformers": 1,
        "relax": True,
        "seed": seed,
        "chunk": CHUNK,
    }
    folder = cache_path("xtb-quantities", settings, cache_dir)
    files = grown(
        n_molecules, folder, settings, _chunk, each=1, processes=processes, progress=progress, unit="molecule"
    )
    reasons = sum((collections.Counter(about["reasons"]) for _, about in files), collections.Counter())
    records, columns = [], collections.defaultdict(list)
    for arrays, about in files:
        ends = np.cumsum(arrays["lengths"])
        for name, start, end in zip(about["names"], ends - arrays["lengths"], ends, strict=True):
            records.append((name, arrays["species"][start:end], arrays["positions"][start:end]))
        for name in xtb.QUANTITIES:
            columns[name].append(arrays[name])
    if len(records) < n_molecules:
        report = Skipped(len(records), dict(reasons))
        raise ValueError(f"n_molecules={n_molecules}: the list gives no more ({report}); raise max_atoms")
    source = f"NCI first 5K, MMFF94, GFN2-xTB, seed {seed}, RDKit {settings['rdkit']}"
    molecules = from_records(records[:n_molecules], source)
    columns = {name: np.concatenate(parts)[:n_molecules] for name, parts in columns.items()}
    known = Molecules(molecules.positions, molecules.species, molecules.names, source, columns)
    return known, Skipped(n_molecules, dict(reasons))


def _chunk(wanted: tuple[Path, Sequence[str], dict]) -> Found:
    """Some compounds with their quantities, from their file or made and written to it."""
    from rdkit import Chem, rdBase

    path, names, settings = wanted
    if (found := read_arrays(path)) is not None:
        return found
    kept, reasons = [], collections.Counter()
    with rdBase.BlockLogs():
        for name in names:
            made = _measured(name, Chem.AddHs(Chem.MolFromSmiles(name)), settings)
            if isinstance(made, str):
                reasons[made] += 1
            else:
                kept.append((name, *made))
    arrays = {
        "lengths": np.array([len(numbers) for _, numbers, *_ in kept], int),
        "species": np.concatenate([np.zeros(0, int), *(numbers for _, numbers, *_ in kept)]),
        "positions": np.concatenate([np.zeros((0, 3), np.float32), *(xyz for *_, xyz, _ in kept)]),
    }
    for name, quantity in xtb.QUANTITIES.items():
        shape = {"scalar": (), "vector": (3,), "tensor": (3, 3)}[quantity.kind]
        arrays[name] = np.array([found[name] for *_, found in kept], float).reshape(-1, *shape)
    about = {"names": [name for name, *_ in kept], "reasons": dict(reasons)}
    write_arrays(path, arrays, about)
    return arrays, about


def _measured(name: str, compound, settings: dict) -> tuple[np.ndarray, np.ndarray, dict] | str:
    """Atomic numbers, float32 positions [n_atoms, 3] in angstrom, centred, and quantities; or why there are none."""
    if compound.GetNumAtoms() > settings["max_atoms"]:
        return f"of more than {settings['max_atoms']} atoms"
    relaxed = nci.embed(name, compound, settings)
    if isinstance(relaxed, str):
        return relaxed
    numbers, (positions,) = relaxed
    positions = (positions - positions.mean(axis=0)).astype(np.float32)  # quantities belong to positions as stored
    try:
        return numbers, positions, xtb.quantities(numbers, positions)
    except BadMolecule as error:
        return error.reason
