"""From atoms in space to molecules with bonds: RDKit's connectivity, and bond orders that are exact for it.

Which atoms are bonded comes from distances, by RDKit's connect-the-dots rule (sum of covalent radii + 0.45 angstrom).
The bond orders then are those of least penalty, after Wang et al., J. Mol. Graph. Model. 25, 247 (2006), found as an
integer linear program, after Dehof et al., Bioinformatics 27, 619 (2011). RDKit's own `DetermineBondOrders` gives a
tenth of drug-like molecules another structure (sulfur above all), may run for ever, and gives up on a whole molecule
for one bad atom; generated molecules have many.

Every atom is meant to carry all its hydrogens, as in `Molecules`: what is missing shows as a radical.
"""

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from equiscale.data.molecules import SYMBOLS, Molecules, Skipped, import_rdkit, tally

MAX_ATOMS = 999  # what a V2000 mol block holds
# The states an atom may be in: (valence, formal charge, penalty). Elements not here take RDKit's valences, uncharged.
STATES = {
    1: [(1, 0, 0.0)],
    5: [(3, 0, 0.0), (4, -1, 1.0)],
    6: [(4, 0, 0.0), (3, -1, 3.0)],
    7: [(3, 0, 0.0), (4, 1, 1.0), (2, -1, 0.9)],
    8: [(2, 0, 0.0), (1, -1, 1.0), (3, 1, 3.0)],
    9: [(1, 0, 0.0)],
    14: [(4, 0, 0.0)],
    15: [(3, 0, 0.0), (5, 0, 1.0), (4, 1, 3.0)],
    16: [(2, 0, 0.0), (4, 0, 1.0), (6, 0, 1.5), (1, -1, 1.3), (3, 1, 3.0)],
    17: [(1, 0, 0.0), (3, 0, 3.0), (5, 0, 4.0), (7, 0, 5.0)],
    33: [(3, 0, 0.0), (5, 0, 1.0)],
    34: [(2, 0, 0.0), (4, 0, 1.0), (6, 0, 1.5), (1, -1, 1.3), (3, 1, 3.0)],
    35: [(1, 0, 0.0), (3, 0, 3.0), (5, 0, 4.0)],
    53: [(1, 0, 0.0), (3, 0, 3.0), (5, 0, 4.0), (7, 0, 5.0)],
}
UNFILLED = 10.0  # penalty of each valence left open, and of an uncharged atom with one bond too many
INNER_ANION = 0.6  # added to a negative atom of several bonds: R-N=[N+]=[N-] before R-[N-]-[N+]#N
LENGTH = 0.05  # per further order of a bond, times its length over the covalent radii: among equals, the shorter
# Elements that can hold more bonds than these, and so keep every contact for one. Beyond these they keep bonds up to a
# length over the covalent radii: in real molecules S...O contacts reach down to 1.11, and bonds up to 1.05.
ORDINARY = {9: 1, 15: 3, 16: 2, 17: 1, 33: 3, 34: 2, 35: 1, 53: 1}
CONTACT = 1.1
SOLVER = {"node_limit": 1_000, "time_limit": 1.0}  # real molecules and random atoms take about 1 node and 5 ms


def perceive(molecules: Molecules, *, workers: int | None = None) -> tuple[list, Skipped]:
    """RDKit molecules with bonds, one for each of `molecules` or None, and how many are None for which reason.

    They hold the atoms in their order, bonds of order 1, 2 or 3 (Kekule), formal charges where a fragment needs them
    to be uncharged as a whole (nitro groups, N-oxides, azides) and a conformer in angstrom. No hydrogen is implied, no
    stereochemistry marked. They are not sanitised, so that impossible ones are here too: `sanitised` does it.

    None stands for atoms that no bonds can be assigned to: none or more than 999 of them, a position that is not
    finite, an element that does not exist, more resonance structures than the solver has time for.
    `workers` threads share the work, by default one per core: RDKit and the solver compute outside the interpreter
    lock.

    Raises ImportError without RDKit; ValueError for `workers` below 1.
    """
    import_rdkit()
    from rdkit import rdBase

    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers}: give at least 1")
    rows = zip(molecules.species, molecules.positions, strict=True)
    with rdBase.BlockLogs(), ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        outcomes = list(pool.map(lambda row: _perceive(*row), rows))
    report = tally(outcome if isinstance(outcome, str) else None for outcome in outcomes)
    return [None if isinstance(outcome, str) else outcome for outcome in outcomes], report


