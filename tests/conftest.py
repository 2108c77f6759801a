"""Tests run on 8 simulated devices; examples drawn by hypothesis are the same every time."""

import os
import pathlib
import shutil
import tempfile

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax
import pytest

# Many tests compile the same programs: the workers of one run, and the processes they start, share what is compiled.
RUN = os.environ.setdefault("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
COMPILED = pathlib.Path(tempfile.gettempdir()) / f"equiscale-tests-{RUN}"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(COMPILED)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
jax.config.update("jax_compilation_cache_dir", str(COMPILED))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, max_examples=20)
hypothesis.settings.load_profile("ci")


@pytest.fixture
def x64():
    """Float64 for one test."""
    with jax.enable_x64(True):
        yield


def pytest_sessionfinish(session):
    if not hasattr(session.config, "workerinput"):  # the process that started the workers
        shutil.rmtree(COMPILED, ignore_errors=True)
