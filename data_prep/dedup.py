"""Deduplication of files, exact and fuzzy (arXiv 2411.04905, section 2.1.1).

Both stages keep one file of a group by the same rule: most stars, then latest commit, then the first path, content
hash and id in byte order; unknown stars and times come last. It is a total order, so the survivor does not depend on
the order of the rows.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping

import gin
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from etils import epath

from data_prep import documents as docs
from data_prep import funnel, minhash
from data_prep.engine import Engine, LocalEngine, TableFn, write_parquet

LOGGER = logging.getLogger("data_prep")

KEEP_RULE = [
    ("stars", "descending"),
    ("commit_time", "descending"),
    ("path", "ascending"),
    ("content_sha256", "ascending"),
    ("id", "ascending"),
]


def survivors(table: pa.Table, group: str) -> np.ndarray:
    """For each row of `table`, the row (int64 index) that the keep rule keeps of its group, a value of `group`."""
    order = pc.sort_indices(table, KEEP_RULE).to_numpy()
    codes = table[group].combine_chunks().dictionary_encode().indices.to_numpy()
    _, first = np.unique(codes[order], return_index=True)  # codes are 0 … k - 1, so entry k belongs to group k
    return order[first][codes]


@gin.configurable
def exact_dedup(
    out: epath.Path,
    *,
    documents: epath.Path = epath.Path("preprocess"),
    buckets: int = 16,
    engine: Engine = LocalEngine(),
) -> dict:
    """Keeps one file of those with the same bytes (SHA-256).

    Reason: ``exact_duplicate: <id of the survivor>``. The output has `buckets` parts; a bucket must fit in memory.
    """
    engine.reduce(
        _drop_exact, docs.parts(documents), out, key="content_sha256", buckets=buckets, label="exact duplicates"
    )
    return funnel.write(out)


def _drop_exact(table: pa.Table) -> pa.Table:
    table = docs.kept(table)
    winner = survivors(table, "content_sha256")
    ids = table["id"].to_pylist()
    return docs.drop(
        table, [[] if winner[row] == row else [f"exact_duplicate: {ids[winner[row]]}"] for row in range(len(ids))]
    )


@gin.configurable
def fuzzy_dedup(
    out: epath.Path,
    *,
    documents: epath.Path = epath.Path("exact_dedup"),
    num_perm: int = 2048,
    bands: int = 16,
    rows: int = 128,
    ngram: int = 5,
    seed: int = 1,
    buckets: int = 16,
    engine: Engine = LocalEngine(),
) -> dict:
    """Keeps one file of each cluster of nearly equal files: MinHash LSH, then connected components.

    A text shorter than `ngram` words is one shingle; one without words is never a fuzzy duplicate. Reason:
    ``fuzzy_duplicate: <id of the survivor>``. ``clusters.parquet`` lists the members of clusters of two or more: id,
    cluster (the smallest id in it), kept.

    Raises:
      ValueError: bands x rows is not num_perm.
    """
    if bands * rows != num_perm:
        raise ValueError(f"fuzzy_dedup: bands x rows = {bands} x {rows} must equal num_perm = {num_perm}")
    curve = minhash.s_curve(bands, rows)
    LOGGER.info("fuzzy duplicates: chance that a pair is met, by its Jaccard similarity: %s", curve)
    sign = functools.partial(_band_rows, num_perm=num_perm, bands=bands, ngram=ngram, seed=seed)
    if not (out / "clusters.parquet").exists():
        write_parquet(iter([_clusters(documents, out / "_scratch", sign, buckets, engine)]), out / "clusters.parquet")
    clusters = _read(out / "clusters.parquet")
    drop = functools.partial(_drop_fuzzy, survivor_of=_losers(clusters))
    result = funnel.documents_map(engine, drop, documents, out, label="fuzzy duplicates")
    if (out / "_scratch").exists():
        (out / "_scratch").rmtree()
    return result | {"clusters": len(set(clusters["cluster"].to_pylist())), "s_curve": curve}


def _clusters(documents: epath.Path, scratch: epath.Path, sign: TableFn, buckets: int, engine: Engine) -> pa.Table:
    """Columns id, cluster, kept of all files that share a band with another, ordered by cluster and id."""
    bands, edges = scratch / "bands", scratch / "edges"
    for directory in (bands, edges):
        directory.mkdir(parents=True, exist_ok=True)
    engine.map(sign, docs.parts(documents), bands, label="minhash signatures")
    engine.reduce(_edges, docs.parts(bands), edges, key="band", buckets=buckets, label="duplicate pairs")
    pairs = pa.concat_tables([_read(part) for part in docs.parts(edges)])
    root = minhash.components(zip(pairs["a"].to_pylist(), pairs["b"].to_pylist(), strict=True))
    members = pa.array(root, pa.string())
    schema = pa.schema([docs.SCHEMA.field(name) for name, _ in KEEP_RULE])
    found = [
        table.filter(pc.is_in(table["id"], members)).cast(schema)
        for table in docs.read(documents, schema.names, batch_rows=65_536)
    ]
    table = pa.concat_tables([schema.empty_table(), *found])
    table = table.append_column("cluster", pa.array([root[i] for i in table["id"].to_pylist()], pa.string()))
    kept = survivors(table, "cluster") == np.arange(table.num_rows)
    table = table.select(["id", "cluster"]).append_column("kept", pa.array(kept))
    return table.sort_by([("cluster", "ascending"), ("id", "ascending")])


def _band_rows(table: pa.Table, *, num_perm: int, bands: int, ngram: int, seed: int) -> pa.Table:
    keys: list[str] = []
    ids: list[str] = []
    table = docs.kept(table)
    for document, text in zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True):
        sketch = minhash.signature(text, num_perm=num_perm, ngram=ngram, seed=seed)
        if sketch is not None:
            keys += minhash.band_keys(sketch, bands)
            ids += [document] * bands
    return pa.table({"band": pa.array(keys, pa.string()), "id": pa.array(ids, pa.string())})


def _edges(table: pa.Table) -> pa.Table:
    """Pairs of ids next to each other in a band: n files that share one are connected by n - 1 edges, not n^2."""
    table = table.sort_by([("band", "ascending"), ("id", "ascending")])
    left, right = table.slice(0, max(table.num_rows - 1, 0)), table.slice(1)
    same = pc.equal(left["band"], right["band"])
    edges = pa.table({"a": left["id"].filter(same), "b": right["id"].filter(same)})
    return edges.group_by(["a", "b"]).aggregate([]).sort_by([("a", "ascending"), ("b", "ascending")])


def _losers(clusters: pa.Table) -> dict[str, str]:
    """Id of each dropped file -> id of the file kept in its place."""
    kept = clusters.filter(clusters["kept"])
    survivor = dict(zip(kept["cluster"].to_pylist(), kept["id"].to_pylist(), strict=True))
    lost = clusters.filter(pc.invert(clusters["kept"]))
    return {i: survivor[c] for i, c in zip(lost["id"].to_pylist(), lost["cluster"].to_pylist(), strict=True)}


def _drop_fuzzy(table: pa.Table, survivor_of: Mapping[str, str]) -> pa.Table:
    ids = table["id"].to_pylist()
    return docs.drop(table, [[f"fuzzy_duplicate: {survivor_of[i]}"] if i in survivor_of else [] for i in ids])


def _read(path: epath.Path) -> pa.Table:
    with path.open("rb") as file:
        return pq.read_table(file)
