import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import equiscale as es
from equiscale.twirl import draw_elements
from tests import reference
from tests.test_twirl import MEASURES, network, points

KEY = jax.random.key(7)


def symmetry(measure, act=es.vectors):
    return es.Symmetry(measure, act, act)


def twisted_predictions(f, measure, x):
    elements, weights = draw_elements(measure, KEY, jnp.arange(len(x)))
    twist = jax.vmap(jax.vmap(es.twist(f, symmetry(measure)), (0, None)), (0, None))
    return twist(elements, x), weights


@pytest.mark.parametrize("plug_in", [False, True])
@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_matches_the_float64_reference_at_every_chunk(measure, plug_in):
    f, x, y = network(), points(), points(seed=2)
    expected = reference.decompose(*_with_weights(twisted_predictions(f, measure, x), y))
    corrected = measure.n_units > 1 and not plug_in
    names = ("unbiased_mean", "unbiased_equiv") if corrected else ("mean", "equiv")
    for chunk in (1, 3, None):
        d = es.decompose(f, symmetry(measure), x, y, key=KEY, plug_in=plug_in, per_example=True, chunk=chunk)
        for name, wanted in zip(("total", "mean", "equiv"), ("total", *names), strict=True):
            np.testing.assert_allclose(d.per_example[name], expected[wanted], rtol=2e-5, atol=1e-7)
            np.testing.assert_allclose(getattr(d, name), expected[wanted].mean(), rtol=2e-5)
        assert d.identity_error < 1e-6
        assert d.measure == measure.name


def _with_weights(pair, y):
    z, weights = pair
    return z, y, weights


def test_independent_draws_are_corrected_by_k_over_k_minus_1_and_cosets_are_not():
    f, x = network(), points()
    for measure, factor in ((es.so3.haar(10), 10 / 9), (es.so3.coset(12), 1), (es.octahedral.enumerate(), 1)):
        plug_in = es.decompose(f, symmetry(measure), x, x, key=KEY, plug_in=True)
        d = es.decompose(f, symmetry(measure), x, x, key=KEY)
        np.testing.assert_allclose(d.equiv, factor * plug_in.equiv, rtol=1e-5)
        np.testing.assert_allclose(d.total, plug_in.total)


@jax.jit
def decompose_family(w, shift, x):
    return es.decompose(lambda x: jnp.sin(x @ w) + shift * x, symmetry(es.so3.haar(4)), x, shift * x, key=KEY)


@given(seed=st.integers(0, 2**31 - 2), scale=st.floats(0.05, 3), shift=st.floats(-50, 50))
def test_the_identity_holds_for_any_function_and_scale(seed, scale, shift):
    """Proposition 1, also where predictions are large against their errors (cancellation)."""
    w = scale * jax.random.normal(jax.random.key(seed), (3, 3))
    d = decompose_family(w, shift, jax.random.normal(jax.random.key(seed + 1), (4, 5, 3)))
    assert d.total > 0
    assert d.identity_error < 1e-4


@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_an_equivariant_function_is_at_the_floor(measure):
    x = points(8)

    def equivariant(x):
        return x * jnp.square(x).sum(-1, keepdims=True) + jnp.cross(x, jnp.roll(x, 1, axis=1))

    d = es.decompose(equivariant, symmetry(measure), x, jnp.zeros_like(x), key=KEY)
    assert d.percent < 1e-9 and d.floor < 1e-9
    assert d.percent < 100 * d.floor, "rounding inside the model is within a factor of the floor"


def test_below_the_floor_is_marked():
    x = points(8)
    d = es.decompose(lambda x: x, symmetry(es.octahedral.enumerate()), x, 0 * x, key=KEY)
    assert d.below_floor and "floor" in str(d) and d.record()["below_floor"] is True
    rough = es.decompose(network(), symmetry(es.octahedral.enumerate()), x, 0 * x, key=KEY)
    assert not rough.below_floor and rough.percent > 1e6 * rough.floor


