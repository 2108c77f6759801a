"""Symmetries a network was not shown: closed forms on small functions, and networks that have some and not others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equiscale as es
from equiscale.data.voxels import Grid
from equiscale.models.point_transformer import PointTransformer
from equiscale.models.steerable_unet import SteerableUNet
from equiscale.models.voxel_unet import VoxelUNet
from equiscale.studies import cross_symmetry as study
from equiscale.studies.cross_symmetry_figures import symmetries_figure, symmetries_table
from equiscale.tasks.denoise_points import Points
from equiscale.tasks.task import Pair, Task

GRID = Grid(4, 1.0, ("C", "H", "O", "N", "F"))
ELEMENTS = ("C", "H", "O", "N", "F")
VOXELS = study.voxel_cases(GRID)
POINTS = study.point_cases(ELEMENTS, 7)


def task_of(predict, x, y, mask=None):
    """One batch of given inputs and targets."""
    n = len(y)
    return Task(
        "given numbers", None, [], None, None, [jnp.zeros(n)], lambda batch: Pair(x, y, jnp.ones(n), mask), predict,
        None, jax.random.key(1),
    )  # fmt: skip


def grids(n=3, side=4):
    x = jax.random.normal(jax.random.key(0), (n, len(ELEMENTS), side, side, side))
    return x, jax.random.normal(jax.random.key(1), x.shape)


def clouds():
    """Molecules of 7 and 5 atoms, and their mask."""
    elements = jnp.array([[1, 2, 3, 4, 5, 1, 2], [2, 2, 1, 3, 1, 0, 0]])
    positions = jax.random.normal(jax.random.key(0), (2, 7, 3)) * (elements > 0)[..., None]
    return Points(positions, elements), positions, elements > 0


def percents(predict, cases, x, y, mask=None, params=()):
    task = task_of(lambda params, x: predict(params, x) if params != () else predict(x), x, y, mask)
    return {row["symmetry"]: row for row in study.measure(task, cases, [(0, params)])}


@pytest.mark.parametrize("act, group, shape", [
    (study.octants, es.full_octahedral, (2, 6, 6, 6)),
    (study.scrambled(4), es.full_octahedral, (2, 4, 4, 4)),
    (study.half_of_atoms, es.so3, (5, 3)),
    (study.relabel, es.permutations(4), None),
])  # fmt: skip
def test_they_are_actions(act, group, shape):
    g, h = (group.random(jax.random.key(i)) for i in (1, 2))
    x = jnp.array([1, 4, 2, 0, 3, 3]) if shape is None else jax.random.normal(jax.random.key(0), shape)
    np.testing.assert_allclose(act(group.multiply(g, h), x), act(g, act(h, x)), atol=1e-5)
    np.testing.assert_allclose(act(group.inverse(g), act(g, x)), x, atol=1e-5)
    assert not np.allclose(act(g, x), x)
    if shape is not None:
        np.testing.assert_allclose(jnp.linalg.norm(act(g, x)), jnp.linalg.norm(x), rtol=1e-5)


def test_an_octant_turns_as_a_grid_of_its_own():
    g = es.octahedral.random(jax.random.key(3))
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 6))
    turned = study.octants(g, x)
    np.testing.assert_array_equal(turned[:, :3, 3:, :3], es.grid(g, x[:, :3, 3:, :3]))
    with pytest.raises(ValueError, match=r"even side, got shape \[5, 5, 5\]"):
        study.octants(g, jnp.ones((5, 5, 5)))


def test_exchanges_are_as_many_as_the_cubes_rotations():
    drawn = study.exchanges(ELEMENTS).draw(None)[0]
    assert drawn.shape == (24, 5) and len({tuple(p) for p in drawn.tolist()}) == 24 and (drawn[:, 4] == 4).all()
    assert study.exchanges(("C", "H")).n_elements == 2


def blur(x, mode):
    """The mean over a voxel and its six neighbours."""
    padded = jnp.pad(x, ((0, 0), (0, 0), *[(1, 1)] * 3), mode=mode)
    middle = (slice(1, -1),) * 3
    shifted = [jnp.roll(padded, by, axis)[:, :, *middle] for axis in (2, 3, 4) for by in (-1, 1)]
    return (x + sum(shifted)) / 7


def test_a_convolution_with_circular_padding_obeys_translations_and_the_cube():
    x, y = grids()
    found = percents(lambda x: blur(x, "wrap"), VOXELS, x, y)
    for name in ("rotations", "rotations and reflections", "inversion", "translations", "element channels"):
        assert found[name]["percent"] < 1e-9, name
    assert found["octants"]["percent"] > 1 and found["scrambled rotations"]["percent"] > 1
    at_faces = percents(lambda x: blur(x, "constant"), VOXELS, x, y)
    assert at_faces["rotations"]["percent"] < 1e-9 < 0.1 < at_faces["translations"]["percent"]


def test_a_function_of_each_number_alone_obeys_all_that_moves_voxels():
    x, y = grids()
    for row in percents(jnp.tanh, VOXELS, x, y).values():
        assert row["percent"] == 0, row["symmetry"]


def test_keeping_one_channel_has_three_sixteenths_of_its_square():
    """Z(g) keeps one of four channels at random: E|Z - mu|^2 = x^2 (1/4 (3/4)^2 + 3/4 (1/4)^2) a voxel."""
    x, y = grids()
    kept = jnp.array([1.0, 0, 0, 0, 1])[:, None, None, None]
    found = percents(lambda x: x * kept, VOXELS, x, y)
    expected = 3 / 16 * jnp.square(x[:, :4]).sum((1, 2, 3, 4)).mean() / x[0].size
    np.testing.assert_allclose(found["element channels"]["equiv"], expected, rtol=1e-5)
    assert found["rotations"]["percent"] == found["translations"]["percent"] == 0
    plain = jnp.square(x * kept - y).mean()
    assert all(row["plain"] == pytest.approx(float(plain)) for row in found.values())


@pytest.fixture(scope="module")
def networks():
    """Every case of an untrained plain and of an untrained steerable U-Net, on one batch."""
    x, y = grids(2)
    levels = {"channel_multipliers": (1, 2), "attention_levels": (False, False)}
    plain = VoxelUNet(5, n_channels=4, n_groups=2, n_blocks=1, dropout=0, **levels)
    steerable = SteerableUNet(5, multiplicities=(4, 2, 1), n_levels=2, kernel_size=3)
    found = {}
    for name, model in {"plain": plain, "steerable": steerable}.items():
        params = jax.jit(model.init)(jax.random.key(0), x)
        found[name] = percents(model.apply, VOXELS, x, y, params=params)
    return found


def test_an_untrained_network_obeys_none_of_them(networks):
    assert all(row["percent"] > 1e-3 and not row["below_floor"] for row in networks["plain"].values())


def test_a_steerable_network_obeys_rotations_and_no_wrong_group(networks):
    found = networks["steerable"]
    assert found["rotations"]["percent"] < 1e-7
    for name in ("octants", "scrambled rotations", "element channels", "translations"):
        assert found[name]["percent"] > 1e-2, name


def test_points_that_are_shrunk_lag_behind_translations():
    """f(x) = a x: Z(t) - mu = -(1 - a)(t - E t), so that equiv = (1 - a)^2 sigma^2 a coordinate."""
    x, y, mask = clouds()
    found = percents(lambda x: 0.2 * x.positions, POINTS, x, y, mask)
    exact = {name: row["percent"] for name, row in found.items() if name != "translations"}
    assert max(exact.values()) < 1e-9, exact
    many = study.point_cases(ELEMENTS, 7)["translations"]
    sym = es.Symmetry(es.translations.normal(4_000, study.TRANSLATION), many.symmetry.act_in, many.symmetry.act_out)
    row = percents(lambda x: 0.2 * x.positions, {"t": many._replace(symmetry=sym)}, x, y, mask)["t"]
    np.testing.assert_allclose(row["equiv"], 0.64 * study.TRANSLATION**2, rtol=0.03)
    assert found["translations"]["percent"] == pytest.approx(row["percent"], rel=0.5)


def test_a_transformer_is_exact_in_the_order_of_atoms_alone():
    x, y, mask = clouds()
    model = PointTransformer(n_elements=5, width=8, heads=2, layers=1)
    params = jax.jit(model.init)(jax.random.key(0), *x)
    found = percents(lambda params, x: model.apply(params, *x), POINTS, x, y, mask, params)
    assert found["atom order"]["percent"] < 1e-7
    assert all(row["percent"] > 1e-2 for name, row in found.items() if name != "atom order")
    few = {name: POINTS[name] for name in ("elements", "rotations")}

    def blind(params, x):
        return model.apply(params, x.positions, jnp.minimum(x.elements, 1))

    found = percents(blind, few, x, y, mask, params)
    assert found["elements"]["percent"] == 0 and found["rotations"]["percent"] > 1e-2


@pytest.mark.parametrize("reach", [0, 1, 2])
def test_of_an_even_density_the_share_that_wraps_is_counted(reach):
    """Along an axis a shift by s leaves 1 - |s| / L inside."""
    inside = np.mean([1 - abs(s) / 6 for s in range(-reach, reach + 1)])
    found = study.wrapped_share(jnp.ones((2, 3, 6, 6, 6)), reach)
    assert found == pytest.approx(1 - inside**3)
    middle = jnp.zeros((1, 1, 6, 6, 6)).at[..., 2:4, 2:4, 2:4].set(1)
    assert study.wrapped_share(middle, reach) == 0


def test_the_figure_and_the_table_hold_every_row(networks, tmp_path):
    rows = [row | {"step": step} for step, name in ((0, "plain"), (9, "steerable")) for row in networks[name].values()]
    found = {"title": "untrained networks", "rows": rows}
    lines = symmetries_table(found).splitlines()
    assert len(lines) == 1 + len(rows) and "octants" in lines[6] and lines[6].split()[2] == "no"
    figure = symmetries_figure(found)
    figure.savefig(tmp_path / "symmetries.png")
    assert (tmp_path / "symmetries.png").stat().st_size > 10_000
    assert len(figure.axes[0].get_yticks()) == len(VOXELS)
