"""Units and sign of forces: the way to angstrom, eV and eV/angstrom, and a check that frames are there already.

Data that is wrong by a unit or a sign trains without complaint. `check_units` measures the frames (see
`force_evidence`) and tries every reading of their numbers: which units of energy and force, forces or gradients. Where
the expected one fits, all is well; where only others do, the frames are to be refused, with the units to read them
with. Where several fit, the frames cannot tell, and the check says so.
"""

import itertools
from typing import Literal, NamedTuple

import numpy as np
from scipy import constants

from equiscale.data import force_evidence
from equiscale.data.force_evidence import Measured
from equiscale.data.force_frames import ForceFrames, ForceRecord

EV, MOLE = constants.electron_volt, constants.Avogadro
BOHR = constants.physical_constants["Bohr radius"][0] * 1e10
HARTREE = constants.physical_constants["Hartree energy in eV"][0]

LENGTHS = {"angstrom": 1.0, "bohr": BOHR, "nm": 10.0}  # in angstrom
ENERGIES = {  # in eV
    "eV": 1.0,
    "kcal/mol": constants.calorie * 1e3 / MOLE / EV,
    "kJ/mol": 1e3 / MOLE / EV,
    "hartree": HARTREE,
    "rydberg": HARTREE / 2,
    "meV": 1e-3,
}
FORCES = {f"{e}/{r}": ENERGIES[e] / LENGTHS[r] for e in ENERGIES for r in ("angstrom", "bohr")}  # in eV/angstrom
FORCES["kJ/mol/nm"] = ENERGIES["kJ/mol"] / LENGTHS["nm"]


class Units(NamedTuple):
    """What a file's numbers mean; `gradients` where its "forces" are derivatives of the energy, of the opposite sign.

    >>> Units(energy="kcal/mol", force="kcal/mol/angstrom").factors()
    (1.0, 0.0433..., 0.0433...)
    """

    length: str = "angstrom"
    energy: str = "eV"
    force: str = "eV/angstrom"
    gradients: bool = False

    def factors(self) -> tuple[float, float, float]:
        """What to multiply lengths, energies and forces by. Raises ValueError naming a unit that is not known."""
        for name, unit, known in (
            ("length", self.length, LENGTHS),
            ("energy", self.energy, ENERGIES),
            ("force", self.force, FORCES),
        ):
            if unit not in known:
                raise ValueError(f"unknown unit of {name} {unit!r}: give one of {', '.join(known)}")
        force = FORCES[self.force]
        return LENGTHS[self.length], ENERGIES[self.energy], -force if self.gradients else force

    def converted(self, record: ForceRecord) -> ForceRecord:
        """A record whose numbers are in these units, in angstrom, eV and eV/angstrom."""
        if self == Units():
            return record
        length, energy, force = self.factors()

        def scaled(value, factor):
            return None if value is None else value * factor

        return record._replace(
            positions=record.positions * length,
            cell=scaled(record.cell, length),
            energy=scaled(record.energy, energy),
            forces=scaled(record.forces, force),
        )


# How far a measurement may be from what it should read, as a factor. Rigidity is the least certain: it differs between
# materials, 2 eV/angstrom^2 in soft metals and 40 in organic molecules, and relaxations take the softest ways; around
RIGIDITY = 10.0
PER_ATOM = "eV per atom"  # no unit, but a usual mistake
BONDS_WITHIN, STIFFNESS_WITHIN, RIGIDITY_WITHIN, WORK_WITHIN = 1.35, 3.0, 16.0, 1.5


class Reading(NamedTuple):
    """One way to understand the labels; `negated` energies rise where they should fall, as energies of binding do."""

    energy: str = "eV"
    force: str = "eV/angstrom"
    gradients: bool = False
    negated: bool = False

    def forces(self) -> str:
        return f"gradients in {self.force}" if self.gradients else f"forces in {self.force}"

    def energies(self) -> str:
        return f"negated energies in {self.energy}" if self.negated else f"energies in {self.energy}"


class Verdict(NamedTuple):
    """On one expectation: "agree", "contradict" or "cannot tell", with what else the frames would fit."""

    expected: str
    word: Literal["agree", "contradict", "cannot tell"]
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.word != "cannot tell":
            return f"{self.expected}: the frames {self.word}"
        more = f" and {len(self.others) - 5} more" if len(self.others) > 5 else ""
        return f"{self.expected}: the frames cannot tell from {', '.join(self.others[:5])}{more}"


class UnitCheck(NamedTuple):
    """What frames say of their units, on what evidence.

    `advice` is what to do, None where nothing contradicts; `units` are those to read the file with instead, where they
    are known.
    """

    lengths: Verdict
    forces: Verdict
    energies: Verdict
    evidence: tuple[str, ...]
    advice: str | None = None
    units: Units | None = None

    def __str__(self) -> str:
        lines = [str(self.lengths), str(self.forces), str(self.energies), *(f"  {line}" for line in self.evidence)]
        return "\n".join(lines + ([self.advice] if self.advice else []))


def require_units(frames: ForceFrames) -> UnitCheck:
    """`check_units`, where frames in other units raise ValueError with the advice."""
    check = check_units(frames)
    if check.advice is not None:
        raise ValueError(f"{frames.source} is not in angstrom, eV and eV/angstrom:\n{check}")
    return check


