"""Tests run on 8 simulated devices; examples drawn by hypothesis are the same every time."""

import os
import shutil
import tempfile

from experiments import huge_pages
from tests.commands import devices

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " " + devices(8)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Of the workers, which start after this is read, and of commands.
os.environ.update(huge_pages.environment(dict(os.environ)))

import hypothesis
import jax
import pytest

# Many tests compile the same programs and read the same molecules: the workers of one run, and the processes they
# start, share them. What the user has in a cache of their own is neither read nor written.
STARTED_HERE = "EQUISCALE_TESTS" not in os.environ
if STARTED_HERE:
    os.environ["EQUISCALE_TESTS"] = os.environ["EQUISCALE_CACHE"] = tempfile.mkdtemp(prefix="equiscale-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(os.environ["EQUISCALE_CACHE"], "compiled")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, max_examples=12)
hypothesis.settings.load_profile("ci")


LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"
in_memory = {"programs": 0}


@jax.monitoring.register_event_duration_secs_listener
def count_programs(event, duration, **labels):
    in_memory["programs"] += event == LOWERED


@pytest.fixture(autouse=True, scope="module")
def few_programs_in_memory():
    """JAX keeps the module of every program it has lowered, and each makes lowering the next slower: with a thousand of
    them twice as slow. After a small file they stay, since those that all tests use would be lowered again.
    """
    yield
    if in_memory["programs"] > 300:
        jax.clear_caches()
        in_memory["programs"] = 0


@pytest.fixture
def x64():
    """Float64 for one test."""
    with jax.enable_x64(True):
        yield


def pytest_sessionfinish():
    if STARTED_HERE:
        shutil.rmtree(os.environ["EQUISCALE_TESTS"], ignore_errors=True)
