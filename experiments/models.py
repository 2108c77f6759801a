"""Every model and preset at a glance: parameters, operations and memory of an example, symmetry, what it reproduces.

    python -m experiments.models
    python -m experiments.models --only='flow transformer' --residues=256
    python -m experiments.models --only=est_exact --format=json

Nothing is computed but shapes: all of it takes a few minutes, one model seconds. FLOP are of the traced program, those
of training of a loss and its gradient; memory is what an example leaves for the backward pass before a compiler joins
operations. Graphs are full: every atom has all its neighbours.
"""

import json

from absl import app, flags

from equiscale.studies import model_costs
from experiments.config import command

ONLY = flags.DEFINE_string("only", "", 'models and presets whose "model preset" contains this')
FORMAT = flags.DEFINE_enum("format", "table", ("table", "json"), "for people or for programs")
USUAL = model_costs.Sizes()
ATOMS = flags.DEFINE_integer("atoms", USUAL.atoms, "atoms of an example", lower_bound=1)
NEIGHBOURS = flags.DEFINE_integer("neighbours", USUAL.neighbours, "neighbours of each", lower_bound=1)
RESIDUES = flags.DEFINE_integer("residues", USUAL.residues, "residues of an example", lower_bound=1)
ELEMENTS = flags.DEFINE_integer("elements", USUAL.elements, "elements, of voxels the channels", lower_bound=1)

HEADER = ("model", "preset", "parameters", "example", "forward", "training", "memory", "symmetry", "reproduces")
WIDTHS = (21, 24, 12, 25, 12, 12, 10, 31, 0)


def main(argv):
    with command(argv):
        sizes = model_costs.Sizes(ATOMS.value, NEIGHBOURS.value, RESIDUES.value, ELEMENTS.value)
        wanted = list(model_costs.presets(ONLY.value))
    if FORMAT.value == "json":
        print(json.dumps([model_costs.cost(*one, sizes)._asdict() for one in wanted], indent=2))
        return
    print(_line(HEADER))
    for family, preset in wanted:
        c = model_costs.cost(family, preset, sizes)
        numbers = f"{c.forward_flop / 1e9:.3g} GFLOP", f"{c.training_flop / 1e9:.3g} GFLOP", f"{c.memory / 1e6:.3g} MB"
        print(_line((c.model, preset, f"{c.parameters:,}", c.example, *numbers, c.symmetry, c.source)), flush=True)


def _line(cells):
    return " ".join(f"{cell:<{width}}" for cell, width in zip(cells, WIDTHS, strict=True)).rstrip()


if __name__ == "__main__":
    app.run(main)
