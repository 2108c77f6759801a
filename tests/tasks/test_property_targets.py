import dataclasses

import numpy as np
import pytest

from equiscale.data.molecules import from_records
from equiscale.data.stored_molecules import write_molecules
from equiscale.tasks.property_targets import describe, quantities_of, standard_of, targets_of, with_properties

NAMES = ("radius_of_gyration", "vector_to_n_and_o", "heavy_atoms")


def records(n=30):
    """Random places, in various sizes, every fifth without N and O: shapes for tests, no chemistry."""
    rng = np.random.default_rng(0)
    for i in range(n):
        size = int(rng.integers(2, 7))
        numbers = rng.choice([1, 6], size) if i % 5 == 0 else np.append(rng.choice([1, 6, 8], size - 1), 7)
        yield f"random {i}", numbers, rng.normal(size=(size, 3))


@pytest.fixture
def molecules():
    return from_records(records(), "random points")


def test_molecules_without_a_property_are_left_out_and_counted(molecules):
    kept, values, report = with_properties(molecules, NAMES)
    assert len(kept) == 24 == report.kept and report.reasons == {"without N or O": 6}
    assert kept.names[0] == "random 1" and list(values) == list(NAMES)
    assert values["vector_to_n_and_o"].shape == (24, 3) and values["heavy_atoms"].shape == (24,)
    everything, _, _ = with_properties(molecules, NAMES[:1])
    assert len(everything) == 30
    with pytest.raises(ValueError, match=r"no molecule has all of vector_to_n_and_o \(kept 0 of 6: 6 without N or O\)"):
        with_properties(molecules.subset(np.arange(0, 30, 5)), NAMES[1:2])


def test_targets_are_standard_and_go_back_to_their_unit(molecules):
    kept, values, _ = with_properties(molecules, NAMES)
    standard = standard_of(values)
    targets = targets_of(values, standard)
    np.testing.assert_allclose(targets["scalars"].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(targets["scalars"].std(0), 1, rtol=1e-5)
    np.testing.assert_allclose(np.square(targets["vectors"]).mean(), 1, rtol=1e-5)
    properties = describe(quantities_of(kept, NAMES), standard)
    assert [(p.name, p.kind, p.unit) for p in properties] == [
        ("radius_of_gyration", "scalar", "Å"),
        ("vector_to_n_and_o", "vector", "Å"),
        ("heavy_atoms", "scalar", ""),
    ]
    assert standard.mean["vector_to_n_and_o"] == 0, "what is taken off would not turn"
    for p in properties:
        back = p.scale * p.of(targets) + standard.mean[p.name]
        np.testing.assert_allclose(back.reshape(values[p.name].shape), values[p.name], atol=1e-5)


def test_what_is_the_same_for_all_is_refused():
    with pytest.raises(ValueError, match=r"rings is 2\.0 for all 4 training molecules"):
        standard_of({"rings": np.full(4, 2.0)})


def test_of_molecules_on_disk_what_is_stored_is_taken(tmp_path, molecules):
    """Columns are written in one go with the molecules; what needs no bonds is computed, also for others of them."""

    def columns(some):
        gap = np.arange(len(some), dtype=float)
        gap[3] = np.nan
        return {"gap": gap, "dipole": some.positions[:, 0]}

    stored, _ = write_molecules(tmp_path / "set", records(), "test", lambda name, n: name, columns)
    kept, values, report = with_properties(stored, ("gap", *NAMES, "dipole"))
    assert report.reasons == {"without N or O": 6, "without a known gap": 1}
    wanted = with_properties(molecules, NAMES)[1]
    for name in NAMES:
        np.testing.assert_allclose(values[name], np.delete(wanted[name], 2, axis=0), atol=1e-5)
    assert values["gap"][:3].tolist() == [1, 2, 4] and values["dipole"].shape == (23, 3)
    quantities = quantities_of(kept, ("gap", "dipole", "heavy_atoms"))
    assert [quantities[name].kind for name in quantities] == ["scalar", "vector", "scalar"]
    in_memory = with_properties(stored.subset(slice(None)), ("gap", "dipole", "heavy_atoms"))[1]
    np.testing.assert_array_equal(in_memory["gap"][:3], [0, 1, 2])  # what is stored comes along
    with pytest.raises(ValueError, match=r"logp of molecules on disk must be stored .* --properties=logp"):
        with_properties(stored, ("logp", "heavy_atoms"))
    with pytest.raises(ValueError, match=r"give some of .*dipole, gap"):
        with_properties(stored, ("colour",))


def test_tensors_are_standard_and_have_no_trace(molecules):
    rng = np.random.default_rng(0)
    tensors = rng.normal(size=(30, 3, 3)) + np.arange(30)[:, None, None]
    tensors = tensors + tensors.swapaxes(1, 2)
    even = tensors - np.trace(tensors, axis1=1, axis2=2)[:, None, None] / 3 * np.eye(3)
    known = dataclasses.replace(molecules, columns={"even": even, "with trace": tensors})
    kept, values, _ = with_properties(known.subset(np.arange(5, 30)), ("heavy_atoms", "even"))
    standard = standard_of(values)
    targets = targets_of(values, standard)
    assert targets["tensors"].shape == (25, 1, 3, 3) and standard.mean["even"] == 0
    np.testing.assert_allclose(np.square(targets["tensors"]).mean(), 1, rtol=1e-5)
    _, tensor = describe(quantities_of(kept, ("heavy_atoms", "even")), standard)
    assert tensor.kind == "tensor"
    np.testing.assert_allclose(tensor.scale * tensor.of(targets), even[5:].reshape(25, 9), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"with trace has traces up to .*: store its symmetric part"):
        with_properties(known, ("with trace",))
