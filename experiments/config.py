"""Reading `--config` flags: a preset first, then what was overridden on the command line."""

import importlib
import json
import os
import pathlib

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


def define_config(name: str) -> flags.FlagHolder:
    """A `--config` flag whose default is `configs/<name>.py`; mistyped keys are refused with the nearest name."""
    return config_flags.DEFINE_config_file("config", str(CONFIGS / f"{name}.py"), "the experiment's configuration")


def read_config(flag: flags.FlagHolder, name: str) -> ConfigDict:
    """The config of the preset asked for, with single fields overridden by the command line."""
    overrides = config_flags.get_override_values(flags.FLAGS[flag.name])
    preset = flag.value.preset
    try:
        config = importlib.import_module(f"configs.{name}").get_config(preset)
    except ValueError as error:
        raise flags.IllegalFlagValueError(f"--config.preset: {error}") from error
    config.update_from_flattened_dict(overrides)
    return config


def read_run(workdir: pathlib.Path) -> ConfigDict:
    """The configuration a run folder was made with. Raises FileNotFoundError for a folder without one."""
    path = pathlib.Path(workdir) / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: make the run first, with python -m experiments.quickstart")
    return ConfigDict(json.loads(path.read_text()))


def use_cache() -> pathlib.Path:
    """The folder for molecules and compiled programs, $EQUISCALE_CACHE or ~/.cache/equiscale; JAX is told to use it."""
    cache = pathlib.Path(os.environ.get("EQUISCALE_CACHE", "~/.cache/equiscale")).expanduser()
    jax.config.update("jax_compilation_cache_dir", str(cache / "compiled"))
    return cache
