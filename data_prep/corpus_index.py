"""corpus_index.parquet: which files a data set is made of, so that others can build it where its text cannot be given.

One row for each record, in the order of ids: where the file is, what it must be (`content_sha256` of the raw file,
`text_sha256` of the text as the data set has it), and what the stages decided about it (language, kinds, split, and in
`provenance` the repairs). The metadata of the file says under ``data_set`` how the shards were made and the digest they
must have. Rows of conversations name the document they come from in `provenance`; their `content_sha256` is that of the
messages.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from etils import epath

from data_prep import documents as docs
from data_prep.engine import Engine
from data_prep.files import write_parquet

NAME = "corpus_index.parquet"
_TEXT = pa.field("text_sha256", pa.string())
_COLUMNS = (
    "id content_sha256 source repo path commit url licence language natural_language doc_type size split provenance"
).split()
SCHEMA = pa.schema([pa.field(name, docs.SCHEMA.field(name).type) for name in _COLUMNS]).append(_TEXT)


def write(
    out: epath.Path,
    documents: epath.Path,
    scratch: epath.Path,
    split: str | None,
    facts: dict[str, Any],
    engine: Engine,
) -> None:
    """Writes out/corpus_index.parquet for the data set of the kept rows of `documents` in `split`.

    Args:
      scratch: directory for intermediate parts.
      facts: what the data set is and how it was made; the rebuilding command reads it.
    """
    listed, ordered = scratch / "listed", scratch / "ordered"
    rows, label = functools.partial(_rows, split=split), f"{facts['name']}: index"
    engine.map(rows, docs.parts(documents), listed, label=label)
    engine.reduce(_by_id, docs.parts(listed), ordered, key="id", buckets=facts["num_shards"], label=label)
    schema = SCHEMA.with_metadata({"data_set": json.dumps(facts, sort_keys=True)})
    write_parquet(_tables(docs.parts(ordered), schema), out / NAME)


def _by_id(table: pa.Table) -> pa.Table:
    return table.sort_by("id")


def read(path: epath.Path) -> tuple[pa.Table, dict[str, Any]]:
    """(rows, facts about the data set). Raises ValueError if the file is no such index."""
    with path.open("rb") as file:
        table = pq.read_table(file)
    metadata = table.schema.metadata or {}
    if b"data_set" not in metadata or not set(SCHEMA.names) <= set(table.column_names):
        raise ValueError(f"{path} is no {NAME} of a data set")
    return table, json.loads(metadata[b"data_set"])


def text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _tables(parts: list[epath.Path], schema: pa.Schema) -> Iterator[pa.Table]:
    yield schema.empty_table()
    for part in parts:
        with part.open("rb") as file:
            yield pq.read_table(file).cast(schema)


def _rows(table: pa.Table, *, split: str | None) -> pa.Table:
    conversations = "messages" in table.column_names
    table = docs.kept(table)
    if split is not None and not conversations:
        table = table.filter(pc.equal(table["split"], split))
    texts = table["messages" if conversations else "text"].to_pylist()
    if conversations:
        texts = [json.dumps(messages, ensure_ascii=False) for messages in texts]
    digests = pa.array(map(text_digest, texts), pa.string())
    nothing = pa.nulls(table.num_rows, pa.string())
    known = {name: table[name] if name in table.column_names else nothing for name in SCHEMA.names}
    known |= {"text_sha256": digests} | ({"content_sha256": digests} if conversations else {})
    return pa.table([pc.cast(known[field.name], field.type) for field in SCHEMA], SCHEMA)
