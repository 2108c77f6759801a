"""What can stand in for an equivariant network without training one: what `experiments.symmetrise` found of an arm.

Averages over rotations, frames and poses of the plain network (`equiscale.studies.symmetrisers`), seeds averaged.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from equiscale.studies.averages import over_seeds
from equiscale.studies.crossings import Interval
from equiscale.studies.symmetrisers import PLAIN

RESULT = "symmetrise.json"  # in a run's folder


class Alternative(NamedTuple):
    """The plain network used in another way."""

    name: str
    passes: int  # of the network, an example
    ratio: Interval  # its loss over that of the network as it is, on the same examples
    time: float  # of a prediction, over that of the network as it is
    jumps: float  # share of paths of the points along which its output jumps


def read_alternatives(folders: Sequence[pathlib.Path]) -> tuple[Alternative, ...]:
    """Of the runs in which they were measured; none where they were in no run."""
    found = [json.loads((folder / RESULT).read_text())["rows"] for folder in folders if (folder / RESULT).exists()]
    alternatives = []
    for rows in zip(*found, strict=True):  # of one method, by run
        plain = [run[0] for run in found]
        ratio, error = over_seeds(
            [row["loss"] / as_it_is["loss"] for row, as_it_is in zip(rows, plain, strict=True)],
            [row["difference_stderr"] / as_it_is["loss"] for row, as_it_is in zip(rows, plain, strict=True)],
        )
        times = [row["milliseconds"] / as_it_is["milliseconds"] for row, as_it_is in zip(rows, plain, strict=True)]
        jumps = [row["jumps"] for row in rows]
        interval = Interval(ratio, ratio - 1.96 * error, ratio + 1.96 * error)
        method = rows[0]["method"], rows[0]["passes"]
        alternatives.append(Alternative(*method, interval, sum(times) / len(times), sum(jumps) / len(jumps)))
    return tuple(a for a in alternatives if a.name != PLAIN)