def test_a_low_precision_model_raises_the_floor():
    x = points(8)

    def rounded(x):
        return jnp.round(256 * x) / 256

    sym = symmetry(es.so3.haar(12))
    plain = es.decompose(rounded, sym, x, 0 * x, key=KEY)
    assert not plain.below_floor, "float32 output hides the rounding ..."
    known = es.decompose(rounded, sym, x, 0 * x, key=KEY, reference=lambda x: x)
    assert known.floor > 0.3 * known.percent > 1e-5, "... until a reference shows it"
    declared = es.decompose(lambda x: x.astype(jnp.bfloat16), sym, x, 0 * x, key=KEY)
    assert declared.below_floor
    same = es.decompose(network(), sym, x, 0 * x, key=KEY, reference="highest")
    assert same.floor < 1e-9, "CPU products are exact float32 already"


def test_one_coset_is_blind_to_what_commutes_with_its_subgroup_and_two_are_not():
    """The 12 rotations are signed permutations, so any odd function of single components commutes with them."""
    x = points(8)
    truth = es.decompose(jnp.tanh, symmetry(es.so3.quadrature(12)), x, 0 * x, key=KEY).percent
    one = es.decompose(jnp.tanh, symmetry(es.so3.coset(12)), x, 0 * x, key=KEY)
    two = es.decompose(jnp.tanh, symmetry(es.so3.coset(12, n=8)), x, 0 * x, key=KEY)
    assert one.percent < 1e-9 and "biased" in one.estimator
    assert abs(two.percent - truth) < 0.25 * truth


def test_signal_relative_error_of_a_linear_map():
    """R^T W R has mean tr(W)/3 and variance tr(W^T W)/3 - (tr W/3)^2, both times |x|^2."""
    w = jnp.array([[1.0, 2, 0], [0, 1, 0], [0.5, 0, 2]])
    d = es.decompose(lambda x: x @ w.T, symmetry(es.octahedral.enumerate()), points(), 0 * points(), key=KEY)
    mean = (jnp.trace(w) / 3) ** 2
    np.testing.assert_allclose(d.signal_relative, (jnp.trace(w.T @ w) / 3 - mean) / mean, rtol=1e-5)


# --- masks, weights, padding, merging --------------------------------------------------------------------------


def numbers(d):
    return {k: v for k, v in d.record().items() if isinstance(v, float)}


