"""What workers do with batches of pages: make examples of them, and score them."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc
from etils import epath

from data_prep import documents as docs
from data_prep.sampling import draw
from data_prep.web import classifier, domains

MAX_PIECES = 2048  # of a page that the classifier looks at, so that a long page takes no longer than others
EXAMPLES = pa.schema([("id", pa.string()), ("code", pa.bool_()), ("line", pa.large_string())])


def seed_examples(table: pa.Table, *, segmenter: str) -> pa.Table:
    """Judged documents → `EXAMPLES`: those that are kept are code-related."""
    table = table.filter(pc.is_valid(table["text"]))
    code = pc.equal(pc.list_value_length(table["reasons"]), 0)
    return _examples(table, code, segmenter)


def page_examples(table: pa.Table, *, labels: str, digest: str, segmenter: str) -> pa.Table:
    """The documents that a file of labels names → `EXAMPLES`."""
    known = _labels(labels, digest)
    row = pc.index_in(table["id"], known["id"].combine_chunks())
    table, row = table.filter(pc.is_valid(row)), row.drop_null()
    return _examples(table, known["code"].take(row), segmenter)


@functools.lru_cache(1)
def _labels(path: str, digest: str) -> pa.Table:
    del digest  # it tells files of the same name apart
    return docs.read_part(epath.Path(path))


def _examples(table: pa.Table, code: pa.ChunkedArray, segmenter: str) -> pa.Table:
    segment = classifier.segmenter(segmenter)
    lines = pa.array([_head(segment(text)) for text in table["text"].to_pylist()], pa.large_string())
    return pa.table([table["id"], code, lines], EXAMPLES)


def _head(line: str) -> str:
    return " ".join(line.split(" ", MAX_PIECES)[:MAX_PIECES])


def in_drawn_order(table: pa.Table, *, salt: str) -> pa.Table:
    """Examples in random order; of those with the same id the first."""
    first = {row["id"]: row for row in reversed(table.to_pylist())}
    rows = sorted(first.values(), key=lambda row: (draw(salt, row["id"]), row["id"]))
    return pa.Table.from_pylist(rows, EXAMPLES)


def scored(table: pa.Table, *, segmenter: str, model: str, digest: str) -> pa.Table:
    """Documents with columns `tokens` and `score` (probability that they are code-related)."""
    del digest  # it makes the work of another model another
    segment, classify = classifier.segmenter(segmenter), classifier.classifier(model)
    lines = [segment(text) for text in table["text"].to_pylist()]
    tokens = pa.array([line.count(" ") + 1 for line in lines], pa.int64())
    return table.append_column("tokens", tokens).append_column(
        "score", pa.array(classify([_head(line) for line in lines]), pa.float32())
    )


def slim(table: pa.Table) -> pa.Table:
    """Scored documents → `domains.SCORED`."""
    size = pc.binary_length(table["text"]).cast(pa.int64())
    columns = {name: table[name] for name in ("id", "url", "domain", "tokens", "score")} | {"bytes": size}
    return pa.table({name: columns[name] for name in domains.SCORED.names}).cast(domains.SCORED)


def slim_scored(table: pa.Table, *, score: Callable[[pa.Table], pa.Table]) -> pa.Table:
    return slim(score(docs.kept(table)))


def keep_recalled(table: pa.Table, *, score: Callable[[pa.Table], pa.Table], threshold: float) -> pa.Table:
    """Scored documents; those below the threshold are dropped."""
    table = score(docs.kept(table))
    reasons = [[] if value >= threshold else [f"not_recalled ({value:.2f})"] for value in table["score"].to_pylist()]
    return docs.drop(table, reasons)
