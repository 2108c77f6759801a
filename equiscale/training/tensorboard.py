"""The rows of a run's metric log as TensorBoard scalars."""

import pathlib
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

import jax


class TensorBoard:
    """Scalars in `folder/tensorboard`, written anew from the rows there are: a run that goes on doubles none.

    Raises ImportError without tensorboardX.
    """

    def __init__(self, folder: pathlib.Path, rows: Iterable[Mapping[str, Any]]):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError("--tensorboard needs tensorboardX: pip install 'equiscale[tensorboard]'") from error
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self.writer = SummaryWriter(str(folder / "tensorboard"))
        for row in rows:
            self.write(row)

    def write(self, row: Mapping[str, Any]) -> None:
        for path, value in jax.tree_util.tree_leaves_with_path(row):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            if isinstance(value, int | float) and name != "step":
                self.writer.add_scalar(name, value, row["step"])
        self.writer.flush()
