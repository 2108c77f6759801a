"""equiscale: how much of a model's loss comes only from imperfect symmetry.

Importing this package loads the metric core (jax and numpy, nothing heavier):

    sym = es.Symmetry(measure=es.so3.coset(60), act_in=es.vectors, act_out=es.vectors)
    d = es.decompose(f, sym, x, y, key=key)
    print(d)

Models, tasks, data, training and studies are subpackages to be imported by name.
"""

from equiscale.actions import (
    chain,
    conjugate,
    grid,
    irreps,
    on,
    permute,
    roll,
    scalars,
    segmented,
    tensors,
    translate,
    trivial,
    vectors,
)
from equiscale.continuity import continuity
from equiscale.decompose import decompose
from equiscale.decomposition import Decomposition
from equiscale.frames import canonicalise, frame_average
from equiscale.grid_shifts import grid_shifts
from equiscale.groups import (
    Group,
    full_octahedral,
    o3,
    octahedral,
    paper16,
    permutations,
    product,
    so3,
    translations,
)
from equiscale.losses import Loss
from equiscale.measures import Measure
from equiscale.twirl import Symmetry, symmetrise, twirl, twist

__all__ = [
    "Decomposition",
    "Group",
    "Loss",
    "Measure",
    "Symmetry",
    "canonicalise",
    "chain",
    "conjugate",
    "continuity",
    "decompose",
    "frame_average",
    "full_octahedral",
    "grid",
    "grid_shifts",
    "irreps",
    "o3",
    "octahedral",
    "on",
    "paper16",
    "permutations",
    "permute",
    "product",
    "roll",
    "scalars",
    "segmented",
    "so3",
    "symmetrise",
    "tensors",
    "translate",
    "translations",
    "trivial",
    "twirl",
    "twist",
    "vectors",
]
