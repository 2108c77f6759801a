"""Of a study's arms: what their samples of chains are like, and whether they lie in all orientations alike."""

import json
import pathlib
from collections.abc import Mapping, Sequence

from equiscale.studies.chain_samples import SHOWN
from equiscale.studies.report import table, write_csv


def sections(workdir: pathlib.Path, arms: Mapping[str, Sequence[pathlib.Path]], result: str) -> list[tuple[str, str]]:
    """Headings and bodies for a study's report; samples.csv is written beside it."""
    records = {
        arm if len(folders) == 1 else f"{arm}, run {i + 1}": json.loads((folder / result).read_text())["measured"]
        for arm, folders in arms.items()
        for i, folder in enumerate(folders)
    }
    rows, lines = [], []
    for arm, record in records.items():
        for n, features in record["invariance"].items():
            for name, row in features.items():
                rows.append({"arm": arm, "residues": n, "features": name, **row})
                compared = (f"{row[value]:.3f}, p = {row[p]:.2g}" for value, p in _COMPARED)
                lines.append((arm, n, name, *compared))
    write_csv(workdir / "samples.csv", rows)
    header = ("arm", "residues", "seen by", "energy distance to turned samples", "to samples as they are")
    first = next(iter(records.values()))
    geometry = [(arm, *(f"{r['samples'][name]:.3g}" for name in SHOWN)) for arm, r in records.items()]
    geometry.append(("references", *(f"{first['references'][name]:.3g}" for name in SHOWN)))
    return [
        ("Invariance of the samples' distribution", table(header, lines)),
        ("Samples beside references", table(("arm", *SHOWN.values()), geometry)),
    ]


_COMPARED = (("distance", "p_value"), ("control", "control_p_value"))