def check_units(frames: ForceFrames) -> UnitCheck:
    """Whether frames are in angstrom, eV and eV/angstrom, and their forces minus the energy's derivative.

    Looks at up to 200 frames and 400 pairs of near ones. Raises ImportError without ASE.
    """
    near_atoms = force_evidence.bonds(frames)
    apart = force_evidence.bond_length(near_atoms)
    lengths = [unit for unit, size in LENGTHS.items() if apart.value is None or _near(apart.value * size, BONDS_WITHIN)]
    length = lengths[0] if lengths else "angstrom"
    near_frames = force_evidence.pairs(frames, LENGTHS[length])
    stiffness = force_evidence.stiffness(near_atoms, LENGTHS[length])
    rigidity = force_evidence.rigidity(near_frames)
    work = force_evidence.energy_per_work(near_frames)
    per_atom = force_evidence.energy_per_work(near_frames._replace(gain=near_frames.gain * near_frames.n_atoms))
    readings = _readings(stiffness, rigidity, work, per_atom, length)
    evidence = (
        _told("distance of neighbours in sums of covalent radii", apart),
        _told("stiffness of bonds of hydrogen over what it is known to be", stiffness),
        _told("energy lost over work of the forces", work),
        _told("change of the forces with the positions in eV/angstrom^2", rigidity),
    )
    check = UnitCheck(
        _verdict("angstrom", lengths),
        _verdict(Reading().forces(), [reading.forces() for _, reading in readings]),
        _verdict(Reading().energies(), [reading.energies() for _, reading in readings]),
        evidence,
    )
    if not frames.forces.any():
        return check._replace(advice="all forces are zero: they are no labels, leave the file out")
    if length == "angstrom" and lengths and any(reading == Reading() for _, reading in readings):
        return check
    if not lengths or not readings:
        what = "energies and forces are" if lengths else "positions are"
        return check._replace(advice=f"{what} in no units known here: mend the file")
    return check._replace(**_advice(readings, length))


def _readings(
    stiffness: Measured, rigidity: Measured, work: Measured, per_atom: Measured, length: str
) -> list[tuple[tuple, Reading]]:
    """Those in which all that could be measured reads as it should, the likeliest first, each with how odd it is."""
    found = []
    sizes = ENERGIES | {PER_ATOM: 1.0}
    for reading in itertools.starmap(Reading, itertools.product(sizes, FORCES, (False, True), (False, True))):
        energy, force = sizes[reading.energy], FORCES[reading.force]
        ratios = []
        if stiffness.value is not None:
            ratios.append((stiffness.value * force * (-1) ** reading.gradients, STIFFNESS_WITHIN))
        elif rigidity.value is not None:
            ratios.append((rigidity.value * force / RIGIDITY, RIGIDITY_WITHIN))
        lost = per_atom if reading.energy == PER_ATOM else work
        if lost.value is not None:
            sign = (-1) ** (reading.gradients + reading.negated)
            ratios.append((lost.value * energy / force * sign, WORK_WITHIN))
        if all(_near(*ratio) for ratio in ratios):
            # One system throughout is likelier than two, one wrong label than two, and the closest of these.
            one_system = reading.force in (f"{reading.energy}/angstrom", f"{reading.energy}/{length}")
            one_right = reading.energy == "eV" or reading.force == "eV/angstrom"
            misfit = sum(abs(np.log(abs(ratio))) for ratio, _ in ratios)
            found.append(((reading.negated, 0 if one_system else 1 if one_right else 2, misfit), reading))
    return sorted(found, key=lambda entry: entry[0])


def _verdict(expected: str, fitting: list[str]) -> Verdict:
    others = tuple(sorted({one for one in fitting if one != expected}))
    if expected not in fitting:
        return Verdict(expected, "contradict", others)
    return Verdict(expected, "cannot tell" if others else "agree", others)


def _near(ratio: float, within: float) -> bool:
    return bool(ratio > 0 and abs(np.log(ratio)) < np.log(within))


def _told(what: str, measured: Measured) -> str:
    if measured.value is None:
        return f"{what}: not measured, {measured.basis}"
    return f"{what}: {measured.value:.3g} ({measured.basis})"


def _advice(readings: list[tuple[tuple, Reading]], length: str) -> dict:
    """The `advice` and `units` of a check whose frames are to be read another way: the likeliest of `readings`."""
    (*kind, misfit), best = readings[0]
    per_atom = best.energy == PER_ATOM
    units = Units(length, "eV" if per_atom else best.energy, best.force, best.gradients)
    position, energy, force = units.factors()
    steps = {"positions": position, "energies": -energy if best.negated else energy, "forces": force}
    changed = [f"{name} by {factor:.6g}" for name, factor in steps.items() if factor != 1]
    changed += ["energies by each frame's number of atoms"] if per_atom else []
    advice = f"multiply {', '.join(changed)}"
    if per_atom or best.negated:
        units = None
    else:
        advice += f", or read the file with {units}"
    others = [f"{r.energies()} and {r.forces()}" for (*k, m), r in readings[1:] if k == kind and m < misfit + 0.2]
    return {"advice": advice + "".join(f"; {other} fit as well" for other in others), "units": units}
