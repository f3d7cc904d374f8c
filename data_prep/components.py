"""Connected components of graphs whose nodes are int64: each node gets the smallest node that it is connected with.

`in_memory` is a union-find on one core: 10⁷ edges in seconds, about 100 bytes of memory for each. `contract` takes any
number of edges: rounds of small-star and large-star (Kiveris et al., Connected Components in MapReduce and Beyond,
2014) on the engine, with one bucket at a time in memory, bring them down to one for each node. The result is the same
and depends on no order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from etils import epath

from data_prep import documents as docs
from data_prep import files, minhash
from data_prep.engine import Engine

EDGE = pa.schema([("u", pa.int64()), ("v", pa.int64())])  # edges are written with u > v


def components(
    edges: Sequence[epath.Path], scratch: epath.Path, engine: Engine, *, buckets: int, max_edges: int
) -> tuple[np.ndarray, np.ndarray]:
    """(nodes, roots): the different nodes of the edges in order, and the smallest node of each one's component.

    Args:
      edges: Parquet parts of schema `EDGE`, in which an edge may stand more than once.
      scratch: directory for the rounds.
      buckets: number of buckets of a round; all edges of the nodes of one have to fit in memory.
      max_edges: with more edges than this, rounds on the engine take the place of union-find in memory.
    """
    if sum(files.metadata(part).num_rows for part in edges) > max_edges:
        edges = contract(edges, scratch, engine, buckets=buckets)
    tables = [table.filter(pc.greater(table["u"], table["v"])) for table in map(docs.read_part, edges)]
    return in_memory(*(np.concatenate([table[name].to_numpy() for table in tables]) for name in EDGE.names))


def in_memory(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`components` of the edges u[i], v[i] (int64, in any order)."""
    ends = np.concatenate([u, v])
    order = np.argsort(ends)
    new = np.append(True, np.diff(ends[order]) != 0)[: len(ends)]
    number = np.empty(len(ends), np.int64)  # of the node at each end
    number[order] = np.cumsum(new) - 1
    nodes = ends[order][new]
    parent = np.arange(len(nodes))
    kernels = minhash.compiled()
    join = kernels.union_find if kernels else union_find
    join(parent, number[: len(u)], number[len(u) :])
    return nodes, nodes[parent]


def union_find(parent, a, b):
    """Joins nodes a[i] and b[i] for all i; in the end parent[x] is the smallest node that x is connected with.

    A root is always the smallest node of its tree, and a node's parent is never larger than itself.
    """
    for i in range(len(a)):
        x, y = a[i], b[i]
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        while parent[y] != y:
            parent[y] = parent[parent[y]]
            y = parent[y]
        parent[max(x, y)] = min(x, y)
    for x in range(len(parent)):
        parent[x] = parent[parent[x]]


def contract(edges: Sequence[epath.Path], scratch: epath.Path, engine: Engine, *, buckets: int) -> list[epath.Path]:
    """Edges that join every node straight to the smallest one of its component, each in both directions."""
    before, number = None, 0
    while True:
        number += 1
        small, large = scratch / f"round-{number:03d}-small", scratch / f"round-{number:03d}-large"
        engine.reduce(small_star, edges, small, key="u", buckets=buckets, label=f"components {number}: small stars")
        stars = docs.parts(small)
        after = _digest(stars)
        if after == before:
            return stars
        engine.reduce(large_star, stars, large, key="u", buckets=buckets, label=f"components {number}: large stars")
        edges, before = docs.parts(large), after


def small_star(table: pa.Table) -> pa.Table:
    """Joins u and its neighbours v < u to the smallest of them; takes edges with u > v, gives both directions."""
    u, v, least = _neighbourhoods(table)
    first = np.append(True, u[1:] != u[:-1])[: len(u)]
    u, v = _distinct(np.append(u[first], v), np.append(least[first], least))
    return _edges(np.append(u, v), np.append(v, u))


def large_star(table: pa.Table) -> pa.Table:
    """Joins the neighbours v > u of u to the smallest node among u and all neighbours; takes both directions."""
    u, v, least = _neighbourhoods(table)
    larger = v > u
    return _edges(*_distinct(v[larger], np.minimum(u, least)[larger]))


def _neighbourhoods(table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(u, v, the smallest neighbour of u) of the edges in order of u."""
    u, v = table["u"].to_numpy(), table["v"].to_numpy()
    order = np.lexsort((v, u))
    u, v = u[order], v[order]
    return u, v, v[np.searchsorted(u, u)]


def _distinct(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different edges with u > v, in order."""
    u, v = u[u > v], v[u > v]
    order = np.lexsort((v, u))
    u, v = u[order], v[order]
    new = np.append(True, (u[1:] != u[:-1]) | (v[1:] != v[:-1]))[: len(u)]
    return u[new], v[new]


def _edges(u: np.ndarray, v: np.ndarray) -> pa.Table:
    return pa.table([u, v], schema=EDGE)


def _digest(parts: Sequence[epath.Path]) -> int:
    """A number that tells whether two sets of edges are equal, whichever part an edge stands in."""
    total = 0
    for part in parts:
        table = docs.read_part(part)
        u, v = (table[name].to_numpy().view(np.uint64) for name in EDGE.names)
        total += int(minhash.mix64(minhash.mix64(u) + v).sum(dtype=np.uint64)) + len(u)
    return total
