"""Instruments that a run takes at its evaluation steps, beside the decomposition: parameters -> numbers for its log.

The loop takes any such function; those here are made for a task from a few settings.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from equiscale import actions, curvature
from equiscale.tasks import alignment
from equiscale.tasks.task import Task, first_of
from equiscale.training.devices import everywhere, spread_examples
from equiscale.training.evaluate import make_gradients, make_score

Instrument = Callable[[Any], Mapping[str, Any]]


def gradient_instrument(task: Task, mesh: Mesh, *, examples: int, **_) -> Instrument:
    """Gradients of the components on the first validation examples, whole and by parameter group."""
    measure = make_gradients(task, examples, mesh)
    return lambda params: measure(params).record(depth=1)


def extremes_instrument(task: Task, mesh: Mesh, *, examples: int, only: str, **_) -> Instrument:
    """Largest and lowest Hessian eigenvalue of total, mean and equivariance loss, matrix-free: for any model.

    On the first training examples, with respect to the parameters whose paths match `only`.
    """
    few = first_of(task.train[0], examples)

    def measure(params):
        of = task.components(jax.device_get(everywhere(params, mesh)), few, only=only)
        found = {part: curvature.extremes(of, part, key=jax.random.key(0)) for part in ("total", "mean", "equiv")}
        return {part: e._asdict() for part, e in found.items()} | {"only": only, "examples": examples}

    return measure


def spectrum_instrument(task: Task, mesh: Mesh, *, examples: int, only: str, **_) -> Instrument:
    """Condition numbers of the dense Hessians of mean and equivariance loss: some thousands of parameters at most."""
    few = first_of(task.train[0], examples)

    def measure(params):
        found = curvature.spectra(task.components(jax.device_get(everywhere(params, mesh)), few, only=only))
        return {part: s.record() for part, s in found.items()} | {"only": only, "examples": examples}

    return measure


def alignment_instrument(task: Task, mesh: Mesh, **_) -> Instrument:
    """How far latents of turned inputs disagree (see `equiscale.tasks.alignment`), whether training minds it or not.

    On all validation examples, each turned by every element of the task's measure (the same for all if it draws them).
    Raises ValueError for a task without a latent.
    """
    if task.latent is None:
        raise ValueError(f"the task {task.name!r} names no latent to align: leave out the instrument alignment")
    (encode, act, n_scalars), sym = task.latent, task.symmetry
    elements = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), sym.measure.draw(task.element_key))

    def both_kinds(z):
        few = z[:, :n_scalars]  # the mean of a vector turns and is not meant to stay
        return {"equivariant": alignment.spatial(z), "invariant": alignment.pooled(few)}

    @functools.partial(jax.jit, out_shardings=NamedSharding(mesh, P()))
    def latents(params, batch):
        """g phi(x) and phi(g x) for each g, by kind, and the weights of the examples."""
        x, _, weight, *_ = task.pair(spread_examples(batch, mesh))
        z = encode(params, x)

        def turned(g):
            of_turned = encode(params, actions.apply(sym.act_in, g, x, shared=True))
            return both_kinds(actions.apply(act, g, z, shared=True, what="latent")), both_kinds(of_turned)

        return jax.lax.map(turned, elements), weight

    batches = [everywhere(batch, mesh) for batch in task.validation]

    def measure(params):
        params, parts = everywhere(params, mesh), {kind: [] for kind in alignment.KINDS}
        for batch in batches:
            (a, b), weight = jax.device_get(latents(params, batch))
            for kind, of_kind in parts.items():
                of_kind.append(alignment.Sums.of(a[kind][:, weight > 0], b[kind][:, weight > 0]))
        record = {"measure": sym.measure.name}
        for kind, of_kind in parts.items():
            record[kind], record[f"{kind}_stderr"] = alignment.measured(alignment.joined(of_kind))
        return record

    return measure


INSTRUMENTS = {
    "gradients": gradient_instrument,
    "extremes": extremes_instrument,
    "spectrum": spectrum_instrument,
    "alignment": alignment_instrument,
}


def make_instruments(names: tuple[str, ...], task: Task, mesh: Mesh, **settings) -> dict[str, Instrument]:
    """Those of `INSTRUMENTS` and of the task's scores that are asked for; "scores" are all of these.

    Raises ValueError for a name of none.
    """
    names = tuple(dict.fromkeys(n for name in names for n in (task.scores if name == "scores" else (name,))))
    for name in names:
        if name not in INSTRUMENTS and name not in task.scores:
            raise ValueError(
                f"instrument {name!r} is none of {', '.join((*INSTRUMENTS, *task.scores))}, which {task.name!r} has"
            )
    return {
        name: make_score(task, task.scores[name], mesh)
        if name in task.scores
        else INSTRUMENTS[name](task, mesh, **settings)
        for name in names
    }