def assert_same(a, b, rtol=2e-5):
    for name, value in numbers(a).items():
        if name != "identity_error":
            # The variance behind a standard error is a small difference, and loses digits in float32.
            digits = 50 * rtol if name.endswith("stderr") else rtol
            np.testing.assert_allclose(value, numbers(b)[name], rtol=digits, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("measure", [es.so3.haar(4), es.so3.coset(12, n=2), es.octahedral.enumerate()], ids=str)
def test_padding_changes_nothing(measure):
    """Ragged batches padded with zero weight, and molecules padded under a mask, give the unpadded numbers."""
    f, x, y = network(), points(5), points(5, seed=2)
    whole = es.decompose(f, symmetry(measure), x, y, key=KEY)
    garbage = jnp.full((3, 3, 3), 1e6)
    padded = es.decompose(
        f,
        symmetry(measure),
        jnp.concatenate([x, garbage]),
        jnp.concatenate([y, garbage.at[0, 0].set(jnp.inf)]).at[-1].set(0),
        key=KEY,
        weight=jnp.array([1.0] * 5 + [0] * 3),
        mask=jnp.ones((8, 3)).at[5:].set(0),
    )
    assert_same(whole, padded)

    def wide(x):  # two more atoms, ignored and filled with junk
        return jnp.concatenate([f(x[:, :3]), 1e3 + x[:, 3:] ** 2], axis=1)

    junk = jnp.full((5, 2, 3), 3.0)
    masked = es.decompose(
        wide,
        symmetry(measure),
        jnp.concatenate([x, junk], 1),
        jnp.concatenate([y, jnp.nan * junk], 1),
        key=KEY,
        mask=jnp.array([1, 1, 1, 0, 0], bool)[None].repeat(5, 0),
    )
    assert_same(whole, masked)


def test_batches_of_any_size_add_up_to_the_whole():
    f, x, y = network(), points(11), points(11, seed=2)
    weight = jax.random.uniform(jax.random.key(3), (11,)) + 0.1
    sym = symmetry(es.so3.coset(12, n=2))
    whole = es.decompose(f, sym, x, y, key=KEY, weight=weight, per_example=True)
    parts = [
        es.decompose(
            f, sym, x[a:b], y[a:b], key=KEY, weight=weight[a:b], example_ids=jnp.arange(a, b), per_example=True
        )
        for a, b in ((0, 4), (4, 11))
    ]
    merged = sum(parts)
    assert_same(whole, merged)
    np.testing.assert_allclose(merged.per_example["equiv"], whole.per_example["equiv"], rtol=1e-4)
    with pytest.raises(ValueError, match="one kind"):
        merged + es.decompose(f, symmetry(es.so3.haar(4)), x, y, key=KEY)


def test_weights_are_repetitions():
    """An example of weight 2 counts as two; clusters make their standard error honest."""
    f, x = network(), points(4)
    sym = symmetry(es.octahedral.enumerate())
    weighted = es.decompose(f, sym, x, 0 * x, key=KEY, weight=jnp.array([2.0, 1, 1, 1]))
    index = jnp.array([0, 0, 1, 2, 3])
    repeated = es.decompose(f, sym, x[index], 0 * x[index], key=KEY, clusters=index)
    assert_same(weighted, repeated)
    naive = es.decompose(f, sym, x.repeat(4, 0), 0 * x.repeat(4, 0), key=KEY)
    honest = es.decompose(f, sym, x.repeat(4, 0), 0 * x.repeat(4, 0), key=KEY, clusters=jnp.arange(4).repeat(4))
    np.testing.assert_allclose(honest.percent_stderr, naive.percent_stderr * (15 / 3) ** 0.5, rtol=1e-4)


def test_a_padded_graph_is_its_molecules_one_by_one():
    """Graphs of 2, 4 and 3 atoms in one batch with padding, one rotation each, against separate calls."""
    w = jax.random.normal(jax.random.key(0), (3, 3))
    sizes, padding = [2, 4, 3], 5
    nodes = jax.random.normal(jax.random.key(1), (sum(sizes) + padding, 3))
    ids = jnp.repeat(jnp.arange(4), jnp.array([*sizes, padding]))
    sym = es.Symmetry(es.so3.coset(12, n=2), {"x": es.segmented(es.vectors), "z": es.trivial}, es.segmented(es.vectors))

    def f(graph):
        centre = jax.ops.segment_sum(graph["x"], ids, 4)[ids]
        return jnp.tanh(graph["x"] @ w + 0.3 * centre)

    graph = {"x": nodes, "z": jnp.arange(14)}
    weight = jnp.array([1.0, 1, 1, 0])
    d = es.decompose(f, sym, graph, 0 * nodes, key=KEY, segments=ids, weight=weight, per_example=True)
    assert d.n_examples == 3
    plain = es.Symmetry(es.so3.coset(12, n=2), es.vectors, es.vectors)
    for i, (start, size) in enumerate(zip(np.cumsum([0, *sizes[:-1]]), sizes, strict=True)):
        x = nodes[start : start + size][None]
        alone = es.decompose(
            lambda x: jnp.tanh(x @ w + 0.3 * x.sum(1, keepdims=True)),
            plain,
            x,
            0 * x,
            key=KEY,
            example_ids=jnp.array([i]),
            per_example=True,
        )
        for name in ("total", "mean", "equiv"):
            np.testing.assert_allclose(d.per_example[name][i], alone.per_example[name][0], rtol=1e-4)


def test_several_outputs_are_one_error_over_all_their_components():
    x = points(6)
    sym = es.Symmetry(es.so3.coset(24), es.vectors, {"energy": es.scalars, "forces": es.vectors})
    f = network()

    def model(x):
        return {"energy": jnp.sin(x[:, 0, 0]), "forces": f(x)}

    y = {"energy": jnp.zeros(6), "forces": 0 * x}
    both = es.decompose(model, sym, x, y, key=KEY)
    parts = [
        es.decompose(
            lambda x, k=k: {k: model(x)[k]},
            es.Symmetry(sym.measure, es.vectors, {k: sym.act_out[k]}),
            x,
            {k: y[k]},
            key=KEY,
        )
        for k in y
    ]
    np.testing.assert_allclose(both.equiv, (parts[0].equiv + 9 * parts[1].equiv) / 10, rtol=1e-5)
    forces = es.decompose(model, sym, x, y, key=KEY, mask={"energy": jnp.zeros(6), "forces": None})
    np.testing.assert_allclose(forces.percent, parts[1].percent, rtol=1e-5)


# --- other losses, denominators --------------------------------------------------------------------------------


def logistic(space):
    if space == "logits":
        return es.Loss(lambda z, y: -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], 1)[:, 0], "nll", "logits")
    return es.Loss(lambda p, y: -jnp.log(jnp.take_along_axis(p, y[:, None], 1)[:, 0]), "nll", "probabilities")


