"""The curvature study on the smallest voxel task: what is saved is what was measured, and both agree with autodiff."""

import jax
import numpy as np
import pytest

import equiscale as es
from equiscale.parameters import insert, select
from equiscale.spectrum import Spectrum
from equiscale.studies import curvature_by_arm
from equiscale.studies import curvature_study as study
from equiscale.studies import instrument_figures as figures
from equiscale.tasks.task import first_of
from tests.tasks.test_denoise_voxels import make


@pytest.fixture(scope="module")
def trained():
    task = make()
    return task, jax.jit(task.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def measured(trained):
    task, params = trained
    return study.dense(task, params, only="norm/*", n_molecules=2, learning_rate=1e-3, half_width=2)


@pytest.mark.slow  # its numbers are tested in test_curvature, its files and figures in test_quickstart
def test_losses_in_the_middle_of_the_plane_are_the_networks_own(trained, measured):
    task, params = trained
    d = jax.jit(task.evaluate)(params, first_of(task.train[0], 2))
    for part in ("total", "mean", "equiv"):
        np.testing.assert_allclose(measured.plane.losses[part][2, 2], getattr(d, part), rtol=1e-4)
    assert measured.names == ("norm/bias", "norm/scale") and len(measured.spectra["mean"].eigenvalues) == 8
    slope = jax.jit(task.gradients)(params, first_of(task.train[0], 2)).norms.total
    np.testing.assert_allclose(measured.plane.a[1], -2.5e-3 * slope, rtol=1e-4)


@pytest.mark.slow  # its numbers are tested in test_curvature, its files and figures in test_quickstart
def test_densities_count_the_eigenvalues_of_the_dense_hessians(trained, measured):
    task, params = trained
    found = study.densities(task, params, only="norm/*", n_molecules=2, n_probes=1, n_steps=8)
    for part, density in found.items():  # as many steps as parameters: every eigenvalue is a node of each probe
        eigenvalues = measured.spectra[part].eigenvalues
        np.testing.assert_allclose(density.nodes[0], eigenvalues, atol=1e-7 * np.abs(eigenvalues).max())


@pytest.mark.slow  # its numbers are tested in test_curvature, its files and figures in test_quickstart
def test_files_give_back_what_was_saved_and_figures_are_drawn(trained, measured, tmp_path):
    task, params = trained
    study.save_curvature(tmp_path, "cube-0", measured)
    saved = study.load_curvature(tmp_path, "cube-0")
    assert saved.names == measured.names and saved.n_molecules == measured.n_molecules
    assert set(saved.spectra) == set(measured.spectra) and set(saved.plane.losses) == set(measured.plane.losses)
    assert saved.spectra["mean"].record() == measured.spectra["mean"].record()
    np.testing.assert_array_equal(saved.plane.losses["equiv"], measured.plane.losses["equiv"])
    said = curvature_by_arm.sections(tmp_path, {"one": [tmp_path], "two": [tmp_path] * 2}, "cube-0.json")
    assert "two, run 2" in said[0][1] and f"{saved.spectra['equiv'].condition_above_noise:.2g}" in said[0][1]
    assert len((tmp_path / "curvature.csv").read_text().splitlines()) == 1 + 3 * 2
    density = study.densities(task, params, only="norm/*", n_molecules=1, n_probes=2, n_steps=3)
    study.save_densities(tmp_path / "density.npz", density)
    again = study.load_densities(tmp_path / "density.npz")
    np.testing.assert_array_equal(again["equiv"].weights, density["equiv"].weights)
    for figure in (
        figures.spectrum_figure({"mean": measured.spectra["mean"], "equiv": Spectrum.known(np.eye(3)[0], 1e-16)}, "x"),
        figures.plane_figure(measured.plane, "x"),
        figures.density_figure(again, "x"),
    ):
        figure.savefig(tmp_path / "figure.png")


@pytest.mark.slow  # symmetric downsampling is tested in test_voxel_unet
def test_a_network_of_symmetric_kernels_is_equivariant_if_its_downsampling_is(trained):
    task, params = trained
    parts, outside = study.symmetric_kernels(params)
    assert next(iter(outside)) == "stem" and list(outside)[-1] == "head"
    assert all(0.5 < share < 1 for share in outside.values())
    knob = study.knob(task, params, parts, (0.0, 1.0), n_molecules=2)
    assert knob["equiv"][0] < knob["equiv"][1]

    model = make(downsample="symmetric")
    params = jax.jit(model.init)(jax.random.key(0))
    parts, _ = study.symmetric_kernels(params)
    twin = insert(params, parts.scaled(0.0))
    x, y, *_ = model.pair(first_of(model.train[0], 2))
    d = jax.jit(lambda p: es.decompose(lambda x: model.predict(p, x), model.symmetry, x, y, key=jax.random.key(0)))
    assert d(params).percent > 1
    assert d(twin).percent < 1e-6, "exactly equivariant up to rounding"
    assert select(twin, "stem/kernel")["stem/kernel"].shape == (3, 3, 3, 2, 4)