def sanitised(molecule):
    """A copy that passed RDKit's sanitisation (valences, rings, aromaticity), or as a str the reason why none does."""
    chem = import_rdkit()
    from rdkit import rdBase

    copy = chem.Mol(molecule)
    try:
        with rdBase.BlockLogs():
            chem.SanitizeMol(copy)
    except chem.AtomValenceException:
        return "holding an atom of impossible valence"
    except (chem.MolSanitizeException, RuntimeError):
        return "failing RDKit's sanitisation"
    return copy


def write_sdf(path: str | os.PathLike, molecules: Molecules, *, workers: int | None = None) -> Skipped:
    """Writes an SDF file, one entry per molecule with its name as title, and reports what could not be written.

    The property `bonds` says "perceived", or for a molecule that fails sanitisation "connectivity only" and why: its
    bonds are all single and its atoms uncharged. What `perceive` gives no molecule for is left out and counted. The
    file is moved into place when it is whole.

    Raises ImportError without RDKit; OSError where the folder is not there or cannot be written to.
    """
    chem = import_rdkit()
    from rdkit import rdBase

    path = Path(path)
    perceived, report = perceive(molecules, workers=workers)
    handle, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with rdBase.BlockLogs(), os.fdopen(handle, "w") as file:
            for name, molecule in zip(molecules.names, perceived, strict=True):
                if molecule is not None:
                    outcome = sanitised(molecule)
                    bonds = "perceived"
                    if isinstance(outcome, str):
                        bonds = f"connectivity only: {outcome}"
                        molecule = _connectivity_only(molecule)
                    molecule.SetProp("_Name", " ".join(name.split()))  # a title is one line
                    file.write(chem.MolToMolBlock(molecule, kekulize=False))
                    file.write(f"> <bonds>\n{bonds}\n\n$$$$\n")
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise
    return report


def _perceive(species: np.ndarray, positions: np.ndarray):
    """One molecule from a padded row, or the reason why not."""
    from rdkit import Chem
    from rdkit.Chem import rdDetermineBonds

    real = species != 0
    numbers, xyz = species[real], positions[real].astype(float)
    if not 0 < len(numbers) <= MAX_ATOMS:
        return "without atoms" if not len(numbers) else f"with more than {MAX_ATOMS} atoms"
    if not np.isfinite(xyz).all():
        return "with a position that is not finite"
    if not ((numbers > 0) & (numbers < len(SYMBOLS))).all():
        return "holding an unknown element"
    molecule = Chem.RWMol()
    for number in numbers.tolist():
        atom = Chem.Atom(number)
        atom.SetNoImplicit(True)
        molecule.AddAtom(atom)
    conformer = Chem.Conformer(len(numbers))
    conformer.SetPositions(xyz)
    molecule.AddConformer(conformer)
    try:
        rdDetermineBonds.DetermineConnectivity(molecule)
    except (RuntimeError, ValueError):
        return "whose connectivity RDKit cannot tell"
    bonds = np.array([(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in molecule.GetBonds()], int).reshape(-1, 2)
    stretch = _stretch(numbers, xyz, bonds)
    bonded = _without_contacts(numbers, bonds, stretch)
    for i, j in bonds[~bonded].tolist():
        molecule.RemoveBond(i, j)
    bonds, stretch = bonds[bonded], stretch[bonded]
    fragments = np.zeros(len(numbers), int)
    for fragment, atoms in enumerate(Chem.GetMolFrags(molecule)):
        fragments[list(atoms)] = fragment
    assigned = _bond_orders(numbers, bonds, stretch, fragments)
    if assigned is None:
        return "whose bond orders were not found in time"
    orders, charges = assigned
    kinds = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}
    for (i, j), order in zip(bonds.tolist(), orders.tolist(), strict=True):
        molecule.GetBondBetweenAtoms(i, j).SetBondType(kinds[order])
    for atom, charge in zip(molecule.GetAtoms(), charges.tolist(), strict=True):
        atom.SetFormalCharge(charge)
    molecule.UpdatePropertyCache(strict=False)
    return molecule.GetMol()


def _stretch(numbers: np.ndarray, xyz: np.ndarray, bonds: np.ndarray) -> np.ndarray:
    """Length of each bond over the sum of its atoms' covalent radii."""
    from rdkit import Chem

    table = Chem.GetPeriodicTable()
    radii = np.array([table.GetRcovalent(number) for number in numbers.tolist()])
    return np.linalg.norm(xyz[bonds[:, 0]] - xyz[bonds[:, 1]], axis=1) / radii[bonds].sum(1)


