"""What importing costs, and which layer may import which."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
HEAVY = (
    "flax",
    "optax",
    "orbax",
    "jraph",
    "ml_collections",
    "rdkit",
    "matplotlib",
    "e3nn_jax",
    "scipy",
    "absl",
    "grain",
    "ase",
)

# Lower layers first; a module may import from its own layer and from those before it.
LAYERS = [{"core"}, {"sphere"}, {"models", "data"}, {"tasks", "sampling"}, {"training"}, {"studies"}]


def test_import_loads_the_metric_core_only():
    code = (
        "import sys, jax; before = set(sys.modules); import equiscale;"
        f"print([m for m in {HEAVY} if m in sys.modules and m not in before])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_instruments_need_no_framework_either():
    instruments = "capture components curvature gradients landscape lanczos latents lie propositions subspace theorems"
    code = (
        "import sys, jax; before = set(sys.modules);"
        f"import {', '.join('equiscale.' + name for name in instruments.split())};"
        f"print([m for m in {HEAVY} if m in sys.modules and m not in before])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["quickstart", "study"])
def test_commands_start_without_what_only_some_networks_need(module):
    code = f"import sys, experiments.{module}; print([m for m in ('e3nn_jax', 'sympy') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_import_adds_little_to_jax():
    code = (
        "import time; a = time.perf_counter(); import jax, jax.numpy; b = time.perf_counter(); import equiscale;"
        "print((time.perf_counter() - b) / (b - a))"
    )
    ratios = [
        float(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    ]
    assert min(ratios) < 0.5, f"import equiscale takes {min(ratios):.2f} of jax's own import"


def layer(module: str) -> int:
    """The layer of a dotted module of the package; modules at its top are the core."""
    parts = module.split(".")
    name = parts[1] if len(parts) > 1 and (ROOT / "equiscale" / parts[1]).is_dir() else "core"
    return next(i for i, names in enumerate(LAYERS) if name in names)


def imports(path: pathlib.Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("equiscale", "experiments", "configs", "tests")}


@pytest.mark.parametrize("path", sorted((ROOT / "equiscale").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_layers_import_downward_only(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for name in imports(path):
        assert name.startswith("equiscale"), f"{module} imports {name}: the package stands below experiments"
        assert layer(name) <= layer(module), f"{module} imports {name} from a layer above it"


def test_config_defaults_live_under_configs():
    for path in [*(ROOT / "equiscale").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]:
        assert "config.get(" not in path.read_text(), f"{path} hides a default: a mistyped key would pass unseen"
