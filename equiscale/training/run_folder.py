"""A run's folder: what was asked (config.json), with what (versions.json), what was measured (metrics.jsonl).

`metrics.jsonl` holds one JSON object a line, one per evaluation, in the order of steps; a run that goes on after an
interruption first drops the rows beyond the checkpoint it goes on from, so no row is lost or doubled. `examples/`
holds the losses behind each row, validation example by validation example, so that runs can be compared in pairs.
"""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from equiscale.training.tensorboard import TensorBoard

EXAMPLES = "examples"
PACKAGES = ("equiscale", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "rdkit")


def open_run(folder: str | os.PathLike, config: Mapping[str, Any]) -> pathlib.Path:
    """Create a run's folder, or go on in one that was started with the same config. What was never evaluated, not even
    untrained, is no run: whatever its config was, this one takes its place.

    Raises ValueError listing the differences for another config, OSError naming the folder if it cannot be written.
    """
    folder = pathlib.Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        asked = json.loads(json.dumps(config))  # tuples become lists, as they will when read back
        path = folder / "config.json"
        if path.exists() and any(rows.stat().st_size for rows in folder.glob("**/metrics.jsonl")):
            _refuse_other_config(json.loads(path.read_text()), asked, folder)
        elif jax.process_index() == 0:
            write_json(path, asked)
        if jax.process_index() == 0:
            write_json(folder / "versions.json", versions())
    except OSError as error:
        raise OSError(f"the run folder {folder} cannot be written ({error}); choose another with --workdir") from error
    return folder


def _refuse_other_config(old: Mapping, new: Mapping, folder: pathlib.Path) -> None:
    before, after = dict(flat(old)), dict(flat(new))
    lines = [
        f"  {name}: {before.get(name, 'absent')!r} in the folder, {after.get(name, 'absent')!r} asked for"
        for name in sorted(before.keys() | after.keys())
        if before.get(name, KeyError) != after.get(name, KeyError)
    ]
    if lines:
        raise ValueError(
            f"{folder} holds a run with another config:\n" + "\n".join(lines) + "\nGo on with the config of the "
            "folder, or choose another folder with --workdir"
        )


def flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested mapping with their dotted names: what a config's fields are called on a command line."""
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from flat(value, f"{prefix}.{name}" if prefix else name)
    else:
        yield prefix, tree


def versions() -> dict[str, Any]:
    """What the numbers were made with: packages, devices, machine and source revision."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return {
        "python": platform.python_version(),
        "packages": found,
        "backend": jax.default_backend(),
        "devices": [d.device_kind for d in jax.devices()],
        "processes": jax.process_count(),
        "cpu_count": os.cpu_count(),
        "git_revision": _git_revision(),
    }


def _git_revision() -> str | None:
    """The checkout's commit, with "+" if files have changed since; None outside a checkout."""
    where = pathlib.Path(__file__).parent
    try:
        run = [
            subprocess.run(["git", *words], cwd=where, capture_output=True, text=True, check=True).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    return run[0] + ("+" if run[1] else "")


def write_json(path: pathlib.Path, content: Any) -> None:
    """Write whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(path)


class MetricLog:
    """Rows of `metrics.jsonl`, each written through to the disk before the run goes on, by the first process alone.

    `tensorboard` writes them as its scalars too. Raises OSError naming the file where it cannot be written.
    """

    def __init__(self, folder: pathlib.Path, up_to_step: int, tensorboard: bool = False):
        self.path = folder / "metrics.jsonl"
        self.rows = [row for row in read_metrics(folder) if row["step"] <= up_to_step]
        if jax.process_index() == 0:
            with _naming(self.path):
                partial = self.path.with_suffix(".partial")
                partial.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
                partial.replace(self.path)
        self.board = TensorBoard(folder, self.rows) if tensorboard and jax.process_index() == 0 else None

    def has(self, step: int) -> bool:
        return any(row["step"] == step for row in self.rows)

    def write(self, row: Mapping[str, Any], examples: Mapping[str, np.ndarray]) -> None:
        """Append a row and keep its `examples`, which are there before the row is."""
        self.rows.append(row)
        if jax.process_index() == 0:
            with _naming(self.path.parent / EXAMPLES):
                write_examples(self.path.parent, row["step"], examples)
            with _naming(self.path), self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())
        if self.board:
            self.board.write(row)


@contextlib.contextmanager
def _naming(path: pathlib.Path):
    try:
        yield
    except OSError as error:
        raise OSError(f"{path} cannot be written ({error}); checkpoints saved so far are kept") from error


def write_examples(folder: pathlib.Path, step: int, examples: Mapping[str, np.ndarray]) -> None:
    """Losses of each example at a step, whole or not at all: `weight`, `total`, `mean`, ... `[n]`."""
    (folder / EXAMPLES).mkdir(exist_ok=True)
    partial = folder / EXAMPLES / f"{step}.partial"
    with partial.open("wb") as file:
        np.savez(file, **examples)
    partial.replace(partial.with_suffix(".npz"))


def read_examples(folder: pathlib.Path, step: int) -> dict[str, np.ndarray] | None:
    """What `write_examples` wrote; None where a run has none, as those of earlier versions."""
    path = pathlib.Path(folder) / EXAMPLES / f"{step}.npz"
    if not path.exists():
        return None
    with np.load(path) as stored:
        return dict(stored)


def read_metrics(folder: pathlib.Path) -> list[dict[str, Any]]:
    """All rows of a run; a last line cut short by an interruption is left out."""
    path = pathlib.Path(folder) / "metrics.jsonl"
    if not path.exists():
        return []
    rows = []
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number} is damaged: {error}") from error
    return rows