def _without_contacts(numbers: np.ndarray, bonds: np.ndarray, stretch: np.ndarray) -> np.ndarray:
    """Which bonds are none of a contact, bool: the most stretched goes first, while its atom has too many."""
    kept = np.ones(len(bonds), bool)
    degrees = np.bincount(bonds.ravel(), minlength=len(numbers))
    ordinary = np.array([ORDINARY.get(number, MAX_ATOMS) for number in numbers.tolist()])
    for k in np.argsort(-stretch, kind="stable"):
        if stretch[k] <= CONTACT:
            break
        if (degrees[bonds[k]] > ordinary[bonds[k]]).any():
            kept[k] = False
            degrees[bonds[k]] -= 1
    return kept


def _states(number: int, degree: int) -> list[tuple[int, int, float]]:
    """The states open to an atom with so many bonds: always one that is uncharged, so that no molecule has none."""
    from rdkit import Chem

    known = STATES.get(number)
    if known is None:
        valences = Chem.GetPeriodicTable().GetValenceList(number)
        known = [(valence, 0, float(rank)) for rank, valence in enumerate(valences) if valence >= 0]
    states = [
        (valence, charge, penalty + INNER_ANION * (charge < 0 and degree > 1))
        for valence, charge, penalty in known
        if valence >= degree
    ]
    if not any(charge == 0 for _, charge, _ in states):
        states.append((degree, 0, UNFILLED))
    return states


def _bond_orders(
    numbers: np.ndarray, bonds: np.ndarray, stretch: np.ndarray, fragments: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Orders of bonds (1, 2, 3) and charges of atoms of the least penalty, or None where the solver gives up.

    Unknown are an order beyond the first x_b for each bond, one state s for each atom and the valences u it leaves
    open: degree + sum_b x_b + u = valence(s), with the charges of each fragment summing to 0.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    n_atoms = len(numbers)
    degrees = np.bincount(bonds.ravel(), minlength=n_atoms)
    states = [_states(*atom) for atom in zip(numbers.tolist(), degrees.tolist(), strict=True)]
    room = np.array([max(valence for valence, _, _ in of_atom) for of_atom in states]) - degrees
    open_bonds = np.flatnonzero((room[bonds] > 0).all(1))
    undecided = np.flatnonzero((room > 0) | np.array([len(of_atom) > 1 for of_atom in states]))
    orders, charges = np.ones(len(bonds), int), np.zeros(n_atoms, int)
    if not len(undecided):
        return orders, charges
    # Rows of the program: each undecided atom's valence, its one state, then each fragment's charge.
    place = {atom: row for row, atom in enumerate(undecided.tolist())}
    n_rows = 2 * len(place) + fragments.max() + 1
    entries, costs, upper, integral, chosen = [], [], [], [], []
    for b in open_bonds.tolist():
        entries += [(place[atom], len(costs), 1) for atom in bonds[b].tolist()]
        costs.append(LENGTH * stretch[b])
        upper.append(min(2, *room[bonds[b]]))
        integral.append(1)
    for atom, row in place.items():
        for valence, charge, penalty in states[atom]:
            entries += [(row, len(costs), -valence), (len(place) + row, len(costs), 1)]
            if charge:
                entries.append((2 * len(place) + fragments[atom], len(costs), charge))
            chosen.append((atom, charge, len(costs)))
            costs.append(penalty)
            upper.append(1)
            integral.append(1)
        entries.append((row, len(costs), 1))
        costs.append(UNFILLED)
        upper.append(np.inf)
        integral.append(0)
    rows, columns, values = zip(*entries, strict=True)
    matrix = coo_array((values, (rows, columns)), shape=(n_rows, len(costs))).tocsc()
    wanted = np.zeros(n_rows)
    wanted[: len(place)] = -degrees[undecided]
    wanted[len(place) : 2 * len(place)] = 1
    found = milp(
        costs,
        integrality=integral,
        bounds=Bounds(0, upper),
        constraints=LinearConstraint(matrix, wanted, wanted),
        options=SOLVER,
    )
    if found.x is None:
        return None
    orders[open_bonds] += np.rint(found.x[: len(open_bonds)]).astype(int)
    for atom, charge, column in chosen:
        charges[atom] += charge * round(found.x[column])
    return orders, charges


def _connectivity_only(molecule):
    """A copy with single bonds and no charges."""
    from rdkit import Chem

    copy = Chem.Mol(molecule)
    for bond in copy.GetBonds():
        bond.SetBondType(Chem.BondType.SINGLE)
    for atom in copy.GetAtoms():
        atom.SetFormalCharge(0)
    return copy
