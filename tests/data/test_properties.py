import numpy as np
import pytest

from equiscale.data import nci
from equiscale.data.molecules import Molecules, from_records, join
from equiscale.data.properties import OF_BONDS, QUANTITIES, measure
from equiscale.rotations import cube

METHANE = (0.63 * np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]), [6, 1, 1, 1, 1])
WATER = ([[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]], [8, 1, 1])


@pytest.fixture(scope="module")
def molecules(tmp_path_factory):
    """Real ones and methane, named by their SMILES."""
    folder = tmp_path_factory.mktemp("nci")
    real, _ = nci.load(("C", "H", "O", "N"), limit=12, max_heavy_atoms=9, cache_dir=folder, progress=False)
    return join([real, from_records([("C", *METHANE[::-1])], "methane")])


def renamed(molecules, names):
    return Molecules(molecules.positions, molecules.species, tuple(names), molecules.source)


def test_known_values():
    """Of water, and of published tables: TPSA of ethanol's OH 20.23, of water 31.5; weights of IUPAC."""
    water = from_records([("O", WATER[1], WATER[0])], "test")
    values, reasons = measure(water, ("tpsa", "molecular_weight", "heavy_atoms", "radius_of_gyration"))
    assert reasons == [None]
    assert values["tpsa"][0] == pytest.approx(31.5) and values["molecular_weight"][0] == pytest.approx(18.015, abs=1e-3)
    assert values["heavy_atoms"][0] == 1
    # Centroid (0, 0.3933, 0): squares 0.1547, and twice 0.5776 + 0.0387.
    assert values["radius_of_gyration"][0] == pytest.approx(np.sqrt((0.15471 + 2 * 0.61628) / 3), abs=1e-4)


def test_bonds_of_the_name_and_of_the_positions_are_the_same(molecules):
    by_name, reasons = measure(molecules, tuple(OF_BONDS))
    assert reasons == [None] * len(molecules)
    by_position, reasons = measure(renamed(molecules, [f"row {i}" for i in range(len(molecules))]), tuple(OF_BONDS))
    assert reasons == [None] * len(molecules)
    for name in OF_BONDS:
        np.testing.assert_allclose(by_position[name], by_name[name], atol=1e-6, err_msg=name)
    assert np.ptp(by_name["logp"]) > 1 and np.ptp(by_name["tpsa"]) > 10


def test_a_name_that_is_a_smiles_of_other_atoms_is_not_believed(molecules):
    wanted = measure(molecules, ("logp",))[0]["logp"]
    found = measure(renamed(molecules, ["C"] * len(molecules)), ("logp",))[0]["logp"]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_the_vector_turns_with_the_molecule_and_is_not_known_without_n_or_o(molecules):
    names = ("vector_to_n_and_o", "radius_of_gyration", "logp")
    values, reasons = measure(molecules, names)
    assert list(values) == list(names)
    for i, (position, species) in enumerate(zip(molecules.positions, molecules.species, strict=True)):
        hetero = [r for r, s in zip(position, species, strict=True) if s in (7, 8)]
        if not hetero:
            assert reasons[i] == "without N or O" and np.isnan(values["vector_to_n_and_o"][i]).all()
            continue
        centroid = position[species > 0].mean(0)
        np.testing.assert_allclose(values["vector_to_n_and_o"][i], np.mean(hetero, 0) - centroid, atol=1e-5)
    assert None in reasons and "without N or O" in reasons
    g = cube()[7]
    turned = Molecules((molecules.positions @ g.T).astype(np.float32), molecules.species, molecules.names, "turned")
    again, _ = measure(turned, names[:2])
    np.testing.assert_allclose(again["vector_to_n_and_o"], values["vector_to_n_and_o"] @ g.T, atol=1e-5)
    np.testing.assert_allclose(again["radius_of_gyration"], values["radius_of_gyration"], atol=1e-5)


def test_a_molecule_without_chemistry_says_why():
    nowhere = Molecules(np.full((1, 2, 3), np.nan, np.float32), np.array([[6, 8]], np.int32), ("no name",), "test")
    values, reasons = measure(nowhere, ("logp", "heavy_atoms"))
    assert np.isnan(values["logp"][0]) and values["heavy_atoms"][0] == 2
    assert reasons == ["whose bonds cannot be perceived"]


@pytest.mark.parametrize("names", [(), ("logp", "logp"), ("gap",)])
def test_names_are_checked(names, molecules):
    with pytest.raises(ValueError, match=f"give some of {', '.join(QUANTITIES)}"):
        measure(molecules, names)
