"""Web archives: WARC files with the pages as they were sent, and WET files with their text (Common Crawl's layout).

A page is a response of status 200 with HTML or plain text; images, redirects and the like give no document. The
repository of a page is its host and the commit is the time when it was fetched, as a page may be there several times.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

from etils import epath
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType  # pyright: ignore[reportMissingModuleSource]

from data_prep.sources.reference import Reference, printable, provenance
from data_prep.sources.tables import Read
from data_prep.web import urls

SUFFIXES = (".warc", ".warc.gz", ".wet", ".wet.gz")
_PAGES = WarcRecordType.response | WarcRecordType.conversion
_LANGUAGES = {"text/html": "html", "application/xhtml+xml": "html", "text/plain": "text"}
_META = re.compile(rb"""<meta[^>]{0,200}?charset=["' ]*([A-Za-z0-9_:.-]+)""", re.IGNORECASE)
_SUPERSETS = {"gb2312": "gb18030", "gbk": "gb18030", "iso-8859-1": "cp1252", "ascii": "cp1252", "us-ascii": "cp1252"}


def is_warc(name: str) -> bool:
    """Whether the name is that of a web archive."""
    return name.lower().endswith(SUFFIXES)


def references(source: str, path: epath.Path, name: str, part_files: int, part_bytes: int) -> Iterator[Reference]:
    """Runs of records of one archive, each of about `part_files` records or `part_bytes` bytes at most.

    A compressed archive must have a gzip member per record, as all that are written for random access do.
    """
    run = Reference(
        "warc", source, name.split(".")[0], name, location=os.fsencode(path), provenance=provenance(reader="warc")
    )
    start = rows = size = 0
    try:
        with path.open("rb") as file:
            for record in ArchiveIterator(cast(Any, file), record_types=_PAGES, parse_http=False):
                if rows >= part_files or size >= part_bytes:
                    yield replace(run, offset=start, rows=rows, size=size, length=record.stream_pos - start)
                    rows = size = 0
                if not rows:
                    start = record.stream_pos
                rows += 1
                size += record.content_length
        if rows:
            yield replace(run, offset=start, rows=rows, size=size)
    except (OSError, ValueError) as error:
        if rows:
            yield replace(run, offset=start, rows=rows, size=size)
        reason = f"damaged_archive: {type(error).__name__}"
        yield replace(run, reader="none", size=path.stat().length, reason=reason)


def read(reference: Reference, max_bytes: int) -> Iterator[Read]:
    """Yields the pages among the records that `reference` stands for."""
    archive = reference.path
    end = reference.offset + reference.length if reference.length >= 0 else None
    try:
        with epath.Path(os.fsdecode(reference.location)).open("rb") as file:
            file.seek(reference.offset)
            for record in ArchiveIterator(cast(Any, file), record_types=_PAGES, parse_http=True, auto_decode="all"):
                if end is not None and record.stream_pos >= end:
                    return
                language = _language(record)
                if language is not None:
                    yield _page(reference, record, archive, language, max_bytes)
    except (OSError, ValueError):
        return  # the listing has noted the damage


def _language(record: WarcRecord) -> str | None:
    """html or text, None for what is no page."""
    if record.record_type == WarcRecordType.conversion:
        return "text"
    if record.http_headers is None or record.http_headers.status_code != 200:
        return None
    return _LANGUAGES.get((record.http_content_type or "").lower())


def _page(reference: Reference, record: WarcRecord, archive: str, language: str, max_bytes: int) -> Read:
    url = printable((record.headers.get("WARC-Target-URI") or "").strip("<> "))
    host, path = urls.repo_and_path(url)
    page = replace(
        reference,
        repo=host or reference.repo,
        path=path,
        size=record.content_length,
        url=url,
        commit=record.headers.get("WARC-Date"),
        commit_time=_seconds(record.record_date),
        language=language,
        page=True,
        provenance=provenance(reader="warc", archive=archive, record=record.record_id),
    )
    data = record.reader.read(max_bytes + 1)
    if len(data) > max_bytes:
        return page, None, "too_large"
    return page, data if language == "text" else to_utf8(data, record.http_charset), None


def _seconds(time: Any) -> int | None:
    return int(time.timestamp()) if isinstance(time, datetime.datetime) else None


def to_utf8(data: bytes, charset: str | None) -> bytes:
    """A page as UTF-8: from the character set its header names, or its own head; as it is if it is UTF-8 already."""
    try:
        data.decode("utf-8")
        return data
    except UnicodeDecodeError:
        pass
    declared = _META.search(data[:4096])
    for name in (charset, declared[1].decode("ascii") if declared else None, "utf-8"):
        try:
            text = data.decode(_SUPERSETS.get((name or "").lower(), name or "utf-8"), "replace")
        except LookupError:
            continue
        if text.count("\ufffd") * 200 <= len(text):  # a page cut in the middle of a character is no reason to lose it
            return text.encode("utf-8", "surrogatepass")
    return data
