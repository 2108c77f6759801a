"""A trained force field as an ASE calculator: molecular dynamics, relaxations and all else that ASE does with one.

Importing this needs ASE: pip install 'equiscale[data,forces]'.
"""

import json
import os
import pathlib

import jax
import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ml_collections import ConfigDict

from equiscale.data.element_references import Scale, read_scale
from equiscale.data.neighbours import build
from equiscale.tasks.force_field import model_of
from equiscale.training.checkpoints import restore_params


class ForceField(Calculator):
    """Energies in eV and forces in eV/angstrom of a model with its scale; compiled once a number of atoms.

    Raises what `neighbours.build` and `References.total` raise: atoms on top of each other, positions that are not
    finite, an element the model was not trained on.
    """

    implemented_properties = ("energy", "free_energy", "forces")

    def __init__(self, model, params, scale: Scale, *, k: int, cutoff: float):
        super().__init__()
        self._predict = jax.jit(lambda graph: model.apply({"params": params}, graph))
        self._scale, self._k, self._cutoff = scale, k, cutoff

    def calculate(self, atoms=None, properties=("energy", "forces"), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        species = self.atoms.numbers[None].astype(np.int32)
        self._scale.references.total(species)  # before the model: it has a row for every element, learned or not
        periodic = {}
        if self.atoms.pbc.any():
            periodic = {"cell": self.atoms.cell.array[None], "periodic": self.atoms.pbc[None]}
        centred = (self.atoms.positions - self.atoms.positions.mean(0)).astype(np.float32)
        names = [str(self.atoms.symbols)]
        graph, _ = build(centred[None], species, k=self._k, cutoff=self._cutoff, names=names, **periodic)
        found = jax.device_get(self._predict(graph))
        energy = float(self._scale.total_energies(found.energy, species)[0])
        forces = self._scale.force_std * np.asarray(found.forces[0], float)
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}


def load_calculator(
    workdir: str | os.PathLike, step: int | None = None, *, averaged: bool = False, twirled: bool = False
) -> ForceField:
    """The force field of a run folder, at its last checkpoint or another `step`.

    `averaged` takes the averaged parameters; `twirled` the average of direct forces over all rotations, exactly and at
    no cost (`GraphTransformer.breaking` 0). Raises FileNotFoundError for a folder that is no run's, and ValueError for
    a run of another task, for a step that was not kept, and for `twirled` where the model has no such head.
    """
    workdir = pathlib.Path(workdir)
    for name in ("config.json", "constants.json"):
        if not (workdir / name).exists():
            raise FileNotFoundError(f"{workdir / name} does not exist: give the folder of a run of force_field")
    config = ConfigDict(json.loads((workdir / "config.json").read_text()))
    if config.task != "force_field":
        raise ValueError(f"{workdir} holds a run of {config.task}: give the folder of a run of force_field")
    model = model_of(config)
    if twirled:
        if not hasattr(model, "breaking"):
            raise ValueError(f"{config.model.preset} has no head of three rows to average: leave out twirled")
        model = model.clone(breaking=0.0)
    _, params = restore_params(workdir, step, averaged=averaged)
    scale = read_scale(json.loads((workdir / "constants.json").read_text()))
    return ForceField(model, params, scale, k=config.graph.neighbours, cutoff=config.graph.cutoff)
