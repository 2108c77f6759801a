"""Numbers measured or computed elsewhere, from a table, by the name of the molecule."""

import csv
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from equiscale.data.molecules import Molecules

SYMMETRIC = np.array([[0, 1, 2], [1, 3, 4], [2, 4, 5]])  # where xx, xy, xz, yy, yz, zz stand
# What values of so many columns [n, k] are.
SHAPES: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda values: values[:, 0],
    3: lambda values: values,
    6: lambda values: values[:, SYMMETRIC],
    9: lambda values: values.reshape(-1, 3, 3),
}


def read_labels(
    path: str | os.PathLike, columns: Mapping[str, Sequence[str]]
) -> Callable[[Molecules], dict[str, np.ndarray]]:
    """`molecules -> {name: [n], [n, 3] or [n, 3, 3]}` from a CSV file with a header, NaN where it says nothing.

    `columns` says which column each label is, which three of a vector, which six of a symmetric tensor (xx, xy, xz, yy,
    yz, zz) or which nine of a tensor, row by row. The first column names the molecule: as its own name, or as the file
    it was read from, without folders and suffix.

    Raises FileNotFoundError for no file; ValueError for a column that is not there, a label of another number of them,
    and a number that is none, naming its line.
    """
    with open(path, newline="", encoding="utf-8") as file:
        table = csv.DictReader(file, skipinitialspace=True)
        key, *there = table.fieldnames or [""]
        for label, names in columns.items():
            missing = [name for name in names if name not in there]
            if missing or len(names) not in SHAPES:
                raise ValueError(
                    f"label {label} is {', '.join(names)}: give one, three, six or nine of {', '.join(there)}"
                )
        rows = {}
        for row in table:
            try:
                rows[row[key]] = {label: [float(row[n] or "nan") for n in names] for label, names in columns.items()}
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {table.line_num}: {error}") from error

    def labels(molecules: Molecules) -> dict[str, np.ndarray]:
        named = [rows.get(name) or rows.get(_stem(name)) for name in molecules.names]
        unknown = {label: [np.nan] * len(names) for label, names in columns.items()}
        found = {label: np.array([(row or unknown)[label] for row in named]) for label in columns}
        return {label: SHAPES[values.shape[1]](values) for label, values in found.items()}

    return labels


def _stem(name: str) -> str:
    """Of the file that `read_molecules` names what has no title by: "a/set.tar:b/water.xyz, frame 1" -> "water"."""
    place = re.sub(r", (frame|entry) \d+$", "", name).rsplit(":", 1)[-1]
    return pathlib.PurePath(place).name.split(".")[0]
