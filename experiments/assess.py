"""Assess generated molecules: are they molecules, like the real ones, and the same however their seeds lay?

    python -m experiments.assess --workdir=runs/full --name=samples
    python -m experiments.assess --workdir=runs/full --name=seeded

Reads what experiments.generate wrote to WORKDIR/generated/NAME. Reports validity, uniqueness, novelty, stability and
distances to the held-out molecules, with 95 % intervals and what chance alone would read; and of seeded molecules, by
rotation of the seed, stability and the divergence of property distributions from those of unturned seeds
(arXiv 2507.09753). Writes assessment.json, quality.png and consistency.png there.
"""

import pathlib

import jax
import numpy as np
from absl import app, flags

from equiscale.data.molecules import Molecules
from equiscale.studies import generation
from equiscale.studies.generation_figures import consistency_figure, quality_figure
from equiscale.studies.molecule_statistics import statistics
from equiscale.studies.rotation_names import rotation_name
from equiscale.training.run_folder import write_json
from experiments.config import command, read_run
from experiments.tasks import load_experiment
from experiments.train import WORKDIR

NAME = flags.DEFINE_string("name", "samples", "folder under WORKDIR/generated")
SEED = flags.DEFINE_integer("seed", 0, "of the bootstrap")


def main(argv):
    with command(argv):
        run(pathlib.Path(WORKDIR.value), NAME.value)


def run(workdir: pathlib.Path, name: str) -> None:
    folder = workdir / "generated" / name
    path = folder / "molecules.npz"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: make it first, with python -m experiments.generate")
    config = read_run(workdir)
    split = load_experiment(config, "denoise_voxels").molecules
    with np.load(path) as f:
        found = {key: f[key] for key in f.files}
    molecules = Molecules(found["positions"], found["species"], _names(found), "generated")
    seeded = len(molecules) > 0 and found["seed"][0] >= 0
    known = split.train.names if isinstance(split.train, Molecules) else None
    key = jax.random.key(SEED.value)
    groups = found["seed"].tolist() if seeded else found["chain"].tolist()
    record = {"quality": generation.measure(molecules, split.validation, key=key, known=known, groups=groups)}
    title = f"{len(molecules):,} generated molecules, {workdir.name}/{name}"
    quality_figure(record["quality"], title).savefig(folder / "quality.png", dpi=150)
    print(_quality(record["quality"]))
    if seeded and len(found["rotations"]) > 1:
        labels = [rotation_name(g) for g in found["rotations"]]
        rows = {label: np.flatnonzero(found["rotation"] == i) for i, label in enumerate(labels)}
        sets = {label: statistics(molecules.subset(r)) for label, r in rows.items()}
        seeds = {label: found["seed"][r].tolist() for label, r in rows.items()}
        record["consistency"] = generation.consistency(sets, key=key, unrotated=labels[0], groups=seeds)
        consistency_figure(record["consistency"], title).savefig(folder / "consistency.png", dpi=150)
        print(_consistency(record["consistency"]))
    # JSON has no NaN: what could not be told is null.
    told = jax.tree.map(lambda v: None if isinstance(v, float) and np.isnan(v) else v, record)
    write_json(folder / "assessment.json", told)
    print(f"\n{folder}: assessment.json, quality.png" + (", consistency.png" if "consistency" in record else ""))


def _names(found) -> tuple[str, ...]:
    return tuple(f"chain {c} step {s}" for c, s in zip(found["chain"], found["step"], strict=True))


def _quality(record) -> str:
    lines = [f"{record['n']:,} molecules, {record['n_valid']:,} valid, {record['n_distinct']:,} distinct"]
    for name, of in record.items():
        if isinstance(of, dict) and "value" in of:
            floor = f"   chance alone: {of['floor']:.3g}" if "floor" in of else ""
            lines.append(f"  {name:<20} {of['value']:.4g}   [{of['low']:.3g}, {of['high']:.3g}]{floor}")
    return "\n".join(lines)


def _consistency(record) -> str:
    lines = ["\nby rotation of the seed: molecule stability, and properties that differ beyond chance (p < 0.05)"]
    for name, of in record["rotations"].items():
        beyond = [
            f"{p} (KL {d['kl_ab']['value']:.3g}, chance {d['kl_ab']['floor']:.3g})"
            for p, d in of.get("properties", {}).items()
            if d["kl_ab"]["p_value"] < 0.05
        ]
        s = of["molecule_stability"]
        differing = ", ".join(beyond) or ("none" if "properties" in of else "the set compared with")
        lines.append(f"  {name:<20} {s['value']:.3f} [{s['low']:.3f}, {s['high']:.3f}]   {differing}")
    return "\n".join(lines)


if __name__ == "__main__":
    app.run(main)
