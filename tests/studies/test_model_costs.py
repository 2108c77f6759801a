"""Costs of models: by hand where that is possible, and of every model that has presets."""

import importlib
import json
import pkgutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import equiscale.models
from equiscale.studies import model_costs
from equiscale.studies.model_costs import FAMILIES, Family, Sizes, cost, presets
from tests.commands import start


def test_every_model_with_presets_is_listed():
    modules = (
        importlib.import_module(f"equiscale.models.{m.name}") for m in pkgutil.iter_modules(equiscale.models.__path__)
    )
    ladders = [m.PRESETS for m in modules if hasattr(m, "PRESETS")]
    assert len(ladders) == len(FAMILIES) and all(any(f.presets is p for f in FAMILIES) for p in ladders)


class Plain(nn.Module):
    """sin(x w), whose costs are known."""

    width: int

    @nn.compact
    def __call__(self, x):
        return jnp.sin(x @ self.param("w", nn.initializers.ones, (x.shape[-1], self.width)))


def test_costs_by_hand():
    x = jax.ShapeDtypeStruct((1, 3), jnp.float32)
    family = Family("plain", Plain, {"p": {"width": 5}}, lambda *_: (x,), lambda _: "none", "nowhere")
    found = cost(family, "p", Sizes())
    assert found.parameters == 15
    assert found.forward_flop == 30 + 5 + 5 + 5 + 1  # a product, sine, square, sum, and that of one output's sums
    assert 30 + 30 + 15 < found.training_flop < 30 + 30 + 50
    assert found.memory == 4 * (3 + 5 + 5)  # x, the sine and its slope, but not w


def test_convolutions():
    found = cost(FAMILIES[0], "cpu_0.02M", Sizes())
    assert found.parameters == 24_656 and found.example == "8 x 16^3 voxels"
    assert 2.8 < found.training_flop / found.forward_flop < 3.1  # convolutions: one product forward, two back


def test_larger_examples_cost_more():
    of = next(f for f in FAMILIES if f.name == "point transformer")
    few, many = (cost(of, "cpu_0.02M", Sizes(atoms=n)) for n in (10, 20))
    assert many.memory > 1.8 * few.memory and many.forward_flop > 1.8 * few.forward_flop
    assert few.example == "10 atoms"


def test_what_is_wanted_is_found_or_refused():
    assert [preset for _, preset in presets("point transformer cpu_0.0")] == ["cpu_0.02M", "cpu_0.06M"]
    with pytest.raises(ValueError, match="no model and preset contain 'huge'"):
        list(presets("huge"))


def test_the_command_prints_for_programs():
    shown = start("--only=point transformer cpu_0.02M", "--format=json", module="models")
    assert shown.returncode == 0, shown.stderr[-2000:]
    listed = json.loads(shown.stdout)
    assert listed[0]["parameters"] == 23_903 and set(listed[0]) == set(model_costs.Cost._fields)
