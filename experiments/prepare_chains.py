"""Put protein chains on disk as tasks read them: the C-alpha of each chain, with filters and clusters of sequences.

    python -m experiments.prepare_chains --output=sets/pdb --clusters=pdb_cluster.tsv mmCIF/
    python -m experiments.prepare_chains --output=sets/mine structures.tar.xz 1abc.cif.gz more/
    python -m experiments.prepare_chains --output=sets/nmr --methods= --above=0 nmr/

Reads PDB and mmCIF by gemmi (coordinates in angstrom) and NumPy archives of C-alpha (ids, length, ca, seq, cluster):
files, folders of them, gzipped ones, tar archives. By default chains are kept as the published sets have them: more
than 50 and fewer than 256 residues, those not seen included, and at most 5 angstrom where the file tells. What is
left out or changed (no protein, damaged file, alternate locations, missing and non-standard residues) is counted by
reason, and the first of each reason is shown.

Training and validation never share a cluster. --clusters names the table of MMseqs2, representative and member on each
line, as `mmseqs easy-cluster --min-seq-id 0.5 -c 0.8 --cov-mode 1` writes it for chains named as in pdb_seqres.txt
(1aki_A). Without it clusters are those of the archives if all chains have one, else made here: equal sequences, and
those sharing more than 30 % of their 4-mers with a longer one. All chains are then held in memory first.
"""

import pathlib
from collections.abc import Iterable, Iterator

from absl import app, flags
from tqdm import tqdm

from equiscale.data.chain_clusters import key, kmer_clusters, read_clusters
from equiscale.data.chain_readers import read_chains
from equiscale.data.chains import BadChain, ChainRecord, Limits, check_chain
from equiscale.data.molecules import BadMolecule
from equiscale.data.stored_chains import write_chains
from experiments.inputs import FirstOfEach, megabytes, named

OUTPUT = flags.DEFINE_string("output", None, "folder to write, which must not be there yet", required=True)
CLUSTERS = flags.DEFINE_string("clusters", None, "MMseqs2's table, two columns: representative and member")
ABOVE = flags.DEFINE_integer("above", Limits().above, "keep chains of more residues")
BELOW = flags.DEFINE_integer("below", Limits().below, "keep chains of fewer residues")
RESOLUTION = flags.DEFINE_float("max_resolution", Limits().max_resolution, "in angstrom; unknown ones are kept")
METHODS = flags.DEFINE_list(
    "methods",
    list(Limits().methods),
    "keep what was seen by one of these, a word of its name, and what is not told; empty: all",
)


class Changes:
    """What was changed in chains that were kept; shows the first of each kind."""

    def __init__(self):
        self.counts: dict[str, tuple[int, int]] = {}

    def add(self, record: ChainRecord) -> None:
        for what, count in record.changes.items():
            if what not in self.counts:
                tqdm.write(f"changed: chain {record.name}: {count} {what}")
            chains, total = self.counts.get(what, (0, 0))
            self.counts[what] = chains + 1, total + count

    def __str__(self) -> str:
        by_count = sorted(self.counts.items(), key=lambda item: -item[1][1])
        return "\n".join(f"{total:,} {what}, in {chains:,} chains" for what, (chains, total) in by_count)


def main(argv):
    try:
        run(named(argv), pathlib.Path(OUTPUT.value))
    except (FileNotFoundError, FileExistsError, ImportError, ValueError) as error:
        raise app.UsageError(str(error)) from error


def run(inputs: list[pathlib.Path], output: pathlib.Path) -> None:
    if output.exists():  # said before hours of reading
        raise FileExistsError(f"{output} exists: delete it, or write to another folder")
    limits = Limits(ABOVE.value, BELOW.value, RESOLUTION.value, tuple(METHODS.value) or None)
    records = (r for path in inputs for r in tqdm(read_chains(path), desc=path.name, unit="chain"))
    changes = Changes()
    records = good_ones(records, limits, changes)
    records = by_table(records, read_clusters(CLUSTERS.value)) if CLUSTERS.value else by_likeness(list(records))
    source = ", ".join(path.name for path in inputs)
    chains, report = write_chains(output, records, source, limits, FirstOfEach())
    n_clusters = len(set(chains.clusters.tolist()))
    print(f"{report}\n{changes}" if changes.counts else report)
    print(
        f"{output}: {len(chains):,} chains of up to {chains.n_residues.max()} residues in {n_clusters:,} clusters, "
        f"{megabytes(output)}"
    )


def good_ones(records: Iterable, limits: Limits, changes: Changes) -> Iterator[ChainRecord | BadMolecule]:
    """Each record, or why it is not kept; what was changed in those kept is counted."""
    for record in records:
        if not isinstance(record, BadMolecule):
            try:
                record = check_chain(record, limits)
                changes.add(record)
            except BadMolecule as error:
                record = error
        yield record


def by_table(records: Iterable, clusters) -> Iterator[ChainRecord | BadMolecule]:
    """Each with its cluster in the table; a chain that is not there is left out, since its like may be anywhere."""
    for record in records:
        if isinstance(record, BadMolecule):
            yield record
        elif (cluster := clusters.get(key(record.name))) is None:
            yield BadChain("missing in the table of clusters", f"chain {record.name} is not in {CLUSTERS.value}")
        else:
            yield record._replace(cluster=cluster)


def by_likeness(records: list[ChainRecord | BadMolecule]) -> Iterator[ChainRecord | BadMolecule]:
    """With the clusters that all have, else with those of their sequences."""
    good = [record for record in records if not isinstance(record, BadMolecule)]
    if any(record.cluster is None for record in good):
        labels = kmer_clusters([record.sequence for record in good])
        tqdm.write(f"{len(set(labels)):,} clusters of {len(good):,} chains by shared 4-mers")
        good = [record._replace(cluster=good[label].name) for record, label in zip(good, labels, strict=True)]
    left = iter(good)
    return (record if isinstance(record, BadMolecule) else next(left) for record in records)


if __name__ == "__main__":
    app.run(main)
