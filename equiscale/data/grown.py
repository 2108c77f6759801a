"""Sets made compound by compound in files, so that a run that ends early goes on from where it was."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from equiscale.data import nci, xtb
from equiscale.data.cache import read_arrays

CHUNK = 8  # compounds in one file
Found = tuple[dict[str, Any], dict[str, Any]]  # what a file holds: arrays, of them "lengths" one an example, and about
Make = Callable[[tuple[Path, Sequence[str], dict]], Found]  # of a file's path, its compounds' names, and settings


def grown(
    n: int, folder: Path, settings: dict, make: Make, *, each: int, processes: int | None, progress: bool, unit: str
) -> list[Found]:
    """What the files hold until they have `n` examples, or all that the list gives: first those there are, then new.

    `make` reads a file or makes and writes it, in one of `processes`; `each` are the examples of a good compound.
    """
    from rdkit import rdBase

    files: list[Found] = []
    have = 0
    with tqdm(total=n, desc="GFN2-xTB", unit=unit, disable=not progress) as bar:

        def take(found: Found) -> None:
            nonlocal have
            files.append(found)
            have += len(found[0]["lengths"])
            bar.update(min(have, n) - bar.n)

        while have < n and (found := read_arrays(folder / f"{len(files):05}.npz")) is not None:
            take(found)
        if have < n:
            with rdBase.BlockLogs():
                names = [name for name, _ in nci.compounds(settings, [])]
            with xtb.workers(processes) as pool:
                while have < n and len(files) * CHUNK < len(names):
                    more = -(-(n - have) // (CHUNK * each))  # were every compound good
                    chunks = range(len(files), min(len(files) + more, -(-len(names) // CHUNK)))
                    wanted = [(folder / f"{k:05}.npz", names[k * CHUNK : (k + 1) * CHUNK], settings) for k in chunks]
                    for found in xtb.in_order(pool, make, wanted):
                        take(found)
    return files
