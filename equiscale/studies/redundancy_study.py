"""The redundancy matrix of a run (see `equiscale.studies.redundancy`), beside that of the untrained network.

Each decoder is a file in the study's folder, written when it is trained: a study that was killed goes on from there.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, PRNGKeyArray
from tqdm import tqdm

from equiscale.latents import rotations_by_axis
from equiscale.linear_fits import host_generator
from equiscale.sampling.chains import write_arrays
from equiscale.studies import redundancy
from equiscale.studies.property_divergence import group_counts, summary
from equiscale.studies.rotation_names import rotation_name
from equiscale.tasks.task import Params, Task
from equiscale.training.batches import make_feed
from equiscale.training.devices import make_mesh
from equiscale.training.settings import Settings, make_optimizer

ROTATIONS = {"z": "z", "axes": "xyz"}  # axes of the quarter turns, which come after the identity
ALL, OWN = "all of them", "its own decoder"
Losses = Float[np.ndarray, "rows turns n"]


def rotations(name: str) -> dict[str, Float[np.ndarray, "3 3"]]:
    """The identity and quarter turns about z or about all axes, by their names."""
    turns = [np.eye(3), *rotations_by_axis(axes=ROTATIONS[name]).values()]
    return {rotation_name(g): g for g in turns}


class Decoder(NamedTuple):
    """What is trained: on which encoder, and on examples turned by one of `turns` each."""

    encoder: str
    name: str
    turns: Float[np.ndarray, "k 3 3"]


def decoders(encoders: Mapping[str, Any], turns: Mapping[str, np.ndarray]) -> list[Decoder]:
    """One a rotation and encoder, and one of all rotations; as many turns for each, so that all are one program."""
    k, every = len(turns), np.stack(list(turns.values()))
    sets = {name: np.repeat(g[None], k, axis=0) for name, g in turns.items()} | {ALL: every}
    return [Decoder(encoder, name, of) for encoder in encoders for name, of in sets.items()]


def measure(
    task: Task,
    settings: Settings,
    encoders: Mapping[str, Params],
    turns: Mapping[str, Float[np.ndarray, "3 3"]],
    folder: pathlib.Path,
    *,
    start: Params,
    own: str | None = None,
    turn_back: bool = True,
    mesh: Mesh | None = None,
) -> dict[str, Any]:
    """Train the decoders that `folder` lacks, try all, and sum up: plain data.

    Args:
      task: of molecules in one pose, not turned in training (`redundancy.in_pose`).
      settings: `steps`, `batch_size`, optimiser and seed of every decoder.
      encoders: networks whose encoders are used, by name.
      start: the network whose decoder all start from.
      own: the one of `encoders` whose own decoder is tried as well.
      turn_back: see `redundancy.make_program`.
      mesh: of the devices that share the work (default: all).

    Raises what `redundancy.split_parameters` and `redundancy.train_decoder` raise, and OSError for a folder that
    cannot be written.
    """
    mesh = mesh or make_mesh()
    of_order, of_steps, of_intervals = jax.random.split(jax.random.fold_in(jax.random.key(settings.seed), 6), 3)
    feed = make_feed(task.train, of_order, settings.batch_size, mesh, task.clusters)
    program = redundancy.make_program(task, make_optimizer(settings), mesh, turn_back=turn_back)
    vector_of, elements = redundancy.cut(task).vector_of, np.stack(list(turns.values()))
    frozen = {name: redundancy.split_parameters(params)[0] for name, params in encoders.items()}
    todo = decoders(encoders, turns)
    folder.mkdir(parents=True, exist_ok=True)

    def attempt(encoder, vector, own):
        as_it_is, back = redundancy.try_decoder(program, task, frozen[encoder], vector, own, elements)
        return {"as_it_is": as_it_is, "back": back}

    names = [*turns, ALL]
    paths = [folder / f"{decoder.encoder}-{names.index(decoder.name)}.npz" for decoder in todo]
    there = sum(path.exists() for path in paths)
    found: dict[str, dict[str, Mapping[str, np.ndarray]]] = {name: {} for name in encoders}
    with tqdm(total=len(todo) * settings.steps, initial=there * settings.steps, unit="step", mininterval=0.5) as bar:
        for i, (decoder, path) in enumerate(zip(todo, paths, strict=True), start=1):
            if not path.exists():
                bar.set_description(f"decoder {i} of {len(todo)}")
                encoder, vector = frozen[decoder.encoder], vector_of(start)
                vector, losses = redundancy.train_decoder(
                    program,
                    feed,
                    encoder,
                    vector,
                    decoder.turns,
                    steps=settings.steps,
                    key=of_steps,
                    on_step=bar.update,
                )
                row = {"training_loss": losses, "vector": np.asarray(vector)}
                write_arrays(path, **row, **attempt(decoder.encoder, vector, decoder.turns[0]))
            with np.load(path) as saved:
                found[decoder.encoder][decoder.name] = dict(saved)
    if own is not None:
        found[own][OWN] = attempt(own, vector_of(encoders[own]), elements[0])
    return {
        "rotations": list(turns),
        "n_molecules": found[todo[0].encoder][ALL]["as_it_is"].shape[1],
        "encoders": {name: record(rows, of_intervals) for name, rows in found.items()},
    }


# --- numbers ---------------------------------------------------------------------------------------------------


def record(rows: Mapping[str, Mapping[str, np.ndarray]], key: PRNGKeyArray) -> dict[str, Any]:
    """Of one encoder: losses of each row (decoder) on each turn, and the indices with intervals over molecules.

    `index` is that of M, `index_turned_back` that of B, null where features cannot be turned; `shared` is the loss of
    the decoder of all rotations over the mean diagonal of M.
    """
    own = [name for name in rows if name not in (ALL, OWN)]
    m, back = (np.stack([rows[name][kind] for name in own]) for kind in ("as_it_is", "back"))
    n = m.shape[-1]
    counts = np.concatenate([np.ones((1, n)), group_counts([range(n)], host_generator(key))[0]])

    def interval(ratios: Float[np.ndarray, " r"]) -> dict[str, float]:
        return summary(ratios[0], ratios[1:])

    known = bool(np.isfinite(back).all())
    every = rows[ALL]["as_it_is"]
    return {
        "loss": {name: row["as_it_is"].mean(-1).tolist() for name, row in rows.items()},
        "loss_stderr": {name: _stderr(row["as_it_is"]).tolist() for name, row in rows.items()},
        "loss_turned_back": dict(zip(own, back.mean(-1).tolist(), strict=True)) if known else None,
        "training_loss": {name: float(rows[name]["training_loss"][-20:].mean()) for name in rows if name != OWN},
        "index": interval(index(m, counts)),
        "index_turned_back": interval(index(back, counts)) if known else None,
        "shared": interval((every.mean(0) @ counts.T) / (_diagonal(m) @ counts.T)),
    }


def _diagonal(losses: Losses) -> Float[np.ndarray, " n"]:
    return np.diagonal(losses).mean(-1)


def index(losses: Losses, counts: Float[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
    """Mean of M[r, s] off the diagonal over that on it, each molecule taken `counts` times."""
    k = len(losses)
    off = (losses.sum((0, 1)) - np.trace(losses)) / (k * (k - 1))
    return (off @ counts.T) / (_diagonal(losses) @ counts.T)


def _stderr(losses: Float[np.ndarray, "turns n"]) -> Float[np.ndarray, " turns"]:
    return losses.std(-1, ddof=1) / np.sqrt(losses.shape[-1])


def sentences(found: Mapping[str, Any]) -> list[str]:
    """What was found, with 95 % intervals over molecules."""

    def each(what: str) -> str:
        values = {name: row[what] for name, row in found["encoders"].items()}
        return ", ".join(f"{v['value']:.2f} ({v['low']:.2f} to {v['high']:.2f}) {name}" for name, v in values.items())

    k = len(found["rotations"])
    told = [
        f"A decoder trained on one of {k} orientations has on the others so many times its loss there: "
        f"{each('index')}; exactly equivariant networks have 1."
    ]
    if all(row["index_turned_back"] for row in found["encoders"].values()):
        told.append(
            "With the encoder's features turned back to the decoder's orientation, which an equivariant encoder makes "
            f"1 whatever the decoder: {each('index_turned_back')}."
        )
    told.append(
        f"One decoder trained on all {k} for as many steps has so many times the loss of each on its own: "
        f"{each('shared')}."
    )
    return told


def can_turn_back(params: Params) -> bool:
    """Whether a network's channels do not mix when it turns: those of the plain U-Net, which has middle blocks."""
    return "middle_2" in params
