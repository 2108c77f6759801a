"""Do latents learn to respect rotations? Section 3.5, D.3 and Figure 9 of the training-dynamics paper, along training.

Reads the folder of a denoising run, or of a quickstart with its arms: config.json and the checkpoints. A latent is
captured by name from the unchanged network, for the same molecules and the same noise at every checkpoint. Each
molecule's noisy grid is turned as it is, exactly, so what is measured is the network's symmetry alone; only the Lie
derivative turns coordinates and voxelises again. The noisy molecules lie as their conformers do before they are turned.
"""

import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

import equiscale as es
from equiscale.actions import Action
from equiscale.data.molecules import Molecules, join
from equiscale.lie import LieDerivative
from equiscale.models.steerable_unet import SteerableUNet
from equiscale.models.voxel_unet import VoxelUNet
from equiscale.studies.latent_measures import (
    AXIS_TURNS,
    CUBE,
    coarse,
    cosines,
    encode_turned,
    make_encoder,
    motion_record,
    pooled_motion,
    probe_targets,
    probes,
    representations,
)
from equiscale.tasks import denoise_voxels
from equiscale.tasks.molecule_sets import MoleculeSplit, Structures, batches, structures
from equiscale.tasks.voxels import add_noise, densities, make_model
from equiscale.training.checkpoints import restore_params, saved_steps

BATCH = 25  # molecules encoded at once


# --- the run folder --------------------------------------------------------------------------------------------


class Checkpoint(NamedTuple):
    arm: str  # label
    folder: pathlib.Path
    step: int
    last: bool


def find_checkpoints(
    workdir: pathlib.Path, config: ConfigDict, only: Sequence[str] = (), steps: Sequence[int] = ()
) -> list[Checkpoint]:
    """What to measure: of each arm (all, or those in `only`) the given steps, or the untrained and four trained ones.

    A run without arms is one of its own.

    Raises ValueError for arms and steps that there are not, FileNotFoundError for an arm without checkpoints.
    """
    if "arm" in config:
        raise ValueError(f"{workdir} is the arm {config.arm!r} of a run: give the folder above it as --workdir")
    arms = arms_of(config)
    folders = {arm: pathlib.Path(workdir) / (arm if "arms" in config else "") for arm in arms.values()}
    unknown = set(only) - set(arms.values())
    if unknown:
        raise ValueError(f"{workdir} has no arm {', '.join(sorted(unknown))}; there are {', '.join(arms.values())}")
    found = []
    for label, arm in arms.items():
        if only and arm not in only:
            continue
        chosen = chosen_steps(folders[arm], steps)
        found += [Checkpoint(label, folders[arm], step, step == chosen[-1]) for step in chosen]
    return found


def arms_of(config: ConfigDict) -> Mapping[str, str]:
    """Label and augmentation of each arm of a run. Raises ValueError for a run that is not of denoising voxels."""
    if config.task != "denoise_voxels":
        raise ValueError(f"latents are measured of runs of denoise_voxels, and this run's task is {config.task}")
    return config.arms if "arms" in config else {f"augmentation {config.augmentation}": config.augmentation}


def chosen_steps(folder: pathlib.Path, steps: Sequence[int] = (), also: Sequence[int] = ()) -> list[int]:
    """The given checkpoints of one run, or those of `log_spaced`; `also` are steps that are there without being saved.

    Raises ValueError for one that there is not.
    """
    saved = sorted({*saved_steps(folder), *also})
    missing = sorted(set(steps) - set(saved))
    if missing:
        raise ValueError(f"{folder} has no checkpoint of step {missing[0]}; there are {', '.join(map(str, saved))}")
    return sorted(set(steps)) or log_spaced(saved)


