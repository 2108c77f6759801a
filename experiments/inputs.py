"""What the commands that prepare sets share: the files they are given, and telling what is left out of them."""

import collections
import pathlib
from collections.abc import Iterable, Iterator

from absl import app
from tqdm import tqdm

from equiscale.data.molecules import BadMolecule


def named(argv: list[str]) -> list[pathlib.Path]:
    """The paths on the command line. Raises UsageError without one, FileNotFoundError for those not there."""
    paths = [pathlib.Path(path) for path in argv[1:]]
    if not paths:
        raise app.UsageError("name the files or folders to read; see --help")
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise FileNotFoundError(f"{', '.join(missing)} does not exist")
    return paths


class Telling:
    """Passes records on with a progress bar and shows the first that could not be read for each reason."""

    def __init__(self):
        self.shown: collections.Counter[str] = collections.Counter()

    def __call__(self, records: Iterable, name: str, unit: str) -> Iterator:
        for record in tqdm(records, desc=name, unit=unit):
            if isinstance(record, BadMolecule):
                self.shown[record.reason] += 1
                if self.shown[record.reason] == 1:
                    tqdm.write(f"left out: {record}")
            yield record


def megabytes(folder: pathlib.Path) -> str:
    return f"{sum(path.stat().st_size for path in folder.iterdir()) / 1e6:,.1f} MB"
