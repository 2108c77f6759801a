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


def measured(predict, cases, names, x, y, mask=None, params=()):
    """The record of each named case, of `predict(params, x)`."""
    task = task_of(predict, x, y, mask)
    return {name: study.make_measure(task, cases[name].symmetry)(params).check().record() for name in names}


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
    names = ("rotations and reflections", "translations", "octants")
    found = measured(lambda _, x: blur(x, "wrap"), VOXELS, names, x, y)
    assert found["rotations and reflections"]["percent"] < 1e-9 and found["translations"]["percent"] < 1e-9
    assert found["octants"]["percent"] > 1
    at_faces = measured(lambda _, x: blur(x, "constant"), VOXELS, ["translations"], x, y)
    assert at_faces["translations"]["percent"] > 0.1


def test_a_function_of_each_number_alone_obeys_all_that_moves_voxels():
    x, y = grids()
    names = ("translations", "element channels", "octants", "scrambled rotations")
    found = measured(lambda _, x: jnp.tanh(x), VOXELS, names, x, y)
    assert max(row["percent"] for row in found.values()) < 1e-11


def test_keeping_one_channel_has_three_sixteenths_of_its_square():
    """Z(g) keeps one of four channels at random: E|Z - mu|^2 = x^2 (1/4 (3/4)^2 + 3/4 (1/4)^2) a voxel."""
    x, y = grids()
    kept = jnp.array([1.0, 0, 0, 0, 1])[:, None, None, None]
    task = task_of(lambda params, x: params * x * kept, x, y)
    cases = {"element channels": VOXELS["element channels"]}
    rows = study.measure(task, cases, [(0, 1.0), (7, 2.0)])
    expected = 3 / 16 * np.square(x[:, :4]).sum((1, 2, 3, 4)).mean() / x[0].size
    for row, step, factor in zip(rows, (0, 7), (1, 2), strict=True):
        assert (row["step"], row["symmetry"], row["of_task"]) == (step, "element channels", False)
        assert row["equiv"] == pytest.approx(factor**2 * expected, rel=1e-5)
        assert row["plain"] == pytest.approx(float(jnp.square(factor * x * kept - y).mean()), rel=1e-5)


@pytest.mark.slow  # a quarter of a minute
def test_an_untrained_network_obeys_none_of_them():
    x, y = grids(2)
    model = VoxelUNet(
        5, n_channels=2, n_groups=1, channel_multipliers=(1,), attention_levels=(False,), n_blocks=1, dropout=0
    )
    params = jax.jit(model.init)(jax.random.key(0), x)
    for name, row in measured(model.apply, VOXELS, VOXELS, x, y, params=params).items():
        assert row["percent"] > 1e-3 and not row["below_floor"], name


def test_a_steerable_network_obeys_rotations_and_no_wrong_group():
    x, y = grids(2)
    model = SteerableUNet(5, multiplicities=(2, 1, 1), n_levels=1, kernel_size=3)
    params = jax.jit(model.init)(jax.random.key(0), x)
    params = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), params)
    found = measured(model.apply, VOXELS, ("rotations", "octants", "scrambled rotations"), x, y, params=params)
    assert found["rotations"]["percent"] < 1e-7
    assert found["octants"]["percent"] > 0.1 and found["scrambled rotations"]["percent"] > 0.1


def test_points_that_are_shrunk_lag_behind_translations():
    """f(x) = a x: Z(t) - mu = -(1 - a)(t - E t), so that equiv = (1 - a)^2 sigma^2 a coordinate."""
    x, y, mask = clouds()
    symmetry = POINTS["translations"].symmetry
    many = es.Symmetry(es.translations.normal(4_000, study.TRANSLATION), symmetry.act_in, symmetry.act_out)
    cases = POINTS | {"many translations": POINTS["translations"]._replace(symmetry=many)}
    names = ("rotations and reflections", "translations", "many translations")
    found = measured(lambda _, x: 0.2 * x.positions, cases, names, x, y, mask)
    assert found["rotations and reflections"]["percent"] < 1e-9
    np.testing.assert_allclose(found["many translations"]["equiv"], 0.64 * study.TRANSLATION**2, rtol=0.03)
    assert found["translations"]["equiv"] == pytest.approx(found["many translations"]["equiv"], rel=0.4)


def test_a_transformer_is_exact_in_the_order_of_atoms_alone():
    x, y, mask = clouds()
    model = PointTransformer(n_elements=5, width=8, heads=2, layers=1)
    params = jax.jit(model.init)(jax.random.key(0), *x)
    found = measured(lambda params, x: model.apply(params, *x), POINTS, POINTS, x, y, mask, params)
    assert found["atom order"]["percent"] < 1e-7
    assert all(row["percent"] > 1e-2 for name, row in found.items() if name != "atom order")


def test_what_does_not_read_the_elements_does_not_mind_their_exchange():
    x, y, mask = clouds()

    def centred(_, x):
        return (x.positions - x.positions.mean(1, keepdims=True)) * mask[..., None]

    found = measured(centred, POINTS, ("elements", "all rotations", "half of the atoms"), x, y, mask)
    assert found["elements"]["percent"] < 1e-10 and found["all rotations"]["percent"] < 1e-9
    assert found["half of the atoms"]["percent"] > 0.1


@pytest.mark.parametrize("reach", [0, 1, 2])
def test_of_an_even_density_the_share_that_wraps_is_counted(reach):
    """Along an axis a shift by s leaves 1 - |s| / L inside."""
    inside = np.mean([1 - abs(s) / 6 for s in range(-reach, reach + 1)])
    found = study.wrapped_share(jnp.ones((2, 3, 6, 6, 6)), reach)
    assert found == pytest.approx(1 - inside**3)
    middle = jnp.zeros((1, 1, 6, 6, 6)).at[..., 2:4, 2:4, 2:4].set(1)
    assert study.wrapped_share(middle, reach) == 0


def test_the_figure_and_the_table_hold_every_row(tmp_path):
    rows = [
        {
            "step": step, "symmetry": name, "of_task": case.of_task, "plain": 2.0, "total": 3.0, "equiv": 1.2,
            "percent": 40.0 / (step + 1), "percent_stderr": 0.5,
            "floor": 1e-11, "below_floor": name == "inversion", "measure": "some()",
        }
        for step in (0, 9) for name, case in VOXELS.items()
    ]  # fmt: skip
    found = {"title": "made-up rows", "rows": rows}
    lines = symmetries_table(found).splitlines()
    assert len(lines) == 1 + len(rows) and "octants" in lines[6] and lines[6].split()[2] == "no"
    assert "1.5  " in lines[6] and "40 ± 1 %" in lines[6] and "(floor)" in lines[3]
    figure = symmetries_figure(found)
    figure.savefig(tmp_path / "symmetries.png")
    assert (tmp_path / "symmetries.png").stat().st_size > 10_000
    assert len(figure.axes[0].get_yticks()) == len(VOXELS)
