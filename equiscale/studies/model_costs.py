"""Every model and preset: parameters, operations and memory of one example, the symmetry it is made with, its source.

Nothing is computed: shapes are traced. Memory is what one example leaves behind for the backward pass, before a
compiler joins operations, so an upper bound; parameters and optimiser states come to it once, not for each example.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from equiscale.data.graphs import Graph
from equiscale.flops import flops
from equiscale.models import (
    flow_transformer,
    graph_transformer,
    point_transformer,
    spherical_transformer,
    steerable_unet,
    tensor_field,
    voxel_unet,
)
from equiscale.models.flow_transformer import Chain
from equiscale.residuals import residual_bytes
from equiscale.training.state import n_parameters

Fields = dict[str, Any]
DYNAMICS = "Training-dynamics paper"


class Sizes(NamedTuple):
    """Of the example that costs are of; voxel grids have the side their presets are for, see `grid_side`."""

    atoms: int = 30
    neighbours: int = 30
    residues: int = 128
    elements: int = 8


class Family(NamedTuple):
    """A model with its presets."""

    name: str
    model: type[nn.Module]
    presets: dict[str, Fields]
    arguments: Callable[[str, Sizes], tuple]  # preset, sizes -> shapes of a batch of one
    symmetry: Callable[[str], str]  # preset -> what holds before any training
    source: str
    published: tuple[str, ...] = ()  # presets of published sizes


class Cost(NamedTuple):
    """Of one preset."""

    model: str
    preset: str
    parameters: int
    example: str
    forward_flop: int
    training_flop: int  # loss, gradient
    memory: int  # bytes kept for the backward pass of one example
    symmetry: str
    source: str


def _float(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _like(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def grid_side(preset: str) -> int:
    """Voxels along an axis: 16 for presets for CPUs, the published 64 for the others."""
    return 16 if preset.startswith("cpu") else 64


def _voxels(preset: str, sizes: Sizes) -> tuple:
    return (_float(1, sizes.elements, *(grid_side(preset),) * 3),)


def _points(_: str, sizes: Sizes) -> tuple:
    return _float(1, sizes.atoms, 3), _like(jnp.int32, 1, sizes.atoms)


def _graph(_: str, sizes: Sizes) -> tuple:
    n, k = sizes.atoms, sizes.neighbours
    return (
        Graph(
            positions=_float(1, n, 3),
            species=_like(jnp.int32, 1, n),
            neighbours=_like(jnp.int32, 1, n, k),
            mask=_like(jnp.bool_, 1, n, k),
            shifts=_like(jnp.int8, 1, n, k, 3),
            cell=_float(1, 3, 3),
        ),
    )


def _chain(_: str, sizes: Sizes) -> tuple:
    n = sizes.residues
    return (
        Chain(
            positions=_float(1, n, 3),
            index=_like(jnp.int32, 1, n),
            breaks=_like(jnp.bool_, 1, n),
            time=_float(1),
            guess=_float(1, n, 3),
            guessed=_float(1),
        ),
    )


def _always(words: str) -> Callable[[str], str]:
    return lambda preset: words


def _by_points(preset: str) -> str:
    return "up to its points" if preset.startswith("est") else "exact"


FAMILIES = (
    Family(
        "voxel U-Net",
        voxel_unet.VoxelUNet,
        voxel_unet.PRESETS,
        _voxels,
        _always("learned"),
        f"VoxMol; {DYNAMICS}",
        ("tiny", "small", "full"),
    ),
    Family(
        "steerable U-Net",
        steerable_unet.SteerableUNet,
        steerable_unet.PRESETS,
        _voxels,
        _always("exact for the cube's rotations"),
        "arXiv 2507.09753",
        ("0.5M",),
    ),
    Family(
        "point transformer",
        point_transformer.PointTransformer,
        point_transformer.PRESETS,
        _points,
        _always("learned"),
        "a baseline without voxels",
    ),
    Family(
        "graph transformer",
        graph_transformer.GraphTransformer,
        graph_transformer.PRESETS,
        _graph,
        _always("learned; exact with breaking=0"),
        f"EScAIP; {DYNAMICS}",
        ("6M",),
    ),
    Family(
        "tensor field",
        tensor_field.TensorField,
        tensor_field.PRESETS,
        _graph,
        _always("exact"),
        "a baseline with tensor products",
    ),
    Family(
        "spherical transformer",
        spherical_transformer.SphericalTransformer,
        spherical_transformer.PRESETS,
        _graph,
        _by_points,
        "arXiv 2505.23086",
    ),
    Family(
        "flow transformer",
        flow_transformer.FlowTransformer,
        flow_transformer.PRESETS,
        _chain,
        _always("learned"),
        f"Proteina; {DYNAMICS}",
        ("60M", "60M_triangles", "400M"),
    ),
)


def example_of(family: Family, preset: str, sizes: Sizes) -> str:
    """What an example is, in words."""
    if family.arguments is _voxels:
        return f"{sizes.elements} x {grid_side(preset)}^3 voxels"
    if family.arguments is _chain:
        return f"{sizes.residues} residues"
    return f"{sizes.atoms} atoms" + (f", {sizes.neighbours} neighbours" if family.arguments is _graph else "")


def presets(pattern: str = "") -> Iterator[tuple[Family, str]]:
    """All whose "model preset" contains `pattern`. Raises ValueError where none does."""
    found = [(f, preset) for f in FAMILIES for preset in f.presets if pattern in f"{f.name} {preset}"]
    if not found:
        raise ValueError(f"no model and preset contain {pattern!r}; models are {', '.join(f.name for f in FAMILIES)}")
    yield from found


def cost(family: Family, preset: str, sizes: Sizes) -> Cost:
    """What one example costs."""
    of_elements = {"n_elements": sizes.elements} if "n_elements" in family.model.__dataclass_fields__ else {}
    model = family.model(**family.presets[preset] | of_elements)
    arguments = family.arguments(preset, sizes)
    variables = jax.eval_shape(model.init, jax.random.key(0), *arguments)

    def loss(variables):
        """Sums of squares of all there is to predict, which cost next to nothing."""
        x = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), arguments)
        return sum(jnp.square(a).sum() for a in jax.tree.leaves(model.apply(variables, *x)))

    return Cost(
        model=family.name,
        preset=preset,
        parameters=n_parameters(variables["params"]),
        example=example_of(family, preset, sizes),
        forward_flop=flops(loss, variables),
        training_flop=flops(jax.value_and_grad(loss), variables),
        memory=residual_bytes(loss, variables),
        symmetry=family.symmetry(preset),
        source=family.source if preset in family.published or not family.published else f"{family.source}; other size",
    )
