"""Real molecules that several files measure, made once."""

import pytest

from equiscale.data.molecules import Molecules
from equiscale.studies.molecule_statistics import Statistics, statistics
from tests.studies.generated import conformers


@pytest.fixture(scope="session")
def molecules() -> Molecules:
    return conformers()


@pytest.fixture(scope="session")
def real(molecules) -> Statistics:
    return statistics(molecules)
