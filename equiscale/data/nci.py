"""Real compounds without a download: the NCI list inside RDKit, with ETKDG conformers.

The list (`RDConfig.RDDataDir/NCI/first_5K.smi`, National Cancer Institute) holds 4,999 compounds. Of
each the largest fragment is taken, all hydrogens are made explicit and ETKDGv3 (Wang et al., J. Chem.
Inf. Model. 2020, 60, 2044) places the atoms. Left out are ions: the list's are permanent (quaternary
nitrogen), and `Molecules` stores no charge.

A geometry depends on the canonical SMILES, the seed and the RDKit version only: not on the order of
work, the number of workers or the other compounds. Its pose is far from random: ETKDG lays the long
axis along x and the short one along z (70, 20 and 10 % of the second moment). Training without
augmentation sees these poses; `equiscale.groups` draws uniform ones.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from equiscale.data.cache import cache_path, random_seed, read_arrays, write_arrays
from equiscale.data.molecules import (
    SYMBOLS,
    Molecules,
    Skipped,
    atomic_number,
    from_records,
    import_rdkit,
    tally,
)

FORMAT = 1  # part of the cache key: raise it when the same settings come to make other molecules
MMFF_ITERATIONS = 2_000


def load(
    elements: Sequence[str],
    *,
    limit: int | None = None,
    max_heavy_atoms: int | None = None,
    conformers: int = 1,
    relax: bool = False,
    seed: int = 0,
    workers: int | None = None,
    cache_dir: str | os.PathLike | None = None,
    progress: bool = True,
) -> tuple[Molecules, Skipped]:
    """The list's compounds made of `elements` only, in its order, and the report on the others.

    `limit` stops after the first so many usable compounds; the report then covers the list up to
    there. Each compound has `conformers` rows in a row under one name, its canonical SMILES. `relax`
    minimises them with MMFF94, at twice the time. `workers` threads share the work, by default one
    per core: RDKit computes outside the interpreter lock, and threads are safe beside JAX where
    forked processes are not.

    The result is kept in `cache_dir`, by default the environment's EQUISCALE_CACHE or
    ~/.cache/equiscale, in one file per settings. A damaged file is named in a warning and made again.

    Raises ImportError without RDKit; ValueError for an unknown element, a number below 1, or a
    `limit` the list cannot fill.
    """
    import_rdkit()
    from rdkit import rdBase

    for name, value in (
        ("limit", limit),
        ("max_heavy_atoms", max_heavy_atoms),
        ("conformers", conformers),
        ("workers", workers),
    ):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: give at least 1")
    settings = {
        "format": FORMAT,
        "rdkit": rdBase.rdkitVersion,
        "elements": sorted({atomic_number(symbol) for symbol in elements}),
        "limit": limit,
        "max_heavy_atoms": max_heavy_atoms,
        "conformers": conformers,
        "relax": relax,
        "seed": seed,
    }
    path = cache_path("nci", settings, cache_dir).with_suffix(".npz")
    found = read_arrays(path)
    if found is None:
        molecules, report = _make(settings, workers, progress)
        arrays = {"positions": molecules.positions, "species": molecules.species, "names": np.array(molecules.names)}
        write_arrays(path, arrays, {"source": molecules.source, "kept": report.kept, "reasons": report.reasons})
    else:
        arrays, about = found
        names = tuple(arrays["names"].tolist())
        molecules = Molecules(arrays["positions"], arrays["species"], names, about["source"])
        report = Skipped(about["kept"], about["reasons"])
    if limit is not None and report.kept < limit:
        raise ValueError(f"limit={limit}: the list cannot fill it ({report}); give a lower one or None")
    return molecules, report


def _make(settings: dict, workers: int | None, progress: bool) -> tuple[Molecules, Skipped]:
    from rdkit import rdBase

    limit, records, outcomes = settings["limit"], [], []
    usable = compounds(settings, outcomes)
    with rdBase.BlockLogs(), ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        # Read as many as are still wanted, then embed them: reading is cheap, and few fail to embed.
        while block := list(itertools.islice(usable, limit and limit - outcomes.count(None))):
            results = pool.map(lambda named: embed(*named, settings), block)
            bar = tqdm(results, "NCI conformers", len(block), disable=not progress, unit="compound")
            for (name, _), result in zip(block, bar, strict=True):
                if isinstance(result, str):
                    outcomes.append(result)
                else:
                    outcomes.append(None)
                    numbers, positions = result
                    records.extend((name, numbers, xyz) for xyz in positions)
    report = tally(outcomes)
    if not records:
        raise ValueError(f"no compound of the NCI list is usable ({report}): widen elements or limits")
    relaxed = " + MMFF94" if settings["relax"] else ""
    source = f"NCI first 5K, ETKDGv3{relaxed} seed {settings['seed']}, RDKit {settings['rdkit']}"
    return from_records(records, source), report


def compounds(settings: dict, outcomes: list) -> Iterator[tuple]:
    """(canonical SMILES, molecule with hydrogens) of usable lines; why not the others to `outcomes`.

    Usable is what is made of `settings["elements"]`, atomic numbers, with at most `settings["max_heavy_atoms"]`.
    """
    from rdkit import Chem, RDConfig

    listed = Path(RDConfig.RDDataDir, "NCI", "first_5K.smi").read_text().splitlines()
    seen = set()
    for line in listed:
        whole = Chem.MolFromSmiles(line.split("\t")[0])
        if whole is None:
            outcomes.append("unreadable to RDKit")
            continue
        fragments = Chem.GetMolFrags(whole, asMols=True)
        name = Chem.MolToSmiles(max(fragments, key=lambda fragment: fragment.GetNumHeavyAtoms()))
        compound = Chem.MolFromSmiles(name)  # numbered by its name alone, whatever the list's spelling
        reason = _objection(compound, settings)
        if reason is None and name in seen:
            reason = "repeating an earlier compound"
        if reason is None:
            seen.add(name)
            yield name, Chem.AddHs(compound)
        else:
            outcomes.append(reason)


def _objection(compound, settings: dict) -> str | None:
    """Why a compound is not wanted, or None."""
    from rdkit import Chem

    if compound is None:
        return "unreadable to RDKit"
    atoms = list(compound.GetAtoms())
    held = {atom.GetAtomicNum() for atom in atoms} | {1 for atom in atoms if atom.GetTotalNumHs()}
    if not held <= set(settings["elements"]):
        return f"holding an element outside {' '.join(SYMBOLS[n] for n in settings['elements'])}"
    most = settings["max_heavy_atoms"]
    if most is not None and compound.GetNumHeavyAtoms() > most:
        return f"of more than {most} heavy atoms"
    if Chem.GetFormalCharge(compound):
        return "carrying a net charge"
    if any(atom.GetNumRadicalElectrons() for atom in atoms):
        return "with an unpaired electron"
    return None


def embed(name: str, compound, settings: dict) -> tuple[np.ndarray, np.ndarray] | str:
    """Atomic numbers [n_atoms] and positions [conformers, n_atoms, 3] in angstrom, or why not.

    Of the settings: `conformers`, `relax` and `seed`. The conformers stay in `compound` too, numbered from 0.
    """
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

    embedding = rdDistGeom.ETKDGv3()
    embedding.clearConfs = False
    for conformer in range(settings["conformers"]):
        # RDKit's own rule, seed times conformer, gives every conformer of seed 0 the same numbers.
        embedding.randomSeed = random_seed(settings["seed"], name, conformer)
        if rdDistGeom.EmbedMolecule(compound, embedding) < 0:
            return "ETKDG cannot embed"
    if settings["relax"]:
        if not rdForceFieldHelpers.MMFFHasAllMoleculeParams(compound):
            return "without MMFF94 parameters"
        runs = rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(compound, maxIters=MMFF_ITERATIONS)
        if any(unfinished for unfinished, _ in runs):
            return f"not relaxed after {MMFF_ITERATIONS} MMFF94 steps"
    numbers = np.array([atom.GetAtomicNum() for atom in compound.GetAtoms()], np.int32)
    return numbers, np.stack([conformer.GetPositions() for conformer in compound.GetConformers()])
