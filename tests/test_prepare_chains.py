"""`experiments.prepare_chains` as a user starts it."""

import io
import tarfile

import pytest

from equiscale.data.stored_chains import open_chains
from tests.commands import start
from tests.data.test_chain_readers import atom

pytest.importorskip("gemmi", reason="PDB files are read by gemmi")

LETTERS = ["ALA", "GLY", "SER", "LYS", "LEU", "VAL", "THR"]


def pdb(step, n=60):
    """A chain whose letters follow each other by `step`."""
    lines = [atom(i, LETTERS[(step * i) % 7], i + 1) for i in range(n)]
    lines[3] = atom(3, LETTERS[3 * step % 7], 4, "N")  # one without C-alpha
    return "\n".join([*lines, "TER", "END", ""])


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("chains") / "all.tar"
    files = {"1one.pdb": pdb(1), "1two.pdb": pdb(2), "1one_copy.pdb": pdb(1), "short.pdb": pdb(1, 20), "notes.md": "#"}
    with tarfile.open(path, "w") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return path


def prepare(*arguments):
    return start(*map(str, arguments), module="prepare_chains")


def test_chains_are_filtered_counted_clustered_and_stored(archive, tmp_path):
    made = prepare(f"--output={tmp_path / 'set'}", archive)
    assert made.returncode == 0, made.stderr[-3000:]
    for words in (
        "kept 3 of 5: 1 in a file of unknown kind (.md), 1 of 50 residues or fewer",
        "3 residues without C-alpha left out, in 3 chains",
        "3 chains of up to 59 residues in 2 clusters",
    ):
        assert words in made.stdout, made.stdout
    assert "left out: chain short_A, of 50 residues or fewer" in made.stdout + made.stderr
    chains = open_chains(tmp_path / "set").subset(slice(None))
    clusters = dict(zip(chains.names, chains.clusters, strict=True))
    assert clusters["1one_A"] == clusters["1one_copy_A"] != clusters["1two_A"]
    assert "exists: delete it" in prepare(f"--output={tmp_path / 'set'}", archive).stderr


def test_a_table_of_clusters_says_which_chains_are_kept(archive, tmp_path):
    table = tmp_path / "cluster.tsv"
    table.write_text("1ONE_A\t1ONE_A\n1ONE_A\t1TWO_A\n")
    made = prepare(f"--output={tmp_path / 'set'}", f"--clusters={table}", "--above=0", archive)
    assert made.returncode == 0, made.stderr[-3000:]
    assert "kept 2 of 5: 2 missing in the table of clusters, 1 in a file of unknown kind (.md)" in made.stdout
    assert "2 chains of up to 59 residues in 1 clusters" in made.stdout
