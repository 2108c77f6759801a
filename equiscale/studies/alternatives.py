"""What can stand in for an equivariant network without training one: what `experiments.symmetrise` found of an arm.

Averages over rotations, frames and poses of the plain network (`equiscale.studies.symmetrisers`), after the network as
it is; here seeds are averaged.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from equiscale.studies.averages import over_seeds
from equiscale.studies.crossings import Interval
from equiscale.studies.sweep import Measurement

RESULT = "symmetrise.json"  # in a run's folder


class Alternative(NamedTuple):
    """The plain network used in another way."""

    name: str
    passes: int  # of the network, an example
    ratio: Interval  # its loss over that of the network as it is, on the same examples
    time: float  # of a prediction, over that of the network as it is
    jumps: float  # share of paths of the points along which its output jumps


def measurements(plain: str) -> tuple[Measurement, ...]:
    """Of a study that compares this arm, of a task whose input has points: its alternatives."""
    return (Measurement("symmetrise", {}, RESULT, arms=(plain,)),)


def read_alternatives(folders: Sequence[pathlib.Path]) -> tuple[Alternative, ...]:
    """Of the runs in which they were measured; none where they were in no run."""
    paths = [folder / RESULT for folder in folders if (folder / RESULT).exists()]
    if not paths:
        return ()
    plain, *others = zip(*(json.loads(path.read_text())["rows"] for path in paths), strict=True)  # by method, of runs
    return tuple(_averaged(plain, way) for way in others)


def _averaged(plain: Sequence[dict], way: Sequence[dict]) -> Alternative:
    """Of the rows of runs."""

    def over_plain(name: str, of: str) -> np.ndarray:
        return np.array([row[name] / as_it_is[of] for row, as_it_is in zip(way, plain, strict=True)])

    ratio, error = over_seeds(over_plain("loss", "loss"), over_plain("difference_stderr", "loss"))
    return Alternative(
        name=way[0]["method"],
        passes=way[0]["passes"],
        ratio=Interval(ratio, ratio - 1.96 * error, ratio + 1.96 * error),
        time=float(over_plain("milliseconds", "milliseconds").mean()),
        jumps=float(np.mean([row["jumps"] for row in way])),
    )
