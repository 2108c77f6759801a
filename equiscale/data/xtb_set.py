"""A force set without a download: the NCI list's compounds, warm, labelled by GFN2-xTB.

Made after SPICE (Eastman et al., Scientific Data 2023, 10, 11): ten elements, neutral molecules of up to 50 atoms, and
of each conformer as many frames near a minimum as at 500 K. Frames come from Langevin dynamics on MMFF94, not from
random displacements: at equal forces these would stretch every bond alike and leave torsions where they were. What is
left of the minimum's forces where MMFF94 and GFN2-xTB differ adds to both. The forces' root mean square is 0.65
eV/angstrom at 100 K and 1.2 at 500 K, 0.95 in all; SPICE's is 1.08.

A frame depends on its compound, the settings and the versions of RDKit and tblite, not on the number of processes or of
frames: a smaller set is the beginning of a larger one.
"""

import collections
import os
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from equiscale.data import nci, xtb
from equiscale.data.cache import cache_path, random_seed, read_arrays, write_arrays
from equiscale.data.force_frames import ForceFrames, ForceRecord, from_records
from equiscale.data.grown import CHUNK, grown
from equiscale.data.molecules import BadMolecule, Skipped, atomic_number, import_rdkit
from equiscale.data.thermal import mmff_forces, sample

ELEMENTS = ("H", "C", "N", "O", "F", "P", "S", "Cl", "Br", "I")  # SPICE's, of neutral molecules
FORMAT = 1  # part of the cache key: raise it when the same settings come to make other frames


def load(
    n_frames: int = 10_000,
    *,
    elements: Sequence[str] = ELEMENTS,
    max_atoms: int = 50,
    conformers: int = 2,
    temperatures: tuple[float, ...] = (100.0, 500.0),
    snapshots: int = 2,
    seed: int = 0,
    processes: int | None = None,
    cache_dir: str | os.PathLike | None = None,
    progress: bool = True,
) -> tuple[ForceFrames, Skipped]:
    """The first `n_frames` of the set, and the report on the frames that were to be made up to there.

    Compounds come in the list's order, each with `snapshots` frames at every one of `temperatures` of each of
    `conformers`, grouped by the compound's canonical SMILES. What is made is kept in `cache_dir` (see
    `cache.cache_path`) in files of 8 compounds, written whole or not at all: a run that ends early goes on from there.
    `processes` share the work, by default one per core, at about 20 frames a second each.

    Raises ImportError without RDKit or tblite; ValueError for a setting below 1 or more frames than the list gives.
    """
    import_rdkit()
    xtb.import_tblite()
    from rdkit import rdBase

    settings = {
        "format": FORMAT,
        "rdkit": rdBase.rdkitVersion,
        "tblite": version("tblite"),
        "elements": sorted({atomic_number(symbol) for symbol in elements}),
        "max_heavy_atoms": None,
        "max_atoms": max_atoms,
        "conformers": conformers,
        "relax": True,
        "temperatures": list(temperatures),
        "snapshots": snapshots,
        "seed": seed,
        "chunk": CHUNK,
    }
    for name, value in (
        ("n_frames", n_frames),
        ("max_atoms", max_atoms),
        ("conformers", conformers),
        ("snapshots", snapshots),
    ):
        if value < 1:
            raise ValueError(f"{name}={value}: give at least 1")
    if not temperatures or min(temperatures) <= 0:
        raise ValueError(f"temperatures={temperatures}: give one or more, above 0 K")
    records, report = _made(n_frames, cache_path("xtb", settings, cache_dir), settings, processes, progress)
    if len(records) < n_frames:
        raise ValueError(f"n_frames={n_frames}: the list gives no more ({report}); raise conformers or snapshots")
    source = f"NCI first 5K, MMFF94 at {temperatures} K, GFN2-xTB, seed {seed}, RDKit {settings['rdkit']}"
    return from_records(records[:n_frames], source), Skipped(n_frames, report.reasons)


