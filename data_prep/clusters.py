"""Clusters of duplicates: who is in one, who survives, why the others do not."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep import documents as docs
from data_prep import minhash
from data_prep.lsh import MEMBER

KEEP_RULE = [
    ("stars", "descending"),
    ("commit_time", "descending"),
    ("path", "ascending"),
    ("content_sha256", "ascending"),
    ("id", "ascending"),
]

CLUSTERS = pa.schema(
    [
        ("cluster", pa.string()),  # the smallest id in it
        ("rank", pa.int32()),  # 0 is the survivor; the rest in the order of the keep rule
        ("id", pa.string()),  # of the document or repository
        ("survivor", pa.string()),  # the id at rank 0
        ("kept", pa.bool_()),
        ("decided_by", pa.string()),  # what it lost to the survivor by: known, or a column of the keep rule
        ("shared_bands", pa.int32()),  # bands that are the survivor's as well; 0 where others link the two
        ("jaccard", pa.float32()),  # exact, with the survivor; null unless clusters are verified
        ("known", pa.bool_()),  # a unit of an earlier corpus
        docs.SCHEMA.field("stars"),
        docs.SCHEMA.field("commit_time"),
        docs.SCHEMA.field("path"),
        ("node", pa.int64()),
    ]
)


def survivors(table: pa.Table, group: str) -> np.ndarray:
    """For each row of `table`, the row (int64 index) that the keep rule keeps of its group, a value of `group`."""
    order = pc.sort_indices(table, KEEP_RULE).to_numpy()
    codes = table[group].combine_chunks().dictionary_encode().indices.to_numpy()
    _, first = np.unique(codes[order], return_index=True)  # codes are 0 … k - 1, so entry k belongs to group k
    return order[first][codes]


def clusters(table: pa.Table, *, min_jaccard: float | None) -> pa.Table:
    """Members (`lsh.MEMBER`) of whole clusters → rows of schema `CLUSTERS`, cluster by cluster in order of rank.

    Clusters of units of earlier corpora alone are left out. With `min_jaccard` clusters are those of the pairs with at
    least this exact Jaccard similarity, and a unit that is in no such pair is in no cluster.
    """
    if min_jaccard is not None:
        table = _verified(table, min_jaccard)
    table = table.sort_by([("root", "ascending"), ("id", "ascending")])
    table = table.append_column("cluster", table["id"].take(pa.array(_first_of_group(table))))
    # Units of earlier corpora are kept already, so they come first, the oldest before all.
    table = table.sort_by([("cluster", "ascending"), ("root", "ascending"), ("generation", "ascending"), *KEEP_RULE])
    table = table.filter(pc.is_in(table["root"], table.filter(pc.equal(table["generation"], 0))["root"]))
    first = _first_of_group(table)
    best = table.take(pa.array(first))
    rank = np.arange(len(first)) - first
    columns = {
        "rank": rank.astype(np.int32),
        "survivor": best["id"],
        "kept": rank == 0,
        "decided_by": _decided_by(table, best),
        "shared_bands": _shared_bands(table, first),
        "jaccard": _jaccards(table, first),
        "known": pc.less(table["generation"], 0),
    }
    return pa.table([columns[n] if n in columns else table[n] for n in CLUSTERS.names], schema=CLUSTERS)


def _first_of_group(table: pa.Table) -> np.ndarray:
    """For each row the first row with the same root, in a table where these stand together."""
    root = table["root"].to_numpy()
    new = np.append(True, root[1:] != root[:-1])[: len(root)]
    return np.flatnonzero(new)[np.cumsum(new) - 1]


def _decided_by(table: pa.Table, best: pa.Table) -> list[str | None]:
    rules = {"known": "generation"} | {name: name for name, _ in KEEP_RULE}
    own = {rule: table[column].to_pylist() for rule, column in rules.items()}
    other = {rule: best[column].to_pylist() for rule, column in rules.items()}
    return [next((rule for rule in rules if own[rule][i] != other[rule][i]), None) for i in range(len(table))]


def _shared_bands(table: pa.Table, first: np.ndarray) -> np.ndarray:
    bands = pc.list_flatten(table["bands"]).to_numpy().reshape(len(first), -1) if len(first) else np.empty((0, 1))
    return (bands == bands[first]).sum(1).astype(np.int32)


def _jaccards(table: pa.Table, first: np.ndarray) -> list[float | None]:
    shingles = table["shingles"]
    if not len(first) or not shingles[0].is_valid:
        return [None] * len(first)
    sets = _sets(table)
    return [minhash.jaccard(own, sets[i]) for own, i in zip(sets, first, strict=True)]


def _sets(table: pa.Table) -> list[np.ndarray]:
    return [row.values.to_numpy() for row in table["shingles"]]


def _verified(table: pa.Table, min_jaccard: float) -> pa.Table:
    """`table` with the roots of the clusters that pairs of at least `min_jaccard` make; who is left alone goes."""
    table = table.sort_by([("root", "ascending"), ("node", "ascending")])
    node, sets, groups = table["node"].to_numpy(), _sets(table), _first_of_group(table)
    parent = np.arange(len(node))
    for i in range(len(node)):
        # A pair that is joined already by way of others needs no look.
        for j in range(groups[i], i):
            if parent[j] != parent[i] and minhash.jaccard(sets[i], sets[j]) >= min_jaccard:
                low, high = sorted((parent[i], parent[j]))
                same = slice(groups[i], i + 1)
                parent[same][parent[same] == high] = low
    counts = np.bincount(parent, minlength=len(node))
    index = MEMBER.get_field_index("root")
    return table.set_column(index, MEMBER.field("root"), pa.array(node[parent])).filter(pa.array(counts[parent] > 1))
