"""What the commands that prepare sets share: the files they are given, and telling what is left out of them."""

import pathlib

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


class FirstOfEach:
    """Shows the first molecule that is left out for each reason."""

    def __init__(self):
        self.shown: set[str] = set()

    def __call__(self, error: BadMolecule) -> None:
        if error.reason not in self.shown:
            self.shown.add(error.reason)
            tqdm.write(f"left out: {error}")


def megabytes(folder: pathlib.Path) -> str:
    return f"{sum(path.stat().st_size for path in folder.iterdir()) / 1e6:,.1f} MB"
