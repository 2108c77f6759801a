"""Of a study's arms: their latents' cosines by axis and angle, and along training, from what each run measured."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from equiscale.studies import latent_figures, latent_study
from equiscale.studies.report import save_figure


def merged(arms: Mapping[str, Sequence[pathlib.Path]], result: str) -> dict[str, Any]:
    """The records of `latent_study.measure_run` of several runs as one, its rows named by arm, and seed if several."""
    found: dict[str, Any] = {}
    rows, shapes = [], []
    for arm, folders in arms.items():
        for i, folder in enumerate(folders):
            found = json.loads((folder / result).read_text())
            label = arm if len(folders) == 1 else f"{arm}, run {i + 1}"
            rows += [row | {"arm": label} for row in found["rows"]]
            shapes += [found["shape"]] if found["shape"] not in shapes else []
    return found | {"rows": rows, "shapes": shapes}


def sections(workdir: pathlib.Path, arms: Mapping[str, Sequence[pathlib.Path]], result: str) -> list[tuple[str, str]]:
    """Headings and bodies for a study's report; the figures are written into `workdir` too."""
    found = merged(arms, result)
    cosines = save_figure(latent_figures.cosines_figure(found), workdir / "latents.png")
    training = save_figure(latent_figures.training_figure(found), workdir / "latents_training.png")
    said = "".join(f"<p>{sentence}</p>" for sentence in latent_study.sentences(found))
    return [("Latents of turned molecules, by axis and angle", said + cosines), ("Latents along training", training)]
