"""Molecules split, with standardised labels for what is to be learned of them: what a config of properties asks for."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from equiscale.data.molecules import Molecules
from equiscale.data.stored_molecules import StoredMolecules
from equiscale.tasks.molecule_sets import MoleculeSplit, fraction_of, fraction_rows, measured
from equiscale.tasks.property_targets import Standard, standard_of, targets_of, with_properties

Labels = Mapping[str, Float[np.ndarray, "n ..."]]


class Labelled(NamedTuple):
    """Molecules to train on and those that are measured, with their labels as `targets_of` gives them."""

    train: Molecules | StoredMolecules
    labels: Labels
    validation: Molecules
    known: Labels
    standard: Standard
    reports: tuple[str, str]  # which were left out


def labelled(config: ConfigDict, found: MoleculeSplit) -> Labelled:
    """Those of `found` of which all of `config.properties` are known: `config.data.fraction` of the training ones.

    Labels are standardised on all training molecules, so that losses of all fractions are in one unit. Raises what
    `with_properties`, `standard_of` and `fraction_of` raise.
    """
    train, values, left_out = with_properties(found.train, config.properties)
    standard = standard_of(values)
    rows = fraction_rows(len(train), config.data.fraction, config.seed)
    train = fraction_of(train, config.data.fraction, config.seed)
    validation, known, left_out_too = with_properties(found.validation, config.properties)
    validation = measured(config, validation)
    return Labelled(
        train,
        targets_of({name: value[rows] for name, value in values.items()}, standard),
        validation,
        targets_of({name: value[: len(validation)] for name, value in known.items()}, standard),
        standard,
        (f"properties of training molecules: {left_out}", f"and of validation molecules: {left_out_too}"),
    )
