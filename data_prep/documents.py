"""The document: one row of Arrow, the only thing that travels between data stages.

A documents directory holds ``part-00000.parquet``, ``part-00001.parquet``, … with at least the columns of `SCHEMA`.
A stage never deletes a row: it appends to `reasons`, and the next stage reads only rows whose `reasons` are empty.
So every dropped document can be looked up, with its text, in the stage that dropped it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from etils import epath

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # sha256 hex of (source, repo, path, commit): see document_id
        pa.field("content_sha256", pa.string()),  # sha256 hex of the file's raw bytes; null where unreadable
        pa.field("text", pa.large_string()),  # null where the bytes are not text
        pa.field("path", pa.string(), nullable=False),
        pa.field("repo", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("commit", pa.string()),
        pa.field("language", pa.string(), nullable=False),  # linguist name, or "unknown"
        pa.field("natural_language", pa.string()),
        pa.field("doc_type", pa.string(), nullable=False),  # code | data | text | excluded | unknown
        pa.field("size", pa.int64(), nullable=False),  # bytes of the raw file
        pa.field("stars", pa.int32()),
        pa.field("commit_time", pa.timestamp("ms", tz="UTC")),  # whole seconds; Parquet knows no coarser unit
        pa.field("licence", pa.string()),
        pa.field("source", pa.string(), nullable=False),  # which entry of preprocess.sources it came from
        pa.field("provenance", pa.string(), nullable=False),  # JSON: archive member, table row, transforms applied …
        pa.field("split", pa.string()),  # train | heldout, set by the split stage
        pa.field("reasons", pa.list_(pa.string()), nullable=False),  # why it was dropped; empty while it is kept
    ]
)


def document_id(source: str, repo: str, path: str, commit: str | None) -> str:
    """Sha256 hex of the four fields, NUL-separated: the same file of the same commit has the same id in every run."""
    return hashlib.sha256("\0".join((source, repo, path, commit or "")).encode("utf-8", "surrogatepass")).hexdigest()


def parts(directory: epath.Path) -> list[epath.Path]:
    """The Parquet parts of a documents directory, in order. Raises FileNotFoundError if there are none."""
    found = sorted(epath.Path(directory).glob("part-*.parquet"))
    if not found:
        raise FileNotFoundError(f"{directory} holds no part-*.parquet: run the stage that writes it first")
    return found


def read_part(part: epath.Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A whole part, with the wanted `columns` (all by default)."""
    with part.open("rb") as file:
        return pq.read_table(file, columns=None if columns is None else list(columns))


def kept(table: pa.Table) -> pa.Table:
    """The rows that no stage has dropped so far."""
    return table.filter(pc.equal(pc.list_value_length(table["reasons"]), 0))


def read(
    directory: epath.Path, columns: Sequence[str] | None = None, split: str | None = None, batch_rows: int = 1024
) -> Iterator[pa.Table]:
    """Kept documents in order, as tables of at most `batch_rows` rows and the wanted `columns` (all by default)."""
    wanted = None if columns is None else list(dict.fromkeys([*columns, "reasons", "split"]))
    for part in parts(directory):
        with part.open("rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(batch_rows, columns=wanted):
                table = kept(pa.Table.from_batches([batch]))
                if split is not None:
                    table = table.filter(pc.equal(table["split"], split))
                if table.num_rows:
                    yield table if columns is None else table.select(list(columns))


def drop(table: pa.Table, reasons: Sequence[Sequence[str]]) -> pa.Table:
    """`table` with column `reasons` replaced: one list per row, empty for a row that stays."""
    index = table.schema.get_field_index("reasons")
    column = pa.array([list(r) for r in reasons], pa.list_(pa.string()))
    return table.set_column(index, SCHEMA.field("reasons"), column)
