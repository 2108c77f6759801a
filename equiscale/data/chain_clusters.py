"""Which chains are alike in sequence, so that a split does not put like ones on both sides.

From a table that MMseqs2 wrote, as the published sets have it, or without another program by shared 4-mers: coarser,
and blind to kinship whose letters have changed.
"""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

K = 4  # letters in a word
SHARED = 0.3  # of its words, above which a sequence joins a cluster


def kmer_clusters(sequences: Sequence[str], shared: float = SHARED) -> list[int]:
    """One label per sequence: the place of its cluster's representative.

    Greedily, longest first, ties in order: a sequence joins the representative with which it shares most of its own
    different 4-mers, if more than the fraction `shared`, else it becomes one. Equal sequences are one whatever their
    length; one without a 4-mer is otherwise by itself, and so is each empty one.
    """
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
    labels = list(range(len(sequences)))
    first: dict[str, int] = {}
    holders: dict[str, list[int]] = defaultdict(list)  # word -> representatives that have it
    for i in order:
        sequence = sequences[i]
        if not sequence:
            continue
        if sequence in first:
            labels[i] = labels[first[sequence]]
            continue
        first[sequence] = i
        words = {sequence[j : j + K] for j in range(len(sequence) - K + 1)}
        hits = [holder for word in words for holder in holders.get(word, ())]
        if hits:
            which, counts = np.unique(hits, return_counts=True)
            best = int(np.argmax(counts))
            if counts[best] > shared * len(words):
                labels[i] = int(which[best])
                continue
        for word in words:
            holders[word].append(i)
    return labels


def read_clusters(path: str | os.PathLike) -> Mapping[str, str]:
    """Cluster of each chain, by `key`, from MMseqs2's table: lines "representative<TAB>member".

    Raises FileNotFoundError for no file; ValueError naming a line of another form, or a member of two clusters.
    """
    clusters: dict[str, str] = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            names = line.split()
            if len(names) != 2:
                raise ValueError(
                    f"{path}, line {number}: {line.strip()[:60]!r} is no representative and member; give the table "
                    "that mmseqs easy-cluster names _cluster.tsv"
                )
            representative, member = map(key, names)
            if clusters.setdefault(member, representative) != representative:
                raise ValueError(f"{path}, line {number}: {names[1]} is in cluster {clusters[member]} already")
    return clusters


def key(name: str) -> str:
    """A chain's name as tables spell it one way or another: the entry's letters small, the chain's as they are.

    >>> key("1AKI_A"), key("1aki_A")
    ('1aki_A', '1aki_A')
    """
    entry, _, chain = name.rpartition("_")
    return f"{entry.lower()}_{chain}" if entry else name
