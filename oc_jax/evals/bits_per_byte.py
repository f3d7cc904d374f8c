"""Bits per byte on held-out repositories, by language, beside general-purpose compressors of the same bytes.

What the model is charged: −log₂ p of every token of a document, the first one predicted from the token that texts begin
with, in windows of bounded context; divided by the document's bytes. As all tokenizers cover the same bytes, the number
compares across vocabularies, which perplexity does not.

The yardstick comes in two strengths. ``xz`` and ``zstd`` compress each document alone, as `xz -9` and
`zstd -19 --long` would: like the model they start each document anew, but they have not seen any other code before, and
they pay for a file header. ``xz_together`` and ``zstd_together`` compress all documents of a language as one stream, in
which they may refer to every earlier document: more than the model's context allows.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import logging
import lzma
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import gin
import zstandard

from oc_jax.evals.task import Generator, Result, Subject

_LOG = logging.getLogger(__name__)
_WINDOWS_PER_CALL = 256


@gin.configurable
def bits_per_byte(
    subject: Subject,
    *,
    context_length: int = gin.REQUIRED,
    overlap: int = 0,
    max_bytes_per_language: int | None = 1 << 20,
    salt: str = "bits_per_byte",
) -> Result:
    """Model and yardstick on `subject.heldout`; "skipped" says why there are no numbers if it holds no document.

    Args:
      context_length: tokens the model sees at a time; at most what it was trained on.
      overlap: tokens of a window that are seen again as context of the next one; 0 is cheapest, more is kinder.
      max_bytes_per_language: documents are taken in the order of a salted hash until so many bytes are reached; the
        last one is cut there. None: all.
    """
    from oc_jax.data import read_records  # late: judging programs needs neither Grain nor TFDS

    texts = select(read_records(subject.heldout), max_bytes_per_language, salt)
    if not texts:
        _LOG.warning("bits per byte: no document is held out, so nothing is measured")
        return Result(None, {"skipped": "no document is held out"})
    by_language: dict[str, dict[str, Any]] = {}
    for language, documents in texts.items():
        by_language[language] = row = measure(subject.engine, documents, context_length, overlap)
        _LOG.info("bits per byte, %s: %.3f (xz %.3f)", language, row["model"], row["xz"])
    total = _combine(by_language.values())
    protocol = {"context_length": context_length, "overlap": overlap, "max_bytes_per_language": max_bytes_per_language}
    return Result(total["model"], {"by_language": by_language, "total": total, **protocol})


def select(records: Iterable[dict[str, Any]], max_bytes: int | None, salt: str) -> dict[str, list[bytes]]:
    """By language, in the order of hash(salt, id), the documents that make up the first `max_bytes`; the last is cut.

    Holds at most `max_bytes` and one document per language in memory. Empty documents are left out.
    """
    limit = math.inf if max_bytes is None else max_bytes
    heaps: dict[str, list[tuple[int, bytes]]] = {}  # the last in hash order on top
    sizes: dict[str, int] = {}
    for record in records:
        language, text = _str(record["language"]), bytes(record["text"])
        if not text:
            continue
        rank = int.from_bytes(hashlib.sha256(f"{salt}\0{_str(record['id'])}".encode()).digest(), "big")
        heap = heaps.setdefault(language, [])
        heapq.heappush(heap, (-rank, text))
        sizes[language] = sizes.get(language, 0) + len(text)
        while sizes[language] - len(heap[0][1]) >= limit:
            sizes[language] -= len(heapq.heappop(heap)[1])
    chosen = {}
    for language in sorted(heaps):
        chosen[language] = [text for _, text in sorted(heaps[language], key=lambda item: -item[0])]
        if (excess := sizes[language] - limit) > 0:
            chosen[language][-1] = chosen[language][-1][: -int(excess)]
    return chosen


def windows(length: int, context_length: int, overlap: int) -> Iterator[tuple[int, int, int]]:
    """(start, first, stop): tokens [start, stop) are fed to the model, and those from `first` on are charged.

    Token 0 is context only; every other one is charged exactly once, with at least one token in front of it.
    Raises ValueError unless 0 ≤ overlap ≤ context_length − 2.
    """
    if not 0 <= overlap <= context_length - 2:
        raise ValueError(f"overlap {overlap} must lie between 0 and context_length − 2 = {context_length - 2}")
    first = 1
    while first < length:
        start = max(0, first - 1 - overlap)
        stop = min(start + context_length, length)
        yield start, first, stop
        first = stop


def measure(engine: Generator, documents: Sequence[bytes], context_length: int, overlap: int) -> dict[str, Any]:
    """Bits per byte of the model and of the compressors over `documents`, with the sums they are made from."""
    bits, tokens = 0.0, 0
    sequences = _sequences(engine, documents, context_length, overlap)
    while batch := list(itertools.islice(sequences, _WINDOWS_PER_CALL)):
        scores = engine.score([sequence for sequence, _ in batch])
        for (_, skipped), log_probabilities in zip(batch, scores, strict=True):
            charged = log_probabilities[skipped:]
            bits -= float(charged.sum(dtype="float64")) / math.log(2)
            tokens += len(charged)
    together = b"".join(documents)
    counts = {
        "model": bits,
        "xz": 8 * sum(map(xz_bytes, documents)),
        "zstd": 8 * sum(map(zstd_bytes, documents)),
        "xz_together": 8 * xz_bytes(together),
        "zstd_together": 8 * zstd_bytes(together),
    }
    size = len(together)
    return {name: count / size for name, count in counts.items()} | {
        "bytes": size,
        "tokens": tokens,
        "documents": len(documents),
    }


def _sequences(
    engine: Generator, documents: Sequence[bytes], context_length: int, overlap: int
) -> Iterator[tuple[list[int], int]]:
    """(tokens of a window, how many of its log-probabilities were charged before)."""
    for text in documents:
        tokens = [*engine.tokenizer.start, *engine.tokenizer.encode(text)]
        for start, first, stop in windows(len(tokens), context_length, overlap):
            yield tokens[start:stop], first - start - 1


def _combine(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The rows' totals: rates weighted by bytes."""
    rows = list(rows)
    size = sum(row["bytes"] for row in rows)
    rates = ("model", "xz", "zstd", "xz_together", "zstd_together")
    total: dict[str, Any] = {name: sum(row[name] * row["bytes"] for row in rows) / size for name in rates}
    return total | {name: sum(row[name] for row in rows) for name in ("bytes", "tokens", "documents")}


def xz_bytes(data: bytes) -> int:
    """Size of `xz -9` of `data`, with a dictionary that isn't larger than the data (which only saves memory)."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": min(max(len(data), 4096), 64 << 20)}]
    return len(lzma.compress(data, check=lzma.CHECK_CRC64, filters=filters))


def zstd_bytes(data: bytes) -> int:
    """Size of `zstd -19 --long` of `data`."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        19, source_size=len(data), window_log=27, enable_ldm=True, write_checksum=True
    )
    return len(zstandard.ZstdCompressor(compression_params=parameters).compress(data))


def _str(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
