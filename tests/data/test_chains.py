import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equiscale.data.chain_clusters import key, kmer_clusters, read_clusters
from equiscale.data.chain_crops import crops
from equiscale.data.chains import (
    BadChain,
    ChainRecord,
    Chains,
    Limits,
    check_chain,
    from_records,
    from_records_skipping,
    split_chains,
)
from equiscale.data.molecules import BadMolecule
from equiscale.data.stored_chains import open_chains, split_clusters, write_chains

ANY = Limits(None, None, None, None)
LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def record(seed, n=60, **about):
    """A random walk of bonds of 0.38 nm."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(n, 3))
    walk = np.cumsum(0.38 * steps / np.linalg.norm(steps, axis=1, keepdims=True), axis=0)
    sequence = "".join(rng.choice(list(LETTERS), n))
    return ChainRecord(f"{seed}abc_A", walk + 5, np.arange(10, 10 + n), sequence, **about)


def broken(seed, n, at, gap):
    """With a break before residue `at`, where `gap` residues are missing."""
    whole = record(seed, n)
    positions, numbers = whole.positions.copy(), whole.numbers.copy()
    positions[at:] += (positions[at - 1] - positions[at]) + np.array([0.38 * (gap + 1), 0, 0])
    numbers[at:] += gap
    return whole._replace(positions=positions, numbers=numbers)


def test_records_become_centred_chains_numbered_from_one():
    chains = from_records([record(0), broken(1, 70, 30, 4)], "test")
    assert chains.positions.shape == (2, 70, 3) and chains.n_residues.tolist() == [60, 70]
    np.testing.assert_allclose(chains[0].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(chains[1].mean(0), 0, atol=1e-6)
    apart = np.linalg.norm(np.diff(chains[0].astype(float), axis=0), axis=1)
    np.testing.assert_allclose(apart, 0.38, atol=1e-6, err_msg="nothing but a shift")
    assert chains.index[1, 28:32].tolist() == [29, 30, 35, 36] and chains.index[0, 0] == 1
    assert np.argwhere(chains.breaks).tolist() == [[1, 29]]
    assert not chains.positions[0, 60:].any() and not chains.index[0, 60:].any()
    assert chains.clusters == chains.names and [len(s) for s in chains.sequences] == [60, 70]
    one = chains.subset(np.array([False, True]))
    assert len(one) == 1 and one.names == ("1abc_A",) and repr(one) == "Chains(1 of up to 70 residues, test)"


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"positions": np.zeros((2, 5), np.float32)}, "disagree"),
        ({"index": np.ones((2, 5), np.int64)}, "int64.*give float32, int32 and bool"),
        ({"clusters": ("a",)}, "1 clusters for 2 chains"),
    ],
)
def test_shapes_and_dtypes_are_checked(changed, message):
    good = {
        "positions": np.zeros((2, 5, 3), np.float32),
        "index": np.ones((2, 5), np.int32),
        "breaks": np.zeros((2, 5), bool),
        "names": ("a", "b"),
        "clusters": ("a", "b"),
        "sequences": ("", ""),
        "source": "test",
    }
    with pytest.raises(ValueError, match=message):
        Chains(**good | changed)


GOOD = record(0)
BAD = [
    (GOOD._replace(positions=np.zeros((0, 3)), numbers=np.zeros(0, int), sequence=""), "without a standard residue"),
    (GOOD._replace(sequence="AC"), "with lengths that disagree"),
    (GOOD._replace(positions=np.where(np.arange(60)[:, None] == 3, np.nan, GOOD.positions)), "that is not finite"),
    (GOOD._replace(numbers=GOOD.numbers[::-1]), "with residue numbers that do not increase"),
    (GOOD._replace(positions=10 * GOOD.positions), "with neighbours at distances unlike a protein's"),
    (GOOD._replace(length=50), "of 50 residues or fewer"),
    (GOOD._replace(length=256), "of 256 residues or more"),
    (GOOD._replace(resolution=5.1), "at a resolution beyond 5 angstrom"),
    (GOOD._replace(method="SOLUTION NMR"), "by solution nmr"),
]


@pytest.mark.parametrize("bad, reason", BAD, ids=[reason for _, reason in BAD])
def test_a_bad_chain_is_named_with_its_reason(bad, reason):
    with pytest.raises(BadChain, match="0abc_A") as caught:
        check_chain(bad, Limits())
    assert reason in caught.value.reason


def test_limits_are_strict_and_what_is_not_known_passes():
    kept = [
        GOOD._replace(length=51),
        GOOD._replace(length=255, resolution=5.0, method="ELECTRON MICROSCOPY"),
        GOOD._replace(method="X-RAY DIFFRACTION"),
    ]
    chains, report = from_records_skipping([*kept, *(bad for bad, _ in BAD)], "test")
    assert len(chains) == report.kept == 3 and report.total == 12 and len(report.reasons) == 9
    assert len(from_records([bad for bad, _ in BAD[5:]], "test", ANY)) == 4
    with pytest.raises(ValueError, match="no chain left of test: kept 0 of 9"):
        from_records_skipping([bad for bad, _ in BAD], "test")


def test_reasons_survive_another_process():
    again = pickle.loads(pickle.dumps(BadChain("too odd", "chain x is too odd")))
    assert type(again) is BadChain and again.reason == "too odd" and str(again) == "chain x is too odd"


def test_clusters_never_straddle_a_split():
    records = [record(i, cluster=str(i // 3)) for i in range(30)]
    train, held_out = split_chains(from_records(records, "test"), 0.3, seed=0)
    assert sorted([*train, *held_out]) == list(range(30)) and len(held_out) == 9
    assert not {i // 3 for i in train} & {i // 3 for i in held_out}
    with pytest.raises(ValueError, match="2 chains in 1 groups leave none to train on"):
        split_chains(from_records([record(i, cluster="x") for i in range(2)], "test"), 0.5, seed=0)


def test_crops_are_the_unbroken_windows():
    chains = from_records([broken(0, 70, 30, 4), record(1, 51)], "test")
    cut = crops(chains, 20)
    assert cut.names == (
        "0abc_A 1-20",
        "0abc_A 35-54",
        "0abc_A 55-74",
        "1abc_A 1-20",
        "1abc_A 21-40",
    )
    assert cut.index.tolist() == [list(range(1, 21))] * 5 and not cut.breaks.any()
    assert cut.clusters == ("0abc_A",) * 3 + ("1abc_A",) * 2 and cut.sequences[1] == chains.sequences[0][30:50]
    np.testing.assert_allclose(cut.positions.mean(1), 0, atol=1e-6)
    window = chains.positions[0, 30:50]
    np.testing.assert_allclose(cut.positions[1], window - window.mean(0), atol=1e-6)
    assert len(crops(chains, 20, stride=1)) == 11 + 21 + 32
    with pytest.raises(ValueError, match="no unbroken stretch of 52 residues"):
        crops(chains, 52)
    with pytest.raises(ValueError, match="stride=0"):
        crops(chains, 20, stride=0)


def test_a_break_of_no_more_than_043_nm_does_not_cut():
    def line(gap):
        x = 0.38 * np.arange(60) + np.where(np.arange(60) >= 30, gap - 0.38, 0)
        return from_records([ChainRecord("a", x[:, None] * [1, 0, 0], np.arange(60))], "test")

    assert line(0.42).breaks.sum() == line(0.44).breaks.sum() == 1, "both are breaks to the network, above 0.40 nm"
    assert len(crops(line(0.42), 60)) == 1
    with pytest.raises(ValueError, match="no unbroken stretch of 31"):
        crops(line(0.44), 31)


def test_likeness_by_shared_words():
    rng = np.random.default_rng(0)
    first, second = ("".join(rng.choice(list(LETTERS), 100)) for _ in range(2))
    part = first[20:60]  # all of its words are the longer one's
    half = first[:50] + "".join(rng.choice(list(LETTERS), 40))  # 47 of 87 words
    quarter = first[:25] + "".join(rng.choice(list(LETTERS), 70))  # 22 of 92: below 30 %
    sequences = [part, second, first, half, quarter, second, "", "", "ACD", "ACD"]
    assert kmer_clusters(sequences) == [2, 1, 2, 2, 4, 1, 6, 7, 8, 8]


@given(st.permutations(range(8)))
def test_clusters_do_not_depend_on_the_order_of_sequences_of_different_lengths(order):
    rng = np.random.default_rng(1)
    base = "".join(rng.choice(list(LETTERS), 90))
    sequences = [base[i : i + 40 + i] if i % 2 else "".join(rng.choice(list(LETTERS), 40 + i)) for i in range(8)]
    labels = kmer_clusters(sequences)
    moved = kmer_clusters([sequences[i] for i in order])
    assert [order[moved[place]] for place in range(8)] == [labels[i] for i in order]


def test_a_table_of_clusters(tmp_path):
    path = tmp_path / "cluster.tsv"
    path.write_text("1AKI_A\t1AKI_A\n1AKI_A\t2lyz_a\n")
    clusters = read_clusters(path)
    assert clusters[key("1aki_A")] == clusters[key("2LYZ_a")] == "1aki_A" and key("2lyz_A") not in clusters
    path.write_text("1aki_A\t1aki_A\nthree words here\n")
    with pytest.raises(ValueError, match="line 2: 'three words here' is no representative and member"):
        read_clusters(path)
    path.write_text("1aki_A\t1dix_A\n2lyz_A\t1dix_A\n")
    with pytest.raises(ValueError, match="line 2: 1dix_A is in cluster 1aki_A already"):
        read_clusters(path)


def test_a_set_on_disk_holds_what_was_written(tmp_path):
    records = [
        record(0, cluster="x", resolution=1.5),
        BadMolecule("in a damaged file", "x.cif is cut"),
        broken(1, 70, 30, 4)._replace(sequence=""),
        record(2, n=40),
        record(3, cluster="x"),
    ]
    told = []
    _, report = write_chains(tmp_path / "set", records, "test", tell=told.append)
    assert str(report) == "kept 3 of 5: 1 in a damaged file, 1 of 50 residues or fewer" and len(told) == 2
    again = open_chains(tmp_path / "set")
    assert len(again) == 3 and again.n_residues.tolist() == [60, 70, 60]
    memory, _ = from_records_skipping(records, "test")
    disk = again.subset(slice(None))
    for name in ("positions", "index", "breaks"):
        np.testing.assert_array_equal(getattr(disk, name), getattr(memory, name))
    assert disk.names == memory.names and disk.sequences == memory.sequences
    assert disk.clusters[0] == disk.clusters[2] != disk.clusters[1]
    assert again.resolutions[0] == 1.5 and np.isnan(again.resolutions[1:]).all()
    assert again.select([2]).subset([0], length=80).positions.shape == (1, 80, 3)
    with pytest.raises(ValueError, match="has 70 entries, more than the 64"):
        again.subset([1], length=64)
    with pytest.raises(ValueError, match="no chain left of test"):
        write_chains(tmp_path / "none", records[1:2], "test")


def test_clusters_of_a_set_on_disk_never_straddle_a_split(tmp_path):
    stored, _ = write_chains(tmp_path / "set", [record(i, cluster=str(i // 3)) for i in range(30)], "test")
    train, held_out = split_clusters(stored, 0.5, seed=0)
    assert sorted([*train, *held_out]) == list(range(30)) and not {i // 3 for i in train} & {i // 3 for i in held_out}
    with pytest.raises(ValueError, match="3 chains of 1 clusters leave none on one side"):
        split_clusters(stored.select(slice(3)), 0.5, seed=0)


def test_a_set_of_other_things_is_refused(tmp_path):
    from equiscale.data.stored import write_set

    write_set(tmp_path / "other", [({"positions": np.zeros((3, 3), np.float32)}, {})], "test")
    with pytest.raises(ValueError, match="holds positions: no set of chains"):
        open_chains(tmp_path / "other")