def log_spaced(saved: Sequence[int], n: int = 4) -> list[int]:
    """Step 0 where it was saved, and about n of the others up to the last, even in their logarithm."""
    trained = np.array([step for step in saved if step > 0])
    if len(trained) == 0:
        return list(saved)
    wanted = np.geomspace(trained[0], trained[-1], n)
    nearest = trained[np.abs(np.log(trained) - np.log(wanted)[:, None]).argmin(1)]
    return sorted({*(step for step in saved if step == 0), *nearest.tolist()})


def choose_molecules(split: MoleculeSplit, n: int) -> tuple[Molecules, int]:
    """n molecules, those held out from training first, and how many of these there are among them."""
    held_out = min(n, len(split.validation))
    more = min(n - held_out, len(split.train))
    parts = [split.validation.subset(np.arange(held_out)), split.train.subset(np.arange(more))]
    return join([part for part in parts if len(part)]), held_out


def default_latent(model: VoxelUNet | SteerableUNet) -> str:
    """The name of a U-Net's bottleneck: its last block before the way up."""
    return f"*/down_{model.n_levels - 1}" if isinstance(model, SteerableUNet) else "*/middle_2"


def latent_action(model: VoxelUNet | SteerableUNet, latent: str) -> Action:
    """How rotations are to act on a latent `[c, l, l, l]`: on the grid, and on the channels by their irreps, if any.

    Raises ValueError for a latent of a steerable network whose irreps are not known from its name.
    """
    if not isinstance(model, SteerableUNet):
        return es.grid
    block = re.search(r"(?:down|up)_(\d+)$", latent)
    if block is None:
        raise ValueError(
            f"how the latent {latent!r} of a steerable network turns is not known: choose a whole block, such as "
            f"{default_latent(model)}"
        )
    return model.action(int(block[1]))


# --- a whole run -----------------------------------------------------------------------------------------------


def measure_run(
    workdir: pathlib.Path,
    config: ConfigDict,
    *,
    latent: str | None = None,
    only: Sequence[str] = (),
    steps: Sequence[int] = (),
    n_molecules: int = 200,
    cache_dir: str | None = None,
) -> dict[str, Any]:
    """All numbers of a run as plain data: what was measured on, and one row for each arm and checkpoint.

    Cosines and the Lie derivative for every row; fitted representations and probes, which need latents of all 24
    rotations, for the untrained network and each arm's last. `pooled` is the mean over voxels, `spatial` what
    `coarse` makes.

    `latent` is by default that of the bottleneck.

    Raises what `find_checkpoints`, `latent_action`, `make_encoder` and `denoise_voxels.from_config` raise.
    """
    checkpoints = find_checkpoints(workdir, config, only, steps)
    experiment = denoise_voxels.from_config(config, next(iter(arms_of(config).values())), cache_dir)
    grid = experiment.grid
    model = make_model(config.model.preset, grid)
    latent = latent or default_latent(model)
    act_latent = latent_action(model, latent)
    molecules, n_validation = choose_molecules(experiment.molecules, n_molecules)
    n = len(molecules)
    data = structures(molecules)
    parts = batches(data, min(BATCH, n))
    noise_key, key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 4))

    phi = make_encoder(experiment.task.predict, latent)
    turned_phi = jax.jit(lambda params, g, x: phi(params, es.grid(g, x)))
    motion = jax.jit(lambda params, batch: pooled_motion(phi, grid, params, batch))

    @jax.jit
    def noisy(batch):
        clean = densities(grid, batch.positions, batch.species)
        return add_noise(clean, config.noise_sigma, noise_key, batch.ids)

    grids, targets, rows = [noisy(batch) for batch in parts], probe_targets(data), []
    # Before anything is measured: a latent that is not there or no grid is refused here.
    shape = jax.eval_shape(lambda x: phi(experiment.task.init(key), x), grids[0]).shape[1:]
    first = None  # parameters and row of the first untrained network
    bar = tqdm(checkpoints, desc="latents", unit="checkpoint")
    for point in bar:
        bar.set_postfix_str(f"{point.folder.name}, step {point.step}")
        _, params = restore_params(point.folder, point.step)
        if point.step == 0 and first is not None and _same_params(params, first[0]):
            rows.append(first[1] | {"arm": point.arm, "folder": point.folder.name})  # arms start from the same network
            continue
        fitted = point.last or point.step == 0
        turns = CUBE if fitted else CUBE[: len(AXIS_TURNS) + 1]
        z = encode_turned(turned_phi, params, grids, n, turns)
        row = {"arm": point.arm, "folder": point.folder.name, "step": point.step, **cosines(z, key, act_latent)}
        row["lie"] = _sum_motion(motion, params, parts, n)
        if fitted:
            kinds = {"pooled": z.mean((-3, -2, -1)), "spatial": coarse(z)}
            row["representation"] = {kind: representations(z, key) for kind, z in kinds.items()}
            row["probes"] = {kind: probes(z, targets, key) for kind, z in kinds.items()}
        rows.append(row)
        first = (params, row) if point.step == 0 else first
    density = jax.jit(lambda params, batch: pooled_motion(lambda _, x: x, grid, params, batch))
    return {
        "latent": latent,
        "shape": list(shape),
        "task": f"denoising voxelised NCI molecules, {grid.length}³ grid of {grid.resolution:g} Å",
        "molecules": {"n": n, "n_validation": n_validation, "source": molecules.source},
        "noise_sigma": config.noise_sigma,
        # What voxelising alone leaves of invariance: the same derivative of the mean density of each channel.
        "lie_of_input": _sum_motion(density, (), parts, n),
        "rows": rows,
    }


