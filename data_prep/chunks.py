"""Chunks of a random concatenation of documents: the units of the paper's chunk-level deduplication (section 6.1).

A chunk is a document like any other, so that it is deduplicated as a file is.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from typing import Any

import gin
import numpy as np
import pyarrow as pa
from etils import epath

from data_prep import documents as docs
from data_prep import funnel
from data_prep.engine import Engine, LocalEngine
from data_prep.sampling import draw
from data_prep.tokenizer import Encoder


@gin.configurable
def chunks(
    out: epath.Path,
    *,
    documents: epath.Path = epath.Path("fuzzy_dedup"),
    tokenizer: epath.Path = epath.Path("tokenizer"),
    chunk_tokens: int = 4096,
    salt: str = "chunks",
    buckets: int = 0,
    engine: Engine = LocalEngine(),
) -> dict:
    """Cuts the kept documents, concatenated in random order, into documents of `chunk_tokens` tokens.

    A text that does not end with a line end gets one. A token that is part of a character draws the rest of it into its
    chunk, and the last chunk of a concatenation is shorter. A chunk has the most stars and the latest commit of the
    documents in it, the repository of the first and the language of the largest; `provenance` tells which bytes of
    which documents it is.

    Args:
      documents: documents directory.
      tokenizer: tokenizer directory.
      chunk_tokens: tokens in a chunk.
      salt: another salt gives another order.
      buckets: number of concatenations, 0 for as many as fit in memory.
    """
    cut = functools.partial(_cut, tokenizer=os.fspath(tokenizer), chunk_tokens=chunk_tokens, salt=salt)
    engine.reduce(cut, docs.parts(documents), out, key="id", buckets=buckets, label="chunks")
    return funnel.write(out)


def _cut(table: pa.Table, *, tokenizer: str, chunk_tokens: int, salt: str) -> pa.Table:
    rows = sorted(docs.kept(table).to_pylist(), key=lambda row: (draw(salt, row["id"]), row["id"]))
    if not rows:
        return docs.SCHEMA.empty_table()
    encoder = Encoder(tokenizer)
    lengths = encoder.lengths()
    texts = [text if text.endswith("\n") else f"{text}\n" for text in (row["text"] for row in rows)]
    data = "".join(texts).encode()
    ends = np.cumsum(np.concatenate([lengths[encoder.encode(text)] for text in texts]))
    cuts = [0]
    for end in [*ends[chunk_tokens - 1 : -1 : chunk_tokens].tolist(), len(data)]:
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end += 1
        cuts.append(end)
    starts = np.cumsum([0] + [len(text.encode()) for text in texts])
    first = np.searchsorted(starts, cuts[:-1], side="right") - 1
    last = np.searchsorted(starts, cuts[1:], side="left")
    found = [
        _chunk(data, start, end, rows[i:j], starts[i:j].tolist())
        for start, end, i, j in zip(cuts[:-1], cuts[1:], first, last, strict=True)
    ]
    return pa.Table.from_pylist(found, docs.SCHEMA)


def _chunk(data: bytes, start: int, end: int, rows: list[dict[str, Any]], starts: list[int]) -> dict[str, Any]:
    """The document data[start:end], which touches the documents `rows`, of which each begins at one of `starts`."""
    text = data[start:end]
    bounds = [*starts, end]
    spans = [(max(start, a) - a, b - a) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    largest = rows[max(range(len(rows)), key=lambda i: spans[i][1] - spans[i][0])]
    times = [row["commit_time"] for row in rows if row["commit_time"]]
    stars = [row["stars"] for row in rows if row["stars"] is not None]
    offset = spans[0][0]
    return {
        "id": docs.document_id("chunks", rows[0]["id"], str(offset), None),
        "content_sha256": hashlib.sha256(text).hexdigest(),
        "text": text.decode(),
        "path": f"{rows[0]['path']}#{offset}",
        "repo": rows[0]["repo"],
        "language": largest["language"],
        "doc_type": largest["doc_type"],
        "size": len(text),
        "stars": max(stars, default=None),
        "commit_time": max(times, default=None),
        "source": "chunks",
        "provenance": json.dumps({"documents": [[row["id"], *span] for row, span in zip(rows, spans, strict=True)]}),
        "reasons": [],
    }
