"""Locality-sensitive hashing on the engine: signatures of units, and the edges between those that share a band.

A unit is what is kept or dropped as a whole, a file or a repository; its text travels no further than `sign`, nor do
signatures: a unit goes on as the 64-bit hashes of its bands and the columns that the keep rule needs. In graphs a unit
is a `node`, 64 bits of the SHA-256 of its id; of a thousand million units two have the same with probability 3 %.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep import documents as docs
from data_prep import minhash
from data_prep.components import EDGE

UNITS = {"file": "id", "repository": "repo"}  # unit -> the column of documents that says which one a document is in
UNIT = pa.schema([docs.SCHEMA.field(name) for name in ("id", "stars", "commit_time", "path", "content_sha256", "text")])
SIGNATURE = pa.schema([*UNIT.remove(5), ("node", pa.int64()), ("bands", pa.list_(pa.int64()))])
BAND = pa.schema([("band", pa.int64()), ("node", pa.int64())])


def sign(table: pa.Table, *, unit: str, scheme: minhash.Scheme, bands: int) -> pa.Table:
    """Documents → one row of schema `SIGNATURE` for each unit with a shingle; a repository must be in whole in `table`.

    A repository is the text of its files in order of path and id, a line end between them. It has their most stars and
    latest commit, its name for id and path, and the SHA-256 of its text.
    """
    return _signed(units(table, unit), scheme, bands)


def units(table: pa.Table, unit: str) -> pa.Table:
    """Kept documents → one row of schema `UNIT` for each unit."""
    table = docs.kept(table)
    return table.select(UNIT.names).cast(UNIT) if unit == "file" else _repositories(table)


def _repositories(table: pa.Table) -> pa.Table:
    table = table.select(["repo", *UNIT.names]).sort_by([(name, "ascending") for name in ("repo", "path", "id")])
    repos = table["repo"].to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(np.append(True, repos[1:] != repos[:-1])[: len(repos)])
    rows = []
    for start, end in zip(starts, [*starts[1:], len(repos)], strict=True):
        files = table.slice(start, end - start)
        text = "\n".join(text or "" for text in files["text"].to_pylist())
        rows.append(
            {
                "id": repos[start],
                "stars": pc.max(files["stars"]).as_py(),
                "commit_time": pc.max(files["commit_time"]).as_py(),
                "path": repos[start],
                "content_sha256": hashlib.sha256(text.encode()).hexdigest(),
                "text": text,
            }
        )
    return pa.Table.from_pylist(rows, UNIT)


def nodes_of(ids: Iterable[str]) -> np.ndarray:
    """The node of each unit, int64."""
    return np.frombuffer(b"".join(hashlib.sha256(i.encode()).digest()[:8] for i in ids), "<i8")


def _signed(table: pa.Table, scheme: minhash.Scheme, bands: int) -> pa.Table:
    signatures = minhash.signatures(table["text"].combine_chunks(), scheme)
    has_shingles = ~(signatures == minhash.MAX_HASH).all(1)
    table, hashes = table.filter(pa.array(has_shingles)), minhash.band_hashes(signatures[has_shingles], bands)
    node = nodes_of(table["id"].to_pylist())
    lists = pa.ListArray.from_arrays(pa.array(np.arange(len(node) + 1, dtype=np.int32) * bands), hashes.ravel())
    return pa.table([*table.drop_columns("text").columns, node, lists], schema=SIGNATURE)


def band_rows(table: pa.Table, *, generation: int) -> pa.Table:
    """Signatures → a row of schema `BAND` for each band of each unit."""
    hashes = pc.list_flatten(table["bands"]).to_numpy()
    nodes = generation_nodes(table, generation)
    return pa.table([hashes, np.repeat(nodes, len(hashes) // max(len(nodes), 1))], schema=BAND)


def generation_nodes(table: pa.Table, generation: int) -> np.ndarray:
    """Nodes of signatures in the graph of several generations, in which a unit may occur again.

    Generation 0 is the corpus at hand, the ones before it are -1, -2, …
    """
    salt = minhash.mix64(np.array([generation]).view(np.uint64)).view(np.int64)
    return table["node"].to_numpy() ^ salt  # mix64(0) is 0


def star_edges(table: pa.Table) -> pa.Table:
    """Rows of schema `BAND` → edges from each unit of a band to the smallest: n units are joined by n - 1 edges."""
    band, node = table["band"].to_numpy(), table["node"].to_numpy()
    order = np.lexsort((node, band))
    band, node = band[order], node[order]
    least = node[np.searchsorted(band, band)]
    edges = pa.table([node, least], schema=EDGE).filter(pa.array(node > least))
    return edges.group_by(EDGE.names).aggregate([]).sort_by([(name, "ascending") for name in EDGE.names])


MEMBER = pa.schema([*SIGNATURE, ("generation", pa.int16()), ("root", pa.int64()), ("shingles", pa.list_(pa.uint32()))])


def members(table: pa.Table, *, nodes: np.ndarray, roots: np.ndarray, generation: int) -> pa.Table:
    """Signatures → rows of schema `MEMBER`, without shingles, of those whose node is one of `nodes` (sorted)."""
    at = positions(generation_nodes(table, generation), nodes)
    table = table.filter(pa.array(at >= 0))
    generations = np.full(len(table), generation, np.int16)
    no_shingles = pa.nulls(len(table), pa.list_(pa.uint32()))
    return pa.table([*table.columns, generations, roots[at[at >= 0]], no_shingles], schema=MEMBER)


def positions(values: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Where each value stands in the sorted `nodes`, -1 for nowhere."""
    if not len(nodes):
        return np.full(len(values), -1)
    at = np.minimum(np.searchsorted(nodes, values), len(nodes) - 1)
    return np.where(nodes[at] == values, at, -1)


def members_with_shingles(
    table: pa.Table, *, unit: str, scheme: minhash.Scheme, bands: int, nodes: np.ndarray, roots: np.ndarray
) -> pa.Table:
    """Documents → rows of schema `MEMBER` with shingles in ascending order; documents of no cluster are not signed."""
    table = units(table, unit)
    table = table.filter(pa.array(positions(nodes_of(table["id"].to_pylist()), nodes) >= 0))
    # Units without shingles are in no cluster, so all of these are signed.
    shingles = [np.sort(minhash.shingles(text, scheme)) for text in table["text"].to_pylist()]
    found = members(_signed(table, scheme, bands), nodes=nodes, roots=roots, generation=0)
    field = MEMBER.field("shingles")
    return found.set_column(MEMBER.get_field_index("shingles"), field, pa.array(shingles, field.type))