@jax.jit
def _merged(parts: list[LieDerivative]) -> LieDerivative:
    return sum(parts)


def _sum_motion(motion: Callable, params: Any, data: Sequence[Structures], n: int) -> dict[str, Any]:
    parts = [motion(params, batch) for batch in data]
    return motion_record(_merged([lie for lie, _ in parts]), np.concatenate([values for _, values in parts])[:n])


def _same_params(a: Any, b: Any) -> bool:
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


# --- in words --------------------------------------------------------------------------------------------------


def sentences(found: Mapping[str, Any]) -> list[str]:
    """What was found, in three sentences of numbers about each arm's last checkpoint."""
    rows = {f"{row['arm']}, step {row['step']}": row for row in {row["arm"]: row for row in found["rows"]}.values()}
    untrained = next((row for row in found["rows"] if row["step"] == 0), None)
    rows = ({"untrained": untrained} if untrained else {}) | rows

    def each(text: Callable[[Mapping[str, Any]], str]) -> str:
        return "; ".join(f"{text(row)} ({name})" for name, row in rows.items())

    def cosine(test):
        def text(row):
            raw, centred = row[test]["raw"], row[test]["centred"]["all"]
            medians = f"{raw['all']['median']:.3f} against {raw['different']['median']:.3f}"
            return f"{medians}, {centred['auc']:.2f} ± {2 * centred['auc_stderr']:.2f}"

        return text

    def moments(row):
        fit = row["probes"]["pooled"]["second moments"]
        return f"{fit['r2']:.2f} ± {2 * fit['r2_stderr']:.2f}"

    # A random axis has a third of the square over all three.
    ten_degrees = np.deg2rad(10) / np.sqrt(3) * 100
    return [
        f"Is the latent {found['latent']} equivariant? Median cosine of a turned molecule's latent with its turned "
        f"latent against that of different molecules, and how often it is the larger once centred: "
        f"{each(cosine('equivariance'))}.",
        f"Is its mean over voxels invariant (the published cosine)? The same: {each(cosine('invariance'))}.",
        f"A linear probe reads orientation (second moments) from that mean with R² {each(moments)}, and at its Lie "
        "derivative a turn by 10° moves it, in percent of its spread between molecules, by "
        f"{each(lambda row: format(ten_degrees * row['lie']['rate'], '.0f'))}.",
    ]