def classifier(space):
    w = jax.random.normal(jax.random.key(0), (9, 4))

    def f(x):
        logits = 2 * jnp.tanh(x.reshape(-1, 9) @ w)
        return logits if space == "logits" else jax.nn.softmax(logits)

    return f


@pytest.mark.parametrize("space", ["logits", "probabilities"])
def test_other_losses_by_the_loss_of_the_twirl(space):
    """Eq. 9 exactly, by enumeration, in a named averaging space."""
    x, y = points(6), jnp.array([0, 1, 2, 3, 0, 1])
    sym = es.Symmetry(es.octahedral.enumerate(), es.vectors, es.trivial)
    d = es.decompose(classifier(space), sym, x, y, key=KEY, loss=logistic(space))
    z = np.stack([classifier(space)(x @ g.T) for g in es.octahedral.enumerate().draw(None)[0]])
    value = logistic(space).value
    total = np.mean([value(jnp.asarray(k), y) for k in z])
    np.testing.assert_allclose(d.total, total, rtol=1e-5)
    np.testing.assert_allclose(d.percent, 100 * (total - value(jnp.asarray(z.mean(0)), y).mean()) / total, rtol=1e-4)
    assert d.space == space and d.percent > 1 and jnp.isnan(d.signal_relative)


def test_squared_error_as_any_other_loss_agrees():
    f, x, y = network(), points(), points(seed=3)
    squared = es.Loss(lambda z, y: jnp.square(z - y).mean((1, 2)), "mse", "vectors")
    for measure in (es.so3.haar(8), es.so3.coset(12, n=4), es.octahedral.enumerate(), es.so3.haar(7)):
        exact = es.decompose(f, symmetry(measure), x, y, key=KEY)
        other = es.decompose(f, symmetry(measure), x, y, key=KEY, loss=squared)
        np.testing.assert_allclose(other.mean, exact.mean, rtol=1e-4)  # the jackknife is exact for quadratics
        np.testing.assert_allclose(other.percent_stderr, exact.percent_stderr, rtol=1e-2)


def test_percent_of_reducible_loss_names_its_denominator():
    f, x = network(), points()
    sym = symmetry(es.octahedral.enumerate())
    plain = es.decompose(f, sym, x, 0 * x, key=KEY)
    d = es.decompose(f, sym, x, 0 * x, key=KEY, irreducible=0.5 * plain.total, irreducible_from="teacher")
    np.testing.assert_allclose(d.percent_reducible, 2 * d.percent, rtol=1e-5)
    assert d.record()["irreducible_from"] == "teacher" and plain.percent_reducible is None


# --- refusals --------------------------------------------------------------------------------------------------

