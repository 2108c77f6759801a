"""Curvature and equivariant subspaces of a trained voxel denoiser: what the figures and the report are drawn from."""

import json
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import equiscale as es
from equiscale import curvature, landscape, subspace
from equiscale.components import Components
from equiscale.head_range import head_range
from equiscale.lanczos import Density
from equiscale.landscape import Plane
from equiscale.parameters import by_path, insert
from equiscale.spectrum import Spectrum
from equiscale.tasks.task import Task, first_of

Progress = Callable[[Iterable], Iterable]
PARTS = ("mean", "equiv")


class Curvature(NamedTuple):
    """Spectra of the dense Hessians and a plane through their extreme directions, of one checkpoint."""

    spectra: dict[str, Spectrum]  # total, mean, equiv
    plane: Plane
    names: tuple[str, ...]  # parameters
    n_molecules: int


def components_of(task: Task, params: Any, only: str | Sequence[str], n_molecules: int) -> Components:
    """The components on the first training molecules, in float64: closed forms, or over the task's group elements."""
    return task.components(params, first_of(task.train[0], n_molecules), only=only)


def densities(
    task: Task, params: Any, *, only: str, n_molecules: int, n_probes: int, n_steps: int, progress: Progress = iter
) -> dict[str, Density]:
    """Spectral densities of both Hessians, matrix-free."""
    of = components_of(task, params, only, n_molecules)
    settings = {"key": jax.random.key(0), "n_probes": n_probes, "n_steps": n_steps, "progress": progress}
    return {part: curvature.density(of, part, **settings) for part in PARTS}


def dense(
    task: Task,
    params: Any,
    *,
    only: str,
    n_molecules: int,
    learning_rate: float,
    half_width: int,
    limit: int = curvature.MOST_DENSE,
    progress: Callable[[Iterable, str], Iterable] = lambda items, what: items,
) -> Curvature:
    """Dense spectra and the paper's loss plane: one step is 2.5 learning rates times the norm of the whole gradient.

    Hessians of a force head and the network before it are made and diagonalised in their range, half of all directions.
    Raises what `curvature.hessians` raises, beyond `limit` parameters for one.
    """
    of = components_of(task, params, only, n_molecules)
    within = head_range(of)
    found = curvature.hessians(of, within=within, limit=limit, progress=lambda blocks: progress(blocks, "Hessians"))
    found["total"] = found["mean"] + found["equiv"]
    spectra = {}
    for part in progress((*PARTS, "total"), "eigenvalues"):
        matrix = found.pop(part)  # each is let go before the solver's copies of the next
        if part != "total":
            spectra[part] = Spectrum.of(matrix, of.n)
            continue
        values, vectors = np.linalg.eigh(matrix)
        spectra[part] = Spectrum.known(values, np.finfo(values.dtype).eps, of.n)
    axes = landscape.eigen_axes(values, vectors)
    if within is not None:
        axes = within.lift(np.stack(axes), of.n)
    gradient = jax.jit(task.gradients)(params, first_of(task.train[0], n_molecules)).norms.total
    step = landscape.paper_step(learning_rate, float(gradient))
    plane = landscape.plane(of, *axes, step, half_width=half_width)
    return Curvature(spectra, plane, of.names, n_molecules)


# --- kernels of the cube's symmetry ------------------------------------------------------------------------------


def symmetric_kernels(params: Any) -> tuple[subspace.Split, dict[str, float]]:
    """Every convolution kernel split by the cube's rotations, channels taken as scalars; and the share outside.

    A network with symmetric kernels alone is equivariant if its downsampling is ("symmetric", not "published").
    """
    kernels = {path: leaf for path, leaf in by_path(params).items() if path.endswith("kernel") and leaf.ndim == 5}
    parts = subspace.split(kernels, es.octahedral.enumerate(), subspace.convolution())

    def share(path):
        return float(np.sum(np.square(parts.complement[path])) / np.sum(np.square(kernels[path])))

    names = sorted((path for path in kernels if kernels[path].shape[0] > 1), key=_depth)
    return parts, {path.removesuffix("/kernel"): share(path) for path in names}


def _depth(path: str) -> tuple[int, int, str]:
    """Where in the U-Net a kernel stands."""
    name, _, number = path.split("/")[0].partition("_")
    return ("stem", "down", "middle", "up", "head").index(name), int(number or 0), path


def knob(task: Task, params: Any, parts: subspace.Split, scales: Sequence[float], n_molecules: int) -> dict[str, list]:
    """Mean and equivariance loss of W_E + s W_perp for each s, all kernels together."""
    batch = first_of(task.validation[0], n_molecules)
    run = jax.jit(lambda s: task.evaluate(insert(params, parts.scaled(s)), batch))
    found = [run(s) for s in scales]
    return {"s": list(scales), **{part: [float(getattr(d, part)) for d in found] for part in PARTS}}


# --- files ---------------------------------------------------------------------------------------------------------


def save_densities(path: pathlib.Path, found: dict[str, Density]) -> None:
    arrays = {f"{part}_{name}": getattr(d, name) for part, d in found.items() for name in ("nodes", "weights", "n")}
    part = path.with_name(f"part-{path.name}")  # moved into place whole: what is there is not made again
    np.savez_compressed(part, **arrays)
    part.replace(path)


def load_densities(path: pathlib.Path) -> dict[str, Density]:
    with np.load(path) as f:
        return {p: Density(f[f"{p}_nodes"], f[f"{p}_weights"], int(f[f"{p}_n"])) for p in PARTS}


def save_curvature(folder: pathlib.Path, label: str, found: Curvature) -> None:
    """Eigenvalues and losses as `<label>.npz`, the numbers as `<label>.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {f"eigenvalues_{part}": s.eigenvalues for part, s in found.spectra.items()}
    arrays |= {f"plane_{part}": values for part, values in found.plane.losses.items()}
    np.savez_compressed(folder / f"{label}.npz", plane_a=found.plane.a, plane_b=found.plane.b, **arrays)
    numbers = {"parameters": found.names, "n_molecules": found.n_molecules}
    numbers |= {part: s.record() for part, s in found.spectra.items()}
    (folder / f"{label}.json").write_text(json.dumps(numbers, indent=2))


def load_curvature(folder: pathlib.Path, label: str) -> Curvature:
    """What `save_curvature` saved. Raises FileNotFoundError where it did not."""
    about = json.loads((folder / f"{label}.json").read_text())
    with np.load(folder / f"{label}.npz") as f:
        spectra = {part: Spectrum.known(f[f"eigenvalues_{part}"], np.finfo(float).eps) for part in ("total", *PARTS)}
        losses = {name.removeprefix("plane_"): f[name] for name in f.files if name[6:] in spectra}
        plane = Plane(f["plane_a"], f["plane_b"], losses)
    return Curvature(spectra, plane, tuple(about["parameters"]), about["n_molecules"])
