from __future__ import annotations

import datetime
import itertools
import random
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import dedup, documents, minhash
from data_prep.engine import LocalEngine
from data_prep.files import write_parquet

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
    shingles = {row["id"]: frozenset(minhash.shingles(row["text"], minhash.Scheme()).tolist()) for row in rows}

    def alike(a: frozenset[int], b: frozenset[int]) -> bool:
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


def test_settings_that_cannot_be(tmp_path: Any) -> None:
    out = epath.Path(tmp_path)
    with pytest.raises(ValueError, match="file, repository, not 'chunk'"):
        dedup.fuzzy_dedup(out, documents=out, unit="chunk")
    with pytest.raises(ValueError, match="needs the text"):
        dedup.fuzzy_dedup(out, documents=out, min_jaccard=0.9, known=[out])
    with pytest.raises(FileNotFoundError, match="holds no signatures"):
        dedup.fuzzy_dedup(out, documents=out, known=[out])


def text_of(*seeds: int) -> str:
    """Words of each seed, 200 apiece: texts that share seeds share most of their shingles of these."""
    return " ".join(f"w{random.Random(1000 * seed + i).randrange(10**6)}" for seed in seeds for i in range(200))


def test_repositories(write_documents: Callable[..., epath.Path], run_stage: Callable[..., Any]) -> None:
    """A repository is its files in order of path, whatever the order of rows; it goes or stays as a whole."""
    files = {f"{i}.py": text_of(i) for i in range(4)}
    rows = [{"repo": "a/original", "path": path, "text": text, "stars": 1} for path, text in files.items()]
    rows += [{"repo": "b/fork", "path": f"{path}", "text": text, "stars": 9} for path, text in files.items()][::-1]
    rows += [{"repo": "c/part", "path": "0.py", "text": files["0.py"], "stars": 50}]  # a file in common is not enough
    source = write_documents("preprocess", rows[::2], rows[1::2])
    result, found = run_stage(dedup.fuzzy_dedup, documents=source, unit="repository")
    assert {row["repo"]: row["reasons"] for row in found} == {
        "a/original": ["fuzzy_duplicate: b/fork"],
        "b/fork": [],
        "c/part": [],
    }
    assert len(found) == len(rows) and result["clusters"] == 1 and result["largest_cluster"] == 2


def test_clusters_tell_who_lost_by_what(
    write_documents: Callable[..., epath.Path], run_stage: Callable[..., Any]
) -> None:
    rows = [{"path": f"{i}", "text": f"{text_of(1)} {i}", "stars": stars} for i, stars in enumerate([5, 5, 3, None])]
    rows += [{"path": "later", "text": text_of(1), "stars": 5, "commit_time": TIMES[1]}]
    source = write_documents("exact_dedup", rows)
    _, found = run_stage(dedup.fuzzy_dedup, documents=source, bands=64, rows=8)
    path = {row["id"]: row["path"] for row in found}
    table = pq.read_table(source.parent / "fuzzy_dedup" / "clusters.parquet").to_pylist()
    assert [(row["rank"], path[row["id"]], row["decided_by"]) for row in table] == [
        (0, "later", None),
        (1, "0", "commit_time"),
        (2, "1", "commit_time"),
        (3, "2", "stars"),
        (4, "3", "stars"),
    ]
    assert all(path[row["survivor"]] == "later" and 32 < row["shared_bands"] <= 64 for row in table)
    assert {row["cluster"] for row in table} == {min(path)} and table[0]["jaccard"] is None


def test_verified_clusters_are_those_of_exact_jaccard(
    write_documents: Callable[..., epath.Path], run_stage: Callable[..., Any]
) -> None:
    """Bands this narrow meet everything that is a little alike; what is left are the pairs that really are."""
    rng = random.Random(3)
    base = text_of(7, 8).split()
    texts = [
        " ".join(w if rng.random() > rate else f"v{rng.randrange(10**9)}" for w in base) for rate in [0.004, 0.05] * 12
    ]
    source = write_documents("exact_dedup", [{"path": f"{i:02d}", "text": text} for i, text in enumerate(texts)])
    loose, _ = run_stage(dedup.fuzzy_dedup, "loose", documents=source, bands=128, rows=1)
    assert loose["largest_cluster"] == len(texts)
    result, rows = run_stage(dedup.fuzzy_dedup, documents=source, bands=128, rows=1, min_jaccard=0.85)
    sets = {row["id"]: set(zip(*(row["text"].split()[i:] for i in range(5)), strict=False)) for row in rows}
    label = {i: i for i in sets}
    for _ in sets:
        for a, b in itertools.combinations(sets, 2):
            if len(sets[a] & sets[b]) >= 0.85 * len(sets[a] | sets[b]):
                label[a] = label[b] = min(label[a], label[b])
    assert result["files_kept"] == len(set(label.values())) > 1
    for row in pq.read_table(source.parent / "fuzzy_dedup" / "clusters.parquet").to_pylist():
        own, other = sets[row["id"]], sets[row["survivor"]]
        assert row["cluster"] == label[row["id"]] == label[row["survivor"]]
        assert row["jaccard"] == pytest.approx(len(own & other) / len(own | other))


