"""Energies, forces, moments and orbitals by GFN2-xTB, through tblite (Bannwarth et al., J. Chem. Theory Comput. 2019,
15, 1652).

A label depends on the atoms and their positions only, and turns with them to rounding: each is computed from scratch,
on one thread. With several threads the last digits of sums differ from call to call.
"""

import collections
import contextlib
import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from jaxtyping import Float, Int
from scipy import constants
from scipy.spatial.transform import Rotation

from equiscale.data.force_frames import ForceRecord
from equiscale.data.force_units import BOHR, FORCES, HARTREE
from equiscale.data.molecules import BadMolecule, check_record
from equiscale.data.properties import Quantity

BATCH = 16  # records that a process gets at a time
DEBYE = constants.elementary_charge * BOHR * 1e-10 * constants.speed_of_light * 1e21  # in one e bohr
# In which diagonals determine a symmetric tensor.
FRAMES = Rotation.from_euler("zyx", [[0, 0, 0], [45, 0, 45], [0, 45, 45]], degrees=True).as_matrix()


def import_tblite():
    """`tblite.interface`, or an ImportError that says how to get it."""
    try:
        import tblite.interface
    except ImportError as error:
        raise ImportError("GFN2-xTB needs tblite: pip install 'equiscale[forces]'") from error
    return tblite.interface


def label(
    numbers: Int[np.ndarray, " n_atoms"], positions: Float[np.ndarray, "n_atoms 3"], charge: int = 0, unpaired: int = 0
) -> tuple[float, Float[np.ndarray, "n_atoms 3"]]:
    """Energy in eV and forces in eV/angstrom of a molecule, at positions in angstrom.

    `charge` in e and `unpaired` electrons are the molecule's. Raises BadMolecule where the self-consistency does not
    converge or the method fails; ImportError without tblite.
    """
    result = _singlepoint(numbers, positions, charge, unpaired)
    return result.get("energy") * HARTREE, -result.get("gradient") * FORCES["hartree/bohr"]


QUANTITIES = {
    "dipole": Quantity("D", "vector"),
    "quadrupole": Quantity("D Å", "tensor"),
    "homo": Quantity("eV", "scalar"),
    "lumo": Quantity("eV", "scalar"),
    "gap": Quantity("eV", "scalar"),
}


def quantities(
    numbers: Int[np.ndarray, " n_atoms"], positions: Float[np.ndarray, "n_atoms 3"]
) -> dict[str, Float[np.ndarray, "..."]]:
    """Those of `QUANTITIES` of a neutral closed-shell molecule, at positions in angstrom.

    The quadrupole is Buckingham's, traceless [3, 3]: half the sum of charge times (3 r r' - r^2), about the centroid of
    the atoms, since it depends on the origin where there is a dipole. It takes three calculations: of the quadrupole
    that tblite 0.8 gives only the diagonal turns with the molecule (off it a part is counted twice), and the diagonals
    in three frames determine it.

    Raises what `label` raises, and ValueError where the diagonals are no tensor's.
    """
    positions = np.asarray(positions, float)
    positions = positions - positions.mean(axis=0)
    results = [_singlepoint(numbers, positions @ frame.T) for frame in FRAMES]
    energies = results[0].get("orbital-energies") * HARTREE
    occupations = results[0].get("orbital-occupations")
    filled = np.count_nonzero(occupations > 1)
    if not 0 < filled < len(energies) or np.abs(occupations - 1).min() < 0.5:
        told = f"GFN2-xTB at {len(numbers)} atoms, orbitals filled by {occupations.round(2).tolist()}: no gap"
        raise BadMolecule("without a gap", told)
    homo, lumo = energies[filled - 1], energies[filled]
    quadrupole = from_diagonals(np.stack([result.get("quadrupole")[[0, 2, 5]] for result in results]))
    return {
        "dipole": results[0].get("dipole") * DEBYE,
        "quadrupole": quadrupole * DEBYE * BOHR,
        "homo": homo,
        "lumo": lumo,
        "gap": lumo - homo,
    }


def from_diagonals(found: Float[np.ndarray, "frames 3"], tolerance: float = 1e-4) -> Float[np.ndarray, "3 3"]:
    """The symmetric tensor that has these diagonals in `FRAMES`.

    Raises ValueError where they are those of none, by more than `tolerance` of their size.
    """
    places = np.triu_indices(3)
    basis = np.zeros((6, 3, 3))
    basis[range(6), places[0], places[1]] = basis[range(6), places[1], places[0]] = 1
    seen = np.einsum("fia,bac,fic->fib", FRAMES, basis, FRAMES).reshape(-1, 6)
    solution = np.linalg.lstsq(seen, found.ravel())[0]
    left = np.abs(seen @ solution - found.ravel()).max()
    if left > tolerance * max(np.abs(found).max(), 1):
        raise ValueError(f"diagonals {found.tolist()} are of no tensor, {left:.2g} away: does this tblite give others?")
    return np.einsum("b,bij->ij", solution, basis)


def _singlepoint(numbers, positions, charge: int = 0, unpaired: int = 0):
    """What tblite finds; raises what `label` raises."""
    tblite = import_tblite()
    positions = np.asarray(positions, float)
    try:
        calculator = tblite.Calculator("GFN2-xTB", np.asarray(numbers), positions / BOHR, float(charge), unpaired)
        calculator.set("verbosity", 0)
        return calculator.singlepoint()
    except Exception as error:  # tblite's kinds, which it says nothing common of
        reason = (
            "whose self-consistency does not converge" if "not converged" in str(error) else "that GFN2-xTB refuses"
        )
        raise BadMolecule(reason, f"GFN2-xTB at {len(numbers)} atoms: {error}") from error


def labelled(
    records: Iterable[ForceRecord | BadMolecule], processes: int | None = None
) -> Iterator[ForceRecord | BadMolecule]:
    """The records in their order, those without energy and forces labelled, by default on every core.

    One that cannot be labelled becomes a BadMolecule; labels that a file has stay.
    """
    records = iter(records)
    batches = iter(lambda: list(itertools.islice(records, BATCH)), [])
    with workers(processes) as pool:
        for batch in in_order(pool, _label_all, batches):
            yield from batch


def _label_all(records: list[ForceRecord | BadMolecule]) -> list[ForceRecord | BadMolecule]:
    return [_label_one(record) for record in records]


def _label_one(record: ForceRecord | BadMolecule) -> ForceRecord | BadMolecule:
    if isinstance(record, BadMolecule) or record.energy is not None or record.forces is not None:
        return record
    try:
        numbers, positions = check_record(record.where, record.elements, record.positions)
        energy, forces = label(numbers, positions, record.charge, record.unpaired)
    except BadMolecule as error:
        return BadMolecule(error.reason, f"{record.where}: {error}")
    return record._replace(energy=energy, forces=forces)


@contextlib.contextmanager
def workers(processes: int | None = None) -> Iterator[ProcessPoolExecutor]:
    """`processes` that compute on one thread each, by default one per core; what has not begun at the end is dropped.

    They start afresh rather than as copies, which are not safe beside JAX: a script that needs them guards its own
    start by `if __name__ == "__main__"`. Raises ValueError for a number below 1.
    """
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_one_thread)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def in_order(pool: ProcessPoolExecutor, function: Callable, items: Iterable, ahead: int = 64) -> Iterator:
    """`function` of each item in their order; the items are drawn at most `ahead` of what is computed."""
    waiting = collections.deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _one_thread() -> None:
    """Before tblite is loaded: its libraries read these once."""
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
