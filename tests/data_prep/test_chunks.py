from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from etils import epath

from data_prep import chunks, dedup, documents
from data_prep.files import write_parquet
from data_prep.tokenizer import Encoder, tokenizer

WORDS = ["return", "naïve", "日本語", "x", "(", ")", "\n", "    ", "def", "\u2581", "🙂", "0x1f"]


def a_text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> epath.Path:
    """A tokenizer of 420 ids, most of them bytes."""
    source, out = (epath.Path(tmp_path_factory.mktemp(name)) for name in ("split", "tokenizer"))
    row = {name: "x" for name in documents.SCHEMA.names} | {"text": a_text(random.Random(0), 3000), "size": 20_000}
    row |= {"stars": 1, "commit_time": None, "reasons": [], "split": "train"}
    write_parquet(iter([pa.Table.from_pylist([row], documents.SCHEMA)]), source / "part-00000.parquet")
    tokenizer(out, documents=source, vocab_size=420)
    return out


def test_chunks_are_the_documents_in_random_order(
    directory: epath.Path, write_documents: Callable[..., epath.Path], run_stage: Callable[..., Any]
) -> None:
    rng = random.Random(1)
    texts = [a_text(rng, words) for words in (0, 1, 3, 40, 400, 90, 7, 120, 60, 33)]
    rows = [{"path": f"{i}", "text": text, "stars": i} for i, text in enumerate(texts)]
    source = write_documents("fuzzy_dedup", rows[:4], rows[4:])
    parameters = {"documents": source, "tokenizer": directory, "chunk_tokens": 32, "buckets": 2}
    result, found = run_stage(chunks.chunks, **parameters)
    encoder = Encoder(directory)
    tokens = [len(encoder.encode(row["text"])) for row in found]
    assert sorted(tokens)[2] >= 26 and max(tokens) <= 35  # read alone, a chunk's ends may fall into other tokens
    assert result["files_in"] == len(found) > 20
    # Every byte of every document is in one chunk, where provenance says.
    pieces: dict[str, list[tuple[int, int, bytes]]] = {}
    stars = {documents.document_id("test", "repo", row["path"], None): row["stars"] for row in rows}
    for row in found:
        spans = json.loads(row["provenance"])["documents"]
        assert row["stars"] == max(stars[document] for document, *_ in spans)
        data, at = row["text"].encode(), 0
        for document, start, end in spans:
            pieces.setdefault(document, []).append((start, end, data[at : at + end - start]))
            at += end - start
        assert at == len(data) == row["size"]
    whole = {document: b"".join(piece for *_, piece in sorted(parts)) for document, parts in pieces.items()}
    assert sorted(whole.values()) == sorted(
        text.encode() if text.endswith("\n") else f"{text}\n".encode() for text in texts
    )
    assert len({row["id"] for row in found}) == len(found)
    # The order is drawn by a salt.
    _, other = run_stage(chunks.chunks, "other", **parameters, salt="other")
    assert {row["text"] for row in other} != {row["text"] for row in found}


def test_file_and_chunk_deduplication(
    directory: epath.Path, write_documents: Callable[..., epath.Path], run_stage: Callable[..., Any]
) -> None:
    """Boilerplate longer than two chunks, at the end of different files, is left once where chunks line up."""
    line = " ".join(f"boilerplate{i}" for i in range(200)) + "\n"
    rows = [{"path": "a", "text": line * 40}, {"path": "b", "text": "one two three four five six\n"}]
    source = write_documents("exact_dedup", rows)
    run_stage(dedup.fuzzy_dedup, documents=source)
    encoder = Encoder(directory)
    run_stage(
        chunks.chunks,
        documents=source.parent / "fuzzy_dedup",
        tokenizer=directory,
        chunk_tokens=len(encoder.encode(line)),
        buckets=1,
    )
    result, found = run_stage(dedup.fuzzy_dedup, "chunk", documents=source.parent / "chunks")
    assert result["files_in"] >= 41 and result["files_kept"] <= 4
    assert all(row["reasons"][0].startswith("fuzzy_duplicate: ") for row in found if row["reasons"])