def _made(
    n_frames: int, folder: Path, settings: dict, processes: int | None, progress: bool
) -> tuple[list[ForceRecord], Skipped]:
    """At least `n_frames` frames, or all that the list gives: first what the folder holds, then new ones."""
    how = {"each": _each(settings), "processes": processes, "progress": progress, "unit": "frame"}
    files = grown(n_frames, folder, settings, _chunk, **how)
    records = [record for arrays, about in files for record in _records(arrays, about["names"])]
    reasons = sum((collections.Counter(about["reasons"]) for _, about in files), collections.Counter())
    return records, Skipped(len(records), dict(reasons))


def _each(settings: dict) -> int:
    """Frames of one compound."""
    return settings["conformers"] * len(settings["temperatures"]) * settings["snapshots"]


def _chunk(wanted: tuple[Path, list[str], dict]) -> tuple[dict, dict]:
    """The frames of some compounds, from their file or made and written to it."""
    from rdkit import Chem, rdBase

    path, names, settings = wanted
    if (found := read_arrays(path)) is not None:
        return found
    compounds, frames, reasons = [], [], collections.Counter()
    with rdBase.BlockLogs():
        for i, name in enumerate(names):
            made = _geometries(name, Chem.AddHs(Chem.MolFromSmiles(name)), settings)
            if isinstance(made, str):
                reasons[made] += _each(settings)
                continue
            numbers, positions = made
            for xyz in positions:
                try:
                    frames.append((numbers, xyz, *xtb.label(numbers, xyz)))
                    compounds.append(i)
                except BadMolecule as error:
                    reasons[error.reason] += 1
    arrays = {
        "compound": np.array(compounds, int),
        "lengths": np.array([len(numbers) for numbers, *_ in frames], int),
        "species": np.concatenate([np.zeros(0, int), *(numbers for numbers, *_ in frames)]),
        "positions": np.concatenate([np.zeros((0, 3), np.float32), *(xyz for _, xyz, *_ in frames)]),
        "energies": np.array([energy for *_, energy, _ in frames], float),
        "forces": np.concatenate([np.zeros((0, 3)), *(forces for *_, forces in frames)]),
    }
    about = {"names": names, "reasons": dict(reasons)}
    write_arrays(path, arrays, about)
    return arrays, about


def _geometries(name: str, compound, settings: dict) -> tuple[np.ndarray, np.ndarray] | str:
    """Atomic numbers and float32 positions [frames, n_atoms, 3] in angstrom, centred, or why there are none."""
    if compound.GetNumAtoms() > settings["max_atoms"]:
        return f"of more than {settings['max_atoms']} atoms"
    relaxed = nci.embed(name, compound, settings)
    if isinstance(relaxed, str):
        return relaxed
    numbers, starts = relaxed
    masses = np.array([atom.GetMass() for atom in compound.GetAtoms()])
    found = []
    for conformer, start in enumerate(starts):
        rng = np.random.default_rng(random_seed(settings["seed"], name, conformer, "dynamics"))
        forces = mmff_forces(compound, conformer)
        found.append(sample(forces, start, masses, settings["temperatures"], settings["snapshots"], rng))
    positions = np.concatenate(found)
    if not np.isfinite(positions).all():
        return "whose dynamics ran away"
    # Labels belong to the positions as they are stored.
    return numbers, (positions - positions.mean(axis=1, keepdims=True)).astype(np.float32)


def _records(arrays: dict, names: list[str]) -> Iterator[ForceRecord]:
    ends = np.cumsum(arrays["lengths"])
    for i, (end, n) in enumerate(zip(ends, arrays["lengths"], strict=True)):
        name, atoms = names[arrays["compound"][i]], slice(end - n, end)
        label = arrays["energies"][i], arrays["forces"][atoms]
        yield ForceRecord(f"{name}, frame {i}", name, arrays["species"][atoms], arrays["positions"][atoms], *label)
