"""Properties of molecules as targets to learn: those that are known, standardised on the training molecules."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from equiscale.data.molecules import Molecules, Skipped, tally
from equiscale.data.properties import OF_ATOMS, OF_BONDS, QUANTITIES, Quantity, check_names, measure
from equiscale.data.stored_molecules import CHUNK, StoredMolecules
from equiscale.tasks.property_scores import Property

Values = Mapping[str, Float[np.ndarray, "n ..."]]  # properties by name, [n] or [n, 3], in their units


def with_properties(
    molecules: Molecules | StoredMolecules, names: Sequence[str]
) -> tuple[Molecules | StoredMolecules, Values, Skipped]:
    """The molecules whose properties are all known, their values, and how many are left out for which reason.

    Of molecules on disk, what needs bonds or was measured elsewhere has to be stored with them. Raises ValueError for
    an unknown name, for one that is not stored though it has to be, and where no molecule is left.
    """
    if isinstance(molecules, Molecules):
        values, reasons = measure(molecules, names)
    else:
        values, reasons = _stored(molecules, names)
    known = np.array([reason is None for reason in reasons], bool)
    report = tally(reasons)
    if not known.any():
        raise ValueError(f"no molecule has all of {', '.join(names)} ({report}): leave some out")
    kept = molecules.subset(known) if isinstance(molecules, Molecules) else molecules.select(known)
    return kept, {name: value[known] for name, value in values.items()}, report


def quantities_of(molecules: Molecules | StoredMolecules, names: Sequence[str]) -> dict[str, Quantity]:
    """What each property is; of stored columns that are none of `QUANTITIES` the shape tells, the unit is unknown."""
    columns = {} if isinstance(molecules, Molecules) else molecules.columns
    kinds = {name: Quantity("", "vector" if column.ndim == 2 else "scalar") for name, column in columns.items()}
    return {name: (kinds | QUANTITIES)[name] for name in names}


def _stored(molecules: StoredMolecules, names: Sequence[str]) -> tuple[Values, list[str | None]]:
    columns = molecules.columns
    check_names(names, {**QUANTITIES, **columns})
    missing = [name for name in names if name in OF_BONDS and name not in {**OF_ATOMS, **columns}]
    if missing:
        raise ValueError(
            f"{', '.join(missing)} of molecules on disk must be stored with them: write {molecules.set.folder} again "
            f"with experiments.prepare_data --properties={','.join(missing)}"
        )
    here = [name for name in names if name not in columns]
    parts = [molecules.subset(slice(i, i + CHUNK)) for i in range(0, len(molecules), CHUNK)] if here else []
    found = [measure(part, here) for part in parts]
    reasons = [reason for _, of_part in found for reason in of_part] or [None] * len(molecules)
    values = {name: np.concatenate([v[name] for v, _ in found]) for name in here}
    for name in names:
        if name in columns:
            values[name] = np.asarray(columns[name], np.float64)
            unknown = np.isnan(values[name]).reshape(len(molecules), -1).any(1)
            reasons = [f"without a known {name}" if u else reason for u, reason in zip(unknown, reasons, strict=True)]
    return {name: values[name] for name in names}, reasons


class Standard(NamedTuple):
    """How targets are made of properties, by name: what is taken off, and what that is then divided by."""

    mean: Mapping[str, float]
    scale: Mapping[str, float]


def standard_of(values: Values) -> Standard:
    """Scalars get mean 0 and variance 1, components of vectors mean square 1: no mean is taken off that would not turn.

    Raises ValueError for a property that is the same for all molecules.
    """
    mean = {name: float(v.mean()) if v.ndim == 1 else 0.0 for name, v in values.items()}
    scale = {name: float(np.sqrt(np.square(v - mean[name]).mean())) for name, v in values.items()}
    for name, v in values.items():
        if not scale[name] > 1e-6 * abs(mean[name]):
            raise ValueError(f"{name} is {v[0]} for all {len(v)} training molecules: leave it out, or add molecules")
    return Standard(mean, scale)


def targets_of(values: Values, standard: Standard) -> dict[str, Float[np.ndarray, "n ..."]]:
    """Standardised properties in their order, "scalars" [n, p] and "vectors" [n, q, 3], if there are any."""
    parts: dict[str, list] = {"scalars": [], "vectors": []}
    for name, v in values.items():
        column = (v - standard.mean[name]) / standard.scale[name]
        parts["scalars" if v.ndim == 1 else "vectors"].append(column.astype(np.float32))
    return {kind: np.stack(columns, axis=1) for kind, columns in parts.items() if columns}


def describe(quantities: Mapping[str, Quantity], standard: Standard) -> tuple[Property, ...]:
    """What each part of the targets is."""

    def scalar(i):
        return lambda tree: tree["scalars"][:, i : i + 1]

    def vector(i):
        return lambda tree: tree["vectors"][:, i]

    seen = {"scalar": 0, "vector": 0}
    found = []
    for name, (unit, kind) in quantities.items():
        of = (scalar if kind == "scalar" else vector)(seen[kind])
        found.append(Property(name, unit, kind, standard.scale[name], of))
        seen[kind] += 1
    return tuple(found)
