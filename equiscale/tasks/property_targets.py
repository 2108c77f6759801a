"""Properties of molecules as targets to learn: those that are known, standardised on the training molecules."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from equiscale.data.molecules import Molecules, Skipped, tally
from equiscale.data.properties import OF_ATOMS, QUANTITIES, Quantity, check_names, measure
from equiscale.data.stored_molecules import CHUNK, StoredMolecules
from equiscale.tasks.property_scores import Property

Values = Mapping[str, Float[np.ndarray, "n ..."]]  # properties by name, [n], [n, 3] or [n, 3, 3], in their units
KINDS = {1: "scalar", 2: "vector", 3: "tensor"}  # by the number of their axes


def with_properties(
    molecules: Molecules | StoredMolecules, names: Sequence[str]
) -> tuple[Molecules | StoredMolecules, Values, Skipped]:
    """The molecules whose properties are all known, their values, and how many are left out for which reason.

    What is known of molecules already, their columns, is taken; the rest is measured, but of molecules on disk, with
    which what needs bonds has to be stored. Raises ValueError for an unknown name, for one that is not stored though
    it has to be, for a tensor with a trace or not symmetric, and where no molecule is left.
    """
    columns = molecules.columns
    check_names(names, {**QUANTITIES, **columns})
    here = [name for name in names if name not in columns]
    if isinstance(molecules, StoredMolecules):
        if missing := [name for name in here if name not in OF_ATOMS]:
            raise ValueError(
                f"{', '.join(missing)} of molecules on disk must be stored with them: write {molecules.set.folder} "
                f"again with experiments.prepare_data --properties={','.join(missing)}"
            )
        parts = [molecules.subset(slice(i, i + CHUNK)) for i in range(0, len(molecules), CHUNK)]
    else:
        parts = [molecules]
    found = [measure(part, here) for part in parts] if here else []
    reasons = [reason for _, of_part in found for reason in of_part] or [None] * len(molecules)
    values = {name: np.concatenate([v[name] for v, _ in found]) for name in here}
    for name in names:
        if name in columns:
            values[name] = np.asarray(columns[name], np.float64)
            unknown = np.isnan(values[name]).reshape(len(molecules), -1).any(1)
            reasons = [f"without a known {name}" if u else reason for u, reason in zip(unknown, reasons, strict=True)]
    known = np.array([reason is None for reason in reasons], bool)
    report = tally(reasons)
    if not known.any():
        raise ValueError(f"no molecule has all of {', '.join(names)} ({report}): leave some out")
    kept = molecules.subset(known) if isinstance(molecules, Molecules) else molecules.select(known)
    values = {name: values[name][known] for name in names}
    for name, value in values.items():
        if value.ndim == 3:
            _check_tensor(name, value)
    return kept, values, report


def _check_tensor(name: str, value: Float[np.ndarray, "n 3 3"], tolerance: float = 1e-3) -> None:
    size = np.abs(value).max()
    trace = np.abs(np.trace(value, axis1=1, axis2=2)).max()
    uneven = np.abs(value - value.swapaxes(1, 2)).max()
    if max(trace, uneven) > tolerance * size:
        raise ValueError(
            f"{name} has traces up to {trace:.3g} and differs from its transpose by up to {uneven:.3g}, beside "
            f"components up to {size:.3g}: store its symmetric part without the trace, and the trace as a scalar"
        )


def quantities_of(
    molecules: Molecules | StoredMolecules, names: Sequence[str], known: Mapping[str, Quantity] = QUANTITIES
) -> dict[str, Quantity]:
    """What each property is: as `known`, or as the shape of its column tells, of unknown unit."""
    kinds = {name: Quantity("", KINDS[column.ndim]) for name, column in molecules.columns.items()}
    return {name: (kinds | known)[name] for name in names}


class Standard(NamedTuple):
    """How targets are made of properties, by name: what is taken off, and what that is then divided by."""

    mean: Mapping[str, float]
    scale: Mapping[str, float]


def standard_of(values: Values) -> Standard:
    """Scalars get mean 0 and variance 1, components of vectors and tensors mean square 1: no mean is taken off that
    would not turn.

    Raises ValueError for a property that is the same for all molecules.
    """
    mean = {name: float(v.mean()) if v.ndim == 1 else 0.0 for name, v in values.items()}
    scale = {name: float(np.sqrt(np.square(v - mean[name]).mean())) for name, v in values.items()}
    for name, v in values.items():
        if not scale[name] > 1e-6 * abs(mean[name]):
            raise ValueError(f"{name} is {v[0]} for all {len(v)} training molecules: leave it out, or add molecules")
    return Standard(mean, scale)


def targets_of(values: Values, standard: Standard) -> dict[str, Float[np.ndarray, "n ..."]]:
    """Standardised properties in their order, "scalars" [n, p], "vectors" [n, q, 3] and "tensors" [n, r, 3, 3], if
    there are any.
    """
    parts: dict[str, list] = {f"{kind}s": [] for kind in KINDS.values()}
    for name, v in values.items():
        column = (v - standard.mean[name]) / standard.scale[name]
        parts[f"{KINDS[v.ndim]}s"].append(column.astype(np.float32))
    return {kind: np.stack(columns, axis=1) for kind, columns in parts.items() if columns}


def describe(quantities: Mapping[str, Quantity], standard: Standard) -> tuple[Property, ...]:
    """What each part of the targets is."""

    def part(kind, i):
        return lambda tree: tree[f"{kind}s"][:, i].reshape(len(tree[f"{kind}s"]), -1)

    seen = dict.fromkeys(KINDS.values(), 0)
    found = []
    for name, (unit, kind) in quantities.items():
        found.append(Property(name, unit, kind, standard.scale[name], part(kind, seen[kind])))
        seen[kind] += 1
    return tuple(found)
