import jax
import jax.numpy as jnp
import numpy as np

from equiscale.training.shared_program import jit_without_keys, keys_apart
from tests.tasks.test_denoise_points import make


def noisy(key, offset=0.0):
    """Draws from the key it closes over: in a nested program, in a loop and for each of the rows."""
    nested = jax.jit(lambda key, x: x + jax.random.normal(key, x.shape))

    def f(params, x):
        def draw(carry, i):
            return carry + jax.random.uniform(jax.random.fold_in(key, i)), None

        total, _ = jax.lax.scan(draw, 0.0, jnp.arange(3))
        of_each = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i)))(jnp.arange(len(x)))
        return {"sum": params["a"] * (nested(key, x) + of_each) + offset, "total": total}

    return f


PARAMS, X = {"a": jnp.float32(2.0)}, jnp.arange(4.0)


def text(f, *args):
    keyed, keys = keys_apart(f, *args)
    return jax.jit(keyed).lower(keys, *args).as_text()


def test_it_is_what_jit_makes_of_the_same_function():
    for seed in (0, 1):
        f = noisy(jax.random.key(seed))
        found, wanted = jit_without_keys(f)(PARAMS, X), jax.jit(f)(PARAMS, X)
        assert jax.tree.structure(found) == jax.tree.structure(wanted)
        jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_seeds_share_a_program_and_anything_else_does_not():
    one = text(noisy(jax.random.key(0)), PARAMS, X)
    assert one == text(noisy(jax.random.key(1)), PARAMS, X)
    assert one != text(noisy(jax.random.key(0), offset=1.0), PARAMS, X)
    assert one != text(noisy(jax.random.key(0)), PARAMS, X[:3])
    plain = [jax.jit(noisy(jax.random.key(seed))).lower(PARAMS, X).as_text() for seed in (0, 1)]
    assert plain[0] != plain[1]


def test_it_traces_once_a_shape():
    traced = []
    run = jit_without_keys(lambda x: traced.append(x.shape) or x + 1)
    for n in (2, 3, 2, 3):
        np.testing.assert_array_equal(run(jnp.zeros(n)), np.ones(n))
    assert traced == [(2,), (3,)]


def test_measurements_of_tasks_of_other_seeds_share_theirs():
    """The keys of noise and of group elements are all that another seed changes there."""
    tasks = [make(seed=seed) for seed in (0, 1)]
    params, batch = tasks[0].init(jax.random.key(0)), tasks[0].validation[0]
    one, other = (text(task.evaluate, params, batch) for task in tasks)
    assert one == other
    found = [float(jit_without_keys(task.evaluate)(params, batch).total) for task in tasks]
    assert found[0] != found[1]