def document(path: str, text: str, stars: int, source: str) -> dict[str, Any]:
    return {
        "id": documents.document_id(source, "repo", path, None),
        "content_sha256": path,
        "text": text,
        "path": path,
        "repo": "repo",
        "language": "text",
        "doc_type": "text",
        "size": len(text),
        "stars": stars,
        "source": source,
        "provenance": "{}",
        "reasons": [],
    }


FAMILIES = st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.integers(0, 3)), min_size=2, max_size=14)


@settings(max_examples=5)
@given(FAMILIES)
def test_a_corpus_given_a_known_one(families: list[tuple[int, bool, int]]) -> None:
    """Survivors of B given A = survivors of A and B together, of those clusters that have no file of A."""
    with tempfile.TemporaryDirectory() as directory:
        workdir = epath.Path(directory)
        rows = [
            document(f"{i}", f"{text_of(family)} x{i}", stars, "A" if old else "B")
            for i, (family, old, stars) in enumerate(families)
        ]
        again = [row for row in rows if row["source"] == "A"][:1]  # a file that did not change is in both
        corpora = {"A": [r for r in rows if r["source"] == "A"], "B": [r for r in rows if r["source"] == "B"] + again}
        corpora["both"] = rows
        for name, members in corpora.items():
            table = pa.Table.from_pylist(members, documents.SCHEMA)
            (workdir / name).mkdir()
            write_parquet(iter([table]), workdir / name / "part-00000.parquet")

        def kept(name: str, **parameters: Any) -> set[str]:
            out = workdir / f"{name}_dedup"
            out.mkdir()
            dedup.fuzzy_dedup(
                out, documents=workdir / name, bands=16, rows=4, engine=LocalEngine(workers=1), **parameters
            )
            return {row["id"] for table in documents.read(out, ["id"]) for row in table.to_pylist()}

        kept_a, together = kept("A"), kept("both")
        shutil.rmtree(workdir / "A")  # its text is not needed any more
        kept_b = kept("B", known=[workdir / "A_dedup"])
        table = pq.read_table(workdir / "B_dedup" / "clusters.parquet").to_pylist()
    family = {row["id"]: number for row, (number, _, _) in zip(rows, families, strict=True)}
    old = {number for number, is_old, _ in families if is_old}
    assert kept_b == {i for i in together if family[i] not in old}
    in_b = {row["id"] for row in corpora["B"]}
    assert {row["id"] for row in table if not row["known"]} >= in_b - kept_b
    for row in table:  # what stands for a file of B is in A, and kept there
        assert row["survivor"] in (kept_b if family[row["survivor"]] not in old else kept_a)
        assert any(other["cluster"] == row["cluster"] and not other["known"] for other in table)
    assert sorted(family[i] for i in kept_a | kept_b) == sorted({number for number, _, _ in families})


def test_known_signatures_must_have_the_same_settings(
    write_documents: Callable[..., epath.Path], run_stage: Callable[..., Any]
) -> None:
    source = write_documents("exact_dedup", [{"path": "a", "text": "one two three"}])
    run_stage(dedup.fuzzy_dedup, "old", documents=source, seed=2)
    old = source.parent / "old"
    with pytest.raises(ValueError, match="signed with seed = 2, not 1"):
        run_stage(dedup.fuzzy_dedup, documents=source, known=[old])


def test_as_good_on_the_engine_as_in_memory(
    corpus: list[dict[str, Any]], write_documents: Callable[..., epath.Path], run_stage: Callable[..., Any]
) -> None:
    source = write_documents("exact_dedup", corpus[::2], corpus[1::2])
    rows = [run_stage(dedup.fuzzy_dedup, str(n), documents=source, max_edges=n, buckets=3)[1] for n in (0, 10**6)]
    assert rows[0] == rows[1] and any(row["reasons"] for row in rows[0])


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
