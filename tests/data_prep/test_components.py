from __future__ import annotations

import pathlib
import random
import tempfile

import numpy as np
import pyarrow as pa
import pytest
from etils import epath
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_prep import components, minhash
from data_prep.engine import LocalEngine
from data_prep.files import write_parquet

Edges = list[tuple[int, int]]
EDGES = st.lists(
    st.tuples(st.integers(-9, 9), st.integers(-9, 9)).filter(lambda edge: edge[0] > edge[1]), min_size=1, max_size=25
)
PATH = [(i + 1, i) for i in range(70)]  # the longest way from node to root
STARS = [(hub + i, hub) for hub in (0, 100) for i in range(1, 30)] + [(120, 20)]
EXTREME = [(2**63 - 1, -(2**63)), (0, -(2**63))]


def flood(edges: Edges) -> dict[int, int]:
    """Node -> smallest node of its component, by spreading labels until nothing changes."""
    label = {node: node for edge in edges for node in edge}
    for _ in label:
        for a, b in edges:
            label[a] = label[b] = min(label[a], label[b])
    return label


def write(edges: Edges, directory: pathlib.Path, parts: int = 2) -> list[epath.Path]:
    for number in range(parts):
        u, v = np.array(edges[number::parts], np.int64).reshape(-1, 2).T
        table = pa.table([u, v], schema=components.EDGE)
        write_parquet(iter([table]), epath.Path(directory) / f"part-{number:05d}.parquet")
    return sorted(epath.Path(directory).glob("*.parquet"))


@given(EDGES, st.randoms())
def test_union_find_gives_the_smallest_node_whatever_the_order(edges: Edges, rng: random.Random) -> None:
    rng.shuffle(edges)
    u, v = np.array([edge[:: rng.choice([1, -1])] for edge in edges], np.int64).T
    nodes, roots = components.in_memory(u, v)
    assert dict(zip(nodes.tolist(), roots.tolist(), strict=True)) == flood(edges)
    assert nodes.tolist() == sorted(nodes.tolist())


@settings(max_examples=4)
@given(EDGES)
@example(PATH)
@example(STARS)
@example(EXTREME)
def test_rounds_on_the_engine_find_the_components_of_union_find(edges: Edges) -> None:
    engine = LocalEngine(workers=1)
    with tempfile.TemporaryDirectory() as directory:
        parts, scratch = write(edges, pathlib.Path(directory)), epath.Path(directory) / "rounds"
        memory = components.components(parts, scratch, engine, buckets=2, max_edges=len(edges))
        assert not scratch.exists()
        rounds = components.components(parts, scratch, engine, buckets=2, max_edges=len(edges) - 1)
        assert scratch.exists()
    assert dict(zip(*(array.tolist() for array in memory), strict=True)) == flood(edges)
    np.testing.assert_array_equal(memory, rounds)


def test_rounds_leave_one_edge_for_each_node(tmp_path: pathlib.Path) -> None:
    """Memory is bounded by the number of nodes: a clique of 60 has 1,770 edges and is left with 59."""
    clique = [(i, j) for i in range(60) for j in range(i)]
    parts = components.contract(write(clique, tmp_path), epath.Path(tmp_path) / "s", LocalEngine(workers=1), buckets=3)
    edges = [edge for part in parts for edge in zip(*pa.parquet.read_table(part).to_pydict().values(), strict=True)]
    assert sorted(edge for edge in edges if edge[0] > edge[1]) == [(i, 0) for i in range(1, 60)]


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minhash, "compiled", lambda: None)
    nodes, roots = components.in_memory(*np.array(STARS).T)
    assert dict(zip(nodes.tolist(), roots.tolist(), strict=True)) == flood(STARS)


def test_no_edges() -> None:
    nodes, roots = components.in_memory(np.empty(0, np.int64), np.empty(0, np.int64))
    assert len(nodes) == len(roots) == 0
