"""Parquet and JSON Lines tables with the columns of The Stack v2 (or v1), one file of source code per row.

A row with a URL and no repository, or with nothing but text, is a web page, as in FineWeb and SkyPile.

The content comes from a column `content` or `text`; where there is none, as in The Stack v2 itself, from a store of
blobs by `blob_id`.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from data_prep import languages
from data_prep.sources import archives, blobs
from data_prep.sources.reference import Reference, printable, provenance
from data_prep.web import urls

SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst")
# Column names by what they mean. The first that a row has is taken: The Stack v2's, then v1's, then others.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "content": ("content", "text"),
    "path": ("path", "max_stars_repo_path", "file_path"),
    "repo": ("repo_name", "max_stars_repo_name", "repo", "repository"),
    "url": ("url",),
    "commit": ("revision_id", "max_stars_repo_head_hexsha", "commit"),
    "time": ("committer_date", "revision_date", "visit_date", "commit_time", "date"),
    "stars": ("star_events_count", "max_stars_count", "stars"),
    "licence": ("detected_licenses", "max_stars_repo_licenses", "license_type", "licence", "license"),
    "language": ("language", "lang"),
    "blob": ("blob_id",),
    "encoding": ("src_encoding",),
    "size": ("length_bytes", "size"),
}
_KNOWN = {name for names in COLUMNS.values() for name in names}
_BLOCK = 1 << 20
_THREADS = 16  # blobs that one worker fetches at once

Read = tuple[Reference, bytes | None, str | None]  # file, its bytes, or the reason why there are none


def is_table(name: str) -> bool:
    """Whether the name is that of a table this module reads."""
    return name.lower().endswith(SUFFIXES)


def references(
    source: str, path: epath.Path, name: str, spool: IO[bytes], location: bytes, part_files: int, part_bytes: int
) -> Iterator[Reference]:
    """Runs of rows of one table, each of about `part_files` rows or `part_bytes` bytes at most.

    Args:
      source: entry of preprocess.sources.
      path: the table.
      name: what to call it in documents that have no path of their own.
      spool: open for appending, at its end; takes the lines of a compressed JSON Lines file.
      location: where workers will find the spool file.
      part_files: wanted rows.
      part_bytes: wanted bytes.
    """
    whole = Reference("none", source, name.split(".")[0], name, provenance=provenance(reader="table"))
    try:
        if name.lower().endswith(".parquet"):
            yield from _row_ranges(whole, path, part_files, part_bytes)
        else:
            yield from _line_ranges(whole, path, spool, location, part_bytes)
    except (pa.ArrowException, *archives.DECOMPRESSION_ERRORS) as error:
        yield replace(whole, size=path.stat().length, reason=f"damaged_table: {type(error).__name__}")


def _row_ranges(whole: Reference, path: epath.Path, part_files: int, part_bytes: int) -> Iterator[Reference]:
    with path.open("rb") as file:
        metadata = pq.read_metadata(file)
    first = 0  # row of the table
    for group in range(metadata.num_row_groups):
        rows, size = metadata.row_group(group).num_rows, metadata.row_group(group).total_byte_size
        step = max(1, min(part_files, rows * part_bytes // max(size, 1)))
        for offset in range(0, rows, step):
            count = min(step, rows - offset)
            yield replace(
                whole,
                reader="parquet",
                size=size * count // rows,
                rows=count,
                location=os.fsencode(path),
                offset=offset,
                length=step,
                key=f"{group} {first}",
            )
        first += rows


def _line_ranges(
    whole: Reference, path: epath.Path, spool: IO[bytes], location: bytes, part_bytes: int
) -> Iterator[Reference]:
    compressed = path.suffix.lower() != ".jsonl"
    place, base = (location, spool.tell()) if compressed else (os.fsencode(path), 0)

    def lines(start: int, end: int) -> Reference:
        found = {"location": place, "offset": base + start, "length": end - start, "key": str(start)}
        return replace(whole, reader="jsonl", size=end - start, **found)

    with path.open("rb") as raw:
        stream = archives.decompressed(raw, path.suffix.lower())
        limit = archives.FREE_BYTES + archives.MAX_EXPANSION * path.stat().length
        start = end = 0
        while block := stream.read(_BLOCK):
            if compressed:
                spool.write(block)
            cut = end + block.rfind(b"\n") + 1 if b"\n" in block else start  # behind the last whole line
            end += len(block)
            if end > limit:
                raise EOFError(f"{path} expands more than {archives.MAX_EXPANSION}-fold")
            if cut - start >= part_bytes:
                yield lines(start, cut)
                start = cut
        if end > start:
            yield lines(start, end)


def read_parquet(reference: Reference, max_bytes: int, store: str | None) -> Iterator[Read]:
    """Yields the files in the rows that `reference` stands for."""
    group, first = map(int, reference.key.split())
    try:
        with epath.Path(os.fsdecode(reference.location)).open("rb") as file:
            parquet = pq.ParquetFile(file)
            columns = [name for name in parquet.schema_arrow.names if name in _KNOWN]
            batches = parquet.iter_batches(reference.length, row_groups=[group], columns=columns)
            skipped = reference.offset // reference.length
            table = _plain(next(batch for number, batch in enumerate(batches) if number == skipped))
            rows = list(enumerate(table.to_pylist(), first + reference.offset))
    except (pa.ArrowException, OSError, UnicodeError) as error:
        yield replace(reference, reader="none"), None, f"damaged_table: {type(error).__name__}"
        return
    yield from _files(reference, rows, max_bytes, store)


def _plain(batch: pa.RecordBatch) -> pa.Table:
    """Times as seconds, because Python has no nanoseconds; content as bytes, because it may be no UTF-8."""
    table = pa.Table.from_batches([batch])
    for i, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            table = table.set_column(i, field.name, table[i].cast(pa.timestamp("s"), safe=False).cast(pa.int64()))
        elif field.name in COLUMNS["content"] and pa.types.is_string(field.type):
            table = table.set_column(i, field.name, table[i].cast(pa.binary()))
        elif field.name in COLUMNS["content"] and pa.types.is_large_string(field.type):
            table = table.set_column(i, field.name, table[i].cast(pa.large_binary()))
    return table


def read_jsonl(reference: Reference, max_bytes: int, store: str | None) -> Iterator[Read]:
    """Yields the files in the lines that `reference` stands for."""
    try:
        with epath.Path(os.fsdecode(reference.location)).open("rb") as file:
            file.seek(reference.offset)
            data = file.read(reference.length)
    except OSError as error:
        yield replace(reference, reader="none"), None, f"damaged_table: {type(error).__name__}"
        return
    rows: list[tuple[int, Any]] = []
    position = int(reference.key)
    for line in data.split(b"\n"):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            rows.append((position, row if isinstance(row, dict) else len(line)))
        position += len(line) + 1
    yield from _files(reference, rows, max_bytes, store)


def _files(reference: Reference, rows: Sequence[tuple[int, Any]], max_bytes: int, store: str | None) -> Iterator[Read]:
    """Files of numbered rows, in order. A row is a dict, or the length of a line that holds none."""

    def file(numbered: tuple[int, Any]) -> Read:
        number, row = numbered
        listed = replace(
            reference,
            path=f"{reference.path}:{number}",
            provenance=provenance(reader="table", file=reference.path, row=number),
        )
        if not isinstance(row, dict):
            return replace(listed, size=row), None, "malformed_row"
        meaning = {key: _first(row, names) for key, names in COLUMNS.items()}
        listed = _described(listed, reference.path, number, meaning)
        data, reason = _content(meaning, listed.size, max_bytes, store)
        if data is not None and len(data) > max_bytes:
            return replace(listed, size=max(listed.size, len(data))), None, "too_large"
        return listed, data, reason

    if store is None:
        yield from map(file, rows)
    else:
        with ThreadPoolExecutor(_THREADS) as pool:
            yield from pool.map(file, rows)


def _first(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "", b"", [])), None)


def _described(listed: Reference, table: str, number: int, row: Mapping[str, Any]) -> Reference:
    """`listed` with what the row says about its file; values of a wrong type count as missing."""

    def text(value: Any) -> str | None:
        return printable(value) if isinstance(value, str) else None

    licence = row["licence"]
    if isinstance(licence, list):
        licence = ", ".join(sorted({name for name in licence if isinstance(name, str)}))
    stars, size = row["stars"], row["size"]
    repo, path, url, language = (text(row[key]) for key in ("repo", "path", "url", "language"))
    page = repo is None and (url is not None or path is None and languages.canonical(language) == languages.UNKNOWN)
    if page:  # there a `language` is a natural one and a path that of an archive
        repo, path = urls.repo_and_path(url) if url else (None, None)
        language = "text"
    return replace(
        listed,
        repo=repo or listed.repo,
        path=(path or "").lstrip("/") or listed.path,
        size=size if isinstance(size, int) and 0 <= size < 1 << 62 else 0,
        url=url,
        commit=text(row["commit"]) or (text(row["time"]) if page else None),
        commit_time=_seconds(row["time"]),
        stars=int(stars) if isinstance(stars, int | float) and 0 <= stars < 1 << 31 else None,
        licence=text(licence),
        language=language,
        page=page,
        provenance=provenance(reader="table", file=table, row=number, blob=text(row["blob"])),
    )


def _content(row: Mapping[str, Any], size: int, max_bytes: int, store: str | None) -> tuple[bytes | None, str | None]:
    content, blob, encoding = row["content"], row["blob"], row["encoding"]
    if isinstance(content, bytes):
        return content, None
    if isinstance(content, str):
        return content.encode("utf-8", "surrogatepass"), None
    if content is not None:
        return None, "malformed_row"
    if store is None or not isinstance(blob, str):
        return None, "no_content"
    if size > max_bytes:
        return None, "too_large"
    data, reason = blobs.fetch(store, blob, max_bytes)
    if data is not None and isinstance(encoding, str):
        try:
            data = data.decode(encoding).encode("utf-8")
        except (UnicodeError, LookupError):
            pass  # judged as the bytes they are
    return data, reason


def _seconds(value: Any) -> int | None:
    """Seconds since 1970 of a number, or of a time as ISO 8601, which is UTC if it names no zone."""
    try:
        if isinstance(value, str):
            time = datetime.datetime.fromisoformat(value.strip().replace(" UTC", "+00:00"))
            value = (time if time.tzinfo else time.replace(tzinfo=datetime.UTC)).timestamp()
        seconds = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return seconds if abs(seconds) < 1 << 36 else None
