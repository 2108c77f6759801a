"""Reading `--config` flags: a preset first, then what was overridden on the command line."""

import contextlib
import importlib
import json
import os
import pathlib
import runpy

import jax
from absl import app, flags, logging
from jax.sharding import Mesh
from ml_collections import ConfigDict, config_flags

from equiscale.tasks.task import Task
from equiscale.training.instruments import Instrument, make_instruments
from equiscale.training.run_folder import flat
from equiscale.training.settings import Settings

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


@contextlib.contextmanager
def command(argv: list[str]):
    """Around the work of a command: no stray arguments, quiet libraries, and what a user can mend told in a line.

    Raises app.UsageError for stray arguments and in the place of FileNotFoundError, FileExistsError and ValueError.
    """
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}; see --help")
    logging.set_verbosity(logging.WARNING)  # of the libraries' own reports
    try:
        yield
    except (FileNotFoundError, FileExistsError, ValueError) as error:
        raise app.UsageError(str(error)) from error


def whole_numbers(flag: str, values: list[str], least: int = 1) -> list[int]:
    """The numbers of a list flag. Raises ValueError naming it where one is no whole number of at least `least`."""
    if not values or not all(value.isdigit() and int(value) >= least for value in values):
        raise ValueError(f"--{flag}={','.join(values)}: give whole numbers from {least} on, with commas between them")
    return [int(value) for value in values]


def define_config(name: str) -> flags.FlagHolder:
    """A `--config` flag whose default is `configs/<name>.py`; mistyped keys are refused with the nearest name."""
    return config_flags.DEFINE_config_file("config", str(CONFIGS / f"{name}.py"), "the experiment's configuration")


def read_config(flag: flags.FlagHolder, variant: str = "preset") -> ConfigDict:
    """The config of the preset asked for, with single fields overridden by the command line.

    `variant` is the field that is get_config's argument.
    """
    path = pathlib.Path(config_flags.get_config_filename(flags.FLAGS[flag.name]))
    overrides = config_flags.get_override_values(flags.FLAGS[flag.name])
    try:
        config = runpy.run_path(str(path), run_name=path.stem)["get_config"](flag.value[variant])
    except ValueError as error:
        raise flags.IllegalFlagValueError(f"--config.{variant}: {error}") from error
    config.update_from_flattened_dict(overrides)
    return config


def read_run(workdir: pathlib.Path) -> ConfigDict:
    """The configuration a run folder was made with; fields that came later have their defaults, which is said.

    Raises FileNotFoundError for a folder without one.
    """
    path = pathlib.Path(workdir) / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: make the run first, with python -m experiments.quickstart")
    found = json.loads(path.read_text())
    name = "quickstart" if "arms" in found else found["task"]
    usual = importlib.import_module(f"configs.{name}").get_config(found["preset"]).to_dict()
    later = {field: value for field, value in flat(usual) if field not in dict(flat(found))}
    if later:
        logging.warning("%s is from an earlier version; taken by default: %s", path, later)
    config = ConfigDict(found)
    with config.unlocked():
        config.update_from_flattened_dict(later)
    return config


def read_settings(config: ConfigDict) -> Settings:
    """What the training loop is told of a config."""
    fields = config.training.to_dict()
    fields |= {name: fields[name] or None for name in ("keep", "clip")}  # a config's 0 is "no limit"
    if fields["seed"] < 0:
        fields["seed"] = config.seed
    return Settings(
        **fields,
        evaluations=config.evaluation.points,
        evaluate_at=tuple(config.evaluation.at),
    )


def read_instruments(config: ConfigDict, task: Task, mesh: Mesh) -> dict[str, Instrument]:
    """The instruments that a config wants at its evaluation steps. Raises ValueError for an unknown name."""
    wanted = config.evaluation
    return make_instruments(
        wanted.instruments, task, mesh, examples=wanted.instrument_molecules, only=wanted.curvature_of
    )


def use_cache() -> pathlib.Path:
    """The folder for molecules and compiled programs, $EQUISCALE_CACHE or ~/.cache/equiscale; JAX is told to use it."""
    cache = pathlib.Path(os.environ.get("EQUISCALE_CACHE", "~/.cache/equiscale")).expanduser()
    jax.config.update("jax_compilation_cache_dir", str(cache / "compiled"))
    return cache