X = points()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"measure": es.so3.haar(1)}, "K = 1"),
        ({"y": X[:, :2]}, r"\[5, 3, 3\].*\[5, 2, 3\]"),
        ({"y": {"a": X}}, "PyTreeDef"),
        ({"x": X.at[1, 2, 0].set(jnp.nan)}, r"the input holds 1 values.*\[1, 2, 0\]"),
        ({"y": X.at[4, 0, 0].set(jnp.inf)}, r"the target holds 1.*\[4, 0, 0\]"),
        ({"f": lambda x: x / (x > -1.0)}, r"f returned NaN or infinity.*first at index"),
        ({"act": (es.vectors, lambda g, x: 2 * es.vectors(g, x))}, "does not undo|not an action"),
        ({"act": (es.vectors, lambda g, x: jnp.linalg.det(g + 2 * jnp.eye(3)) * x)}, "not an action"),
        ({"mask": jnp.zeros((5, 3))}, "mask or the weights are empty"),
        ({"weight": jnp.zeros(5)}, "mask or the weights are empty"),
        ({"mask": jnp.ones((5, 4))}, r"\[5, 4, 1\] does not fit.*\[5, 3, 3\]"),
        ({"irreducible": 0.1}, "come together"),
        ({"act": (es.grid, es.vectors)}, "cubic grids"),
        ({"loss": es.Loss(lambda z, y: jnp.square(z - y).mean(), "mse", "v")}, r"one value per example, \[5\]"),
        ({"loss": es.Loss(lambda z, y: jnp.square(z - y).mean((1, 2)), "mse", "v"), "mask": X}, "inside the loss"),
        ({"loss": es.Loss(lambda z, y: jnp.abs(z - y).mean((1, 2)), "l1", "v")}, "not invariant"),
    ],
)
def test_bad_input_is_refused_by_value_and_fix(change, words):
    change = dict(change)
    act_in, act_out = change.pop("act", (es.vectors, es.vectors))
    sym = es.Symmetry(change.pop("measure", es.so3.haar(4)), act_in, act_out)
    f, x, y = change.pop("f", jnp.tanh), change.pop("x", X), change.pop("y", X)
    with pytest.raises(ValueError, match=words):
        es.decompose(f, sym, x, y, key=KEY, **change)


def boost(g, x):
    """A Lorentz boost by rapidity g: invertible, a group, but no isometry of the plane."""
    return jnp.array([[jnp.cosh(g), jnp.sinh(g)], [jnp.sinh(g), jnp.cosh(g)]]) @ x


def test_a_non_orthogonal_action_is_refused_also_under_jit_and_can_be_forced():
    from equiscale.groups import Group
    from equiscale.measures import independent

    line = Group("rapidities", jnp.add, jnp.negative)
    boosts = independent(line, "rapidities.normal(4)", lambda key: jax.random.normal(key), 4)
    x = jax.random.normal(jax.random.key(0), (5, 2))
    run = jax.jit(lambda x: es.decompose(jnp.tanh, es.Symmetry(boosts, boost, boost), x, x, key=KEY))
    with pytest.raises(ValueError, match="needs an orthogonal action"):
        run(x)
    forced = es.Symmetry(boosts, boost, boost, checked=False)
    d = es.decompose(jnp.tanh, forced, x, x, key=KEY)
    assert d.identity_error < 1e-4 and d.measure == "rapidities.normal(4)"


def test_factors_that_do_not_commute_are_no_action():
    rigid = es.product(es.so3.haar(4), es.translations.normal(4, 1.0))
    act = es.chain(es.on(0, es.vectors), es.on(1, es.translate))
    with pytest.raises(ValueError, match="factors must commute"):
        es.decompose(jnp.tanh, es.Symmetry(rigid, act, act), X, X, key=KEY)


def test_nan_under_jit_is_refused_by_check():
    run = jax.jit(lambda x: es.decompose(jnp.log, symmetry(es.so3.haar(4)), x, x, key=KEY))
    with pytest.raises(FloatingPointError, match="not finite"):
        run(X).check()


def test_a_broken_identity_is_refused():
    d = es.decompose(jnp.tanh, symmetry(es.so3.haar(4)), X, X, key=KEY)
    import dataclasses

    broken = dataclasses.replace(d, moments=dataclasses.replace(d.moments, mean=d.moments.mean.at[1].multiply(2)))
    with pytest.raises(FloatingPointError, match=r"total = mean \+ equiv fails"):
        broken.check()
