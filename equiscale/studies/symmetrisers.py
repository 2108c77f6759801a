"""What can stand in for an equivariant network when a trained one is used: what each way gains, costs and breaks.

The same network as it is, averaged over random rotations (randomised cosets of 4 to 60), over the four frames of each
molecule, and in its canonical pose (`equiscale.frames`). Of each: the loss of validation examples as they lie and when
they are turned, what is left of the equivariance error, forward passes and measured time, and whether it is continuous
in the positions. All see the same examples, noise, rotations and paths, so that losses are compared in pairs.
"""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PRNGKeyArray

import equiscale as es
from equiscale.continuity import Continuity
from equiscale.decomposition import Decomposition
from equiscale.losses import square_norm
from equiscale.models.graph_transformer import GraphTransformer
from equiscale.reduce import Moments
from equiscale.tasks.task import Pair, Params, Task

Predict = Callable[[Params, Any], Any]
PLAIN = "plain"
ORDERS = (4, 12, 24, 60)  # of the cosets
TURNS = 7  # of which times are medians
STEEP = 10  # times the plain model's steepest: a jump


class Points(NamedTuple):
    """The points in the input of a task, in its field `positions`: which are real, and how far paths move them."""

    real: Callable[[Any], Bool[Array, "batch n"]]
    length: float = 0.5  # in `unit`, root mean square over coordinates
    unit: str = "Å"


POINTS = {
    "denoise_points": Points(lambda x: x.elements > 0),
    "force_field": Points(lambda x: x.is_atom),
    "predict_quantities": Points(lambda x: x.is_atom),
    "flow_chains": Points(lambda x: x.mask, length=0.05, unit="nm"),
}


def points_of(task_name: str) -> Points:
    """Where a task's points are. Raises ValueError for a task whose input has none."""
    if task_name not in POINTS:
        raise ValueError(
            f"this run's task is {task_name}, whose input is a voxel grid: it turns exactly by the cube's 24 rotations "
            "only and has no frame of its own. Its average over these is the 'mean' that experiments.measure prints; "
            f"give a run of {', '.join(POINTS)}"
        )
    return POINTS[task_name]


class Method(NamedTuple):
    """A way to make predictions equivariant: `make(predict, key) -> predict`, at so many forward passes an example."""

    passes: int
    make: Callable[[Predict, PRNGKeyArray], Predict]


def methods_for(symmetry: es.Symmetry, points: Points) -> dict[str, Method]:
    """By name, the plain model first."""

    def haar(order):
        coset = dataclasses.replace(symmetry, measure=es.so3.coset(order))
        return lambda predict, key: lambda params, x: es.symmetrise(lambda x: predict(params, x), coset, key)(x)

    def by_frames(factory):
        sym = dataclasses.replace(symmetry, measure=es.so3.coset(4))
        places = _positions(points)
        return lambda predict, key: lambda params, x: factory(lambda x: predict(params, x), sym, places)(x)

    found = {PLAIN: Method(1, lambda predict, key: predict)}
    found |= {f"Haar average, {order}": Method(order, haar(order)) for order in ORDERS}
    return found | {
        "frame average": Method(4, by_frames(es.frame_average)),
        "canonical pose": Method(1, by_frames(es.canonicalise)),
    }


def head_average(model: nn.Module) -> dict[str, Method]:
    """Of a force field that breaks equivariance in its head alone, the exact average over all rotations; else none."""
    if not isinstance(model, GraphTransformer) or model.forces != "direct":
        return {}
    twin = model.clone(breaking=0.0)
    return {"exact average": Method(1, lambda predict, key: lambda params, x: twin.apply({"params": params}, x).forces)}


def _positions(points: Points) -> Callable[[Any], tuple[Array, Array]]:
    return lambda x: (x.positions, points.real(x))


# --- measuring -----------------------------------------------------------------------------------------------------


def measure(
    task: Task,
    params: Params,
    methods: Mapping[str, Method],
    points: Points,
    *,
    measure: es.Measure,
    progress: Callable[[Iterable], Iterable] = iter,
) -> dict[str, Any]:
    """Plain data: `rows`, one a method, and `continuity`, ratios against `steps` over all examples.

    What is left of the equivariance error is measured by `measure`. `jumps` is the share of paths on which the smallest
    step is more than `STEEP` times as steep as any of the plain model, which must be the first of `methods`.

    Raises FloatingPointError where a decomposition does not add up.
    """
    key = jax.random.fold_in(task.element_key, 1)
    keys = [jax.random.split(jax.random.fold_in(key, i)) for i in range(len(task.validation))]
    pairs = list(map(jax.jit(task.pair), task.validation))
    score = jax.jit(functools.partial(squared_errors, task))
    predicts = {name: compiled(task, method) for name, method in methods.items()}
    losses, left, paths = {}, {}, {}
    for name, predict in progress(predicts.items()):
        scores = [score(pair, predict(params, pair.x, turns)) for pair, (turns, _) in zip(pairs, keys, strict=True)]
        losses[name], weight = (np.concatenate(parts) for parts in zip(*scores, strict=True))
        examine = jax.jit(make_examine(task, predict, points, measure))
        found = [examine(params, pair, *both) for pair, both in zip(pairs, keys, strict=True)]
        left[name] = sum(d for d, _ in found).check().record()
        paths[name] = jax.tree.map(lambda *parts: np.concatenate(parts, 1)[:, weight > 0], *(c for _, c in found))  # noqa: B023
    return {
        "n_examples": int((weight > 0).sum()),
        "batch": len(pairs[0].weight),
        "device": jax.devices()[0].device_kind,
        "rows": table_rows(
            methods, paired_losses(weight, losses), left, paths, median_seconds(predicts, params, pairs[0], keys[0][0])
        ),
        "continuity": {
            "unit": points.unit,
            "steps": np.median(paths[PLAIN].steps, 1).tolist(),
            "floor": np.median(paths[PLAIN].floors, 1).tolist(),
            "largest": {name: of.ratios.max(1).tolist() for name, of in paths.items()},
            "median": {name: np.median(of.ratios, 1).tolist() for name, of in paths.items()},
        },
    }


