from __future__ import annotations

import datetime
import random
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from data_prep import dedup, documents, minhash
from data_prep.engine import LocalEngine

TIMES = [None, *(datetime.datetime(2020, 1, day, tzinfo=datetime.UTC) for day in (1, 2))]
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "stars": st.sampled_from([None, 0, 7]),
            "commit_time": st.sampled_from(TIMES),
            "path": st.sampled_from(["a.py", "B.py", "é.py"]),
            "content_sha256": st.sampled_from(["x", "y", "z"]),
            "id": st.text("0123456789abcdef", min_size=4, max_size=4),
        }
    ),
    max_size=12,
    unique_by=lambda row: row["id"],
)


def rank(row: dict[str, Any]) -> tuple[Any, ...]:
    """The keep rule once more, in plain Python: the smallest is kept."""
    return (
        row["stars"] is None,
        -(row["stars"] or 0),
        row["commit_time"] is None,
        -(row["commit_time"].timestamp() if row["commit_time"] else 0),
        row["path"].encode(),
        row["content_sha256"],
        row["id"],
    )


@given(ROWS)
def test_survivors_are_the_best_of_each_group(rows: list[dict[str, Any]]) -> None:
    fields = [documents.SCHEMA.field(name) for name in ("stars", "commit_time", "path", "content_sha256", "id")]
    winners = dedup.survivors(pa.Table.from_pylist(rows, pa.schema(fields)), "content_sha256")
    for row, winner in zip(rows, winners, strict=True):
        group = [other for other in rows if other["content_sha256"] == row["content_sha256"]]
        assert rows[winner] == min(group, key=rank)


@pytest.fixture
def corpus() -> list[dict[str, Any]]:
    """Forty different files, copies of some, near copies of others, and what a dedup must leave alone."""
    rng = random.Random(5)
    rows = []
    for i in range(40):
        words = [f"w{rng.randrange(10**6)}" for _ in range(1500)]
        rows.append({"path": f"{i}.py", "text": " ".join(words), "stars": i % 3})
        if i % 4 == 0:
            rows.append({"path": f"copy/{i}.py", "text": " ".join(words), "stars": 1})
        if i % 5 == 0:
            rows.append({"path": f"spaced/{i}.py", "text": "  ".join(words) + "\n", "stars": None})
            rows.append({"path": f"near/{i}.py", "text": " ".join(words[:-1]), "stars": 2})
    rows += [{"path": f"signs/{i}", "text": "+" * i} for i in range(1, 4)]  # no words: never fuzzy duplicates
    rows += [{"path": f"short/{i}", "text": "one two" + "!" * i} for i in range(2)]
    rows += [{"path": "dropped.bin", "text": None, "content_sha256": None, "size": 9, "reasons": ["binary"]}]
    rng.shuffle(rows)
    return rows


def test_exact_dedup(
    corpus: list[dict[str, Any]], write_documents: Callable[..., epath.Path], run_stage: Callable[..., Any]
) -> None:
    source = write_documents("preprocess", corpus[:20], [], corpus[20:])
    result, rows = run_stage(dedup.exact_dedup, documents=source, buckets=3)
    assert "dropped.bin" not in [row["path"] for row in rows] and len(rows) == len(corpus) - 1
    kept = {row["id"]: row for row in rows if not row["reasons"]}
    assert len({row["content_sha256"] for row in kept.values()}) == len(kept) == result["files_kept"]
    for row in rows:
        group = [other for other in rows if other["content_sha256"] == row["content_sha256"]]
        best = min(group, key=rank)
        assert row["reasons"] == ([] if row is best else [f"exact_duplicate: {best['id']}"])


def test_fuzzy_dedup(
    corpus: list[dict[str, Any]], write_documents: Callable[..., epath.Path], run_stage: Callable[..., Any]
) -> None:
    unique = {row["text"]: row for row in corpus if row["text"]}
    source = write_documents("exact_dedup", list(unique.values())[::2], list(unique.values())[1::2])
    result, rows = run_stage(dedup.fuzzy_dedup, documents=source)
    shingles = {row["id"]: frozenset(minhash.shingles(row["text"], 5)) for row in rows}

    def alike(a: frozenset[bytes], b: frozenset[bytes]) -> bool:
        return bool(a) and len(a & b) / len(a | b) > 0.98

    for row in rows:
        group = [other for other in rows if other is row or alike(shingles[other["id"]], shingles[row["id"]])]
        best = min(group, key=rank)
        assert row["reasons"] == ([] if row is best else [f"fuzzy_duplicate: {best['id']}"]), row["path"]
    clusters = pq.read_table(source.parent / "fuzzy_dedup" / "clusters.parquet").to_pylist()
    reasons = {row["id"]: row["reasons"] for row in rows}
    assert len({row["cluster"] for row in clusters}) == result["clusters"] == 9
    assert all(row["kept"] == (not reasons[row["id"]]) for row in clusters)
    assert {row["id"] for row in clusters} >= {i for i, why in reasons.items() if why}


def test_corpus_without_duplicates(write_documents: Callable[..., epath.Path], run_stage: Callable[..., Any]) -> None:
    source = write_documents("exact_dedup", [{"path": "a", "text": "+"}], [])
    result, rows = run_stage(dedup.fuzzy_dedup, documents=source)
    assert result["clusters"] == 0 and [row["reasons"] for row in rows] == [[]]


def test_bands_must_use_all_permutations(write_documents: Callable[..., epath.Path], tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="16 x 128 must equal num_perm = 128"):
        dedup.fuzzy_dedup(epath.Path(tmp_path), documents=epath.Path(tmp_path), num_perm=128)


def test_same_bytes_for_any_number_of_workers(
    corpus: list[dict[str, Any]], write_documents: Callable[..., epath.Path], tmp_path: Any
) -> None:
    source = write_documents("preprocess", corpus[:20], corpus[20:])
    outputs = []
    for workers in (1, 2):
        workdir = epath.Path(tmp_path / f"workers{workers}")
        for stage, documents_in in ((dedup.exact_dedup, source), (dedup.fuzzy_dedup, workdir / "exact_dedup")):
            out = workdir / stage.__name__
            out.mkdir(parents=True)
            stage(out, documents=documents_in, buckets=3, engine=LocalEngine(workers=workers))
        outputs.append({f"{file.parent.name}/{file.name}": file.read_bytes() for file in workdir.glob("*/*.parquet")})
    assert outputs[0] == outputs[1]
    assert "fuzzy_dedup/clusters.parquet" in outputs[0]