def compiled(task: Task, method: Method) -> Callable[[Params, Any, PRNGKeyArray], Any]:
    """(params, x, key) -> predictions of a task's model by a method whose rotations are fixed by `key`."""
    return jax.jit(lambda params, x, key: method.make(task.predict, key)(params, x))


def squared_errors(task: Task, pair: Pair, prediction: Any) -> tuple[Array, Array]:
    """The squared error per component of each example, and the example's weight: 0 where no component counts."""
    square, components = square_norm(task.symmetry.act_target, pair.y, len(pair.weight), mask=pair.mask)
    errors = square(jax.tree.map(jnp.subtract, prediction, pair.y))
    return errors, jnp.where(components > 0, pair.weight, 0)


def make_examine(task: Task, predict: Callable, points: Points, measure: es.Measure) -> Callable:
    """(params, pair, key, key) -> the decomposed loss by `measure`, and ratios along paths.

    The first key fixes the rotations of `predict(params, x, key)`, the second the paths.
    """
    known = {"irreducible": None, "irreducible_from": None}
    symmetry = dataclasses.replace(task.symmetry, measure=measure)

    def examine(params, pair, of_turns, of_paths) -> tuple[Decomposition, Continuity]:
        made = task._replace(
            predict=lambda params, x: predict(params, x, of_turns), symmetry=symmetry, pair=lambda pair: pair
        )
        ratios = es.continuity(
            lambda x: made.predict(params, x),
            pair.x,
            of_paths,
            positions=_positions(points),
            move=lambda x, by: x._replace(positions=x.positions + by),
            length=points.length,
            mask=pair.mask,
        )
        return made.evaluate(params, pair, **known), ratios

    return examine


def median_seconds(predicts: Mapping[str, Callable], params: Params, pair: Pair, key: PRNGKeyArray) -> dict[str, float]:
    """Seconds an example of compiled predictions of one batch: medians over turns, in which each comes once."""
    times: dict[str, list[float]] = {name: [] for name in predicts}
    for turn in range(TURNS + 1):
        for name, predict in predicts.items():
            began = time.perf_counter()
            jax.block_until_ready(predict(params, pair.x, key))
            if turn:  # the first warms up
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(of) / len(pair.weight) for name, of in times.items()}


# --- numbers -------------------------------------------------------------------------------------------------------


def paired_losses(weight: np.ndarray, losses: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Of each method the mean loss, and the difference to the first one's, with standard errors over examples."""
    rows = jnp.asarray(np.stack([weight, *(weight * loss for loss in losses.values())], axis=1))
    moments, one = Moments.of(rows, jnp.asarray(weight > 0)), np.eye(rows.shape[1])
    found = {}
    for i, name in enumerate(losses, start=1):
        record = {}
        for what, over in (("loss", one[i]), ("difference", one[i] - one[1])):
            record[what] = float(moments.ratio(over, one[0]))
            record[f"{what}_stderr"] = float(moments.ratio_stderr(over, one[0]))
        found[name] = record
    return found


def table_rows(
    methods: Mapping[str, Method],
    losses: Mapping[str, Mapping[str, float]],
    left: Mapping[str, Mapping[str, Any]],
    paths: Mapping[str, Continuity],
    seconds: Mapping[str, float],
) -> list[dict[str, Any]]:
    """One row a method: cost, losses as examples lie and `turned`, what is left, ratios at the smallest step."""
    steep = STEEP * paths[PLAIN].ratios.max()
    rows = []
    for name, method in methods.items():
        row = {"method": name, "passes": method.passes, "milliseconds": 1e3 * seconds[name], **losses[name]}
        row |= {"turned": left[name]["total"], "turned_stderr": left[name]["total_stderr"]}
        row |= {n: left[name][n] for n in ("percent", "percent_stderr", "floor", "below_floor", "measure")}
        smallest = paths[name].ratios[-1]
        row |= {"steepest": float(smallest.max()), "steepest_median": float(np.median(smallest))}
        rows.append(row | {"jumps": float((smallest > steep).mean())})
    return rows
