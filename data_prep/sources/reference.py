"""What a source lists, and how a listed file becomes a document.

Listing is cheap and runs once, in order; reading runs in parallel. Between the two stands the `Reference`: what is
known of a file and where its bytes are.
"""

from __future__ import annotations

import codecs
import dataclasses
import datetime
import hashlib
import json
import os
import re
from typing import Any

import pyarrow as pa

from data_prep import documents, languages
from data_prep.sources import notebooks


@dataclasses.dataclass(frozen=True)
class Reference:
    """One listed file, or a run of table rows that are to be read together.

    Attributes:
      reader: how to read it: bytes | git | parquet | jsonl, or none where `reason` says why it is not read.
      source: which entry of preprocess.sources it came from.
      repo: repository, as documents name it.
      path: path inside `repo`; see `printable`.
      size: bytes of the file as far as the listing tells.
      rows: number of documents it stands for, as far as the listing tells.
      location: file or repository to open. It never reaches a document, so documents are the same on every machine.
      offset: first byte in `location`, or first row of a table.
      length: how many bytes or rows from there; -1: to the end.
      key: what else the reader needs: a blob's name, a row group's number.
    """

    reader: str
    source: str
    repo: str
    path: str
    size: int = 0
    rows: int = 1
    location: bytes = b""
    offset: int = 0
    length: int = -1
    key: str = ""
    url: str | None = None
    commit: str | None = None
    commit_time: int | None = None  # seconds since 1970, UTC
    stars: int | None = None
    licence: str | None = None
    language: str | None = None  # what the source says; used where the path tells nothing
    provenance: str = "{}"
    reason: str | None = None
    page: bool = False  # of the web: `language` is what it is, whatever its path ends in


_ARROW = {"str": pa.string(), "bytes": pa.binary(), "int": pa.int64(), "bool": pa.bool_()}
SCHEMA = pa.schema([(f.name, _ARROW[str(f.type).removesuffix(" | None")]) for f in dataclasses.fields(Reference)])


def provenance(**facts: Any) -> str:
    """Facts about where a document came from, as canonical JSON; those that are None are left out."""
    known = {name: value for name, value in facts.items() if value is not None}
    return json.dumps(known, sort_keys=True, ensure_ascii=True)


def printable(name: str | bytes) -> str:
    """A file name as valid Unicode, reversibly.

    Bytes that are not UTF-8 become %XX, and a % that two hexadecimal digits follow becomes %25, so that replacing each
    %XX by its byte gives the name back. Ordinary names stay as they are.
    """
    if isinstance(name, str):
        name = name.encode("utf-8", "surrogateescape" if _escapable(name) else "surrogatepass")
    name = re.sub(rb"%(?=[0-9A-Fa-f]{2})", b"%25", name)
    text = name.decode("utf-8", "surrogateescape")
    return re.sub("[\udc80-\udcff]", lambda match: f"%{ord(match[0]) - 0xDC00:02X}", text)


def _escapable(name: str) -> bool:
    return not re.search("[\ud800-\udc7f\udd00-\udfff]", name)


def document(reference: Reference, data: bytes | None, reason: str | None = None) -> dict[str, Any]:
    """A row of documents.SCHEMA from a file's bytes, or from the reason why it has none.

    `text` has UTF-8 (or, with a byte order mark, UTF-16) decoded, the mark removed and line ends turned into LF.
    """
    facts = json.loads(reference.provenance)
    text = None
    if data is not None and reason is None:
        text, reason, encoding = decode(data)
        if encoding:
            facts["encoding"] = encoding
    language, doc_type = (languages.UNKNOWN,) * 2 if reference.page else languages.detect(reference.path, text)
    if language == languages.UNKNOWN and reference.language:
        language = languages.canonical(reference.language)
        doc_type = languages.doc_type(language)
    if text is not None and reason is None:
        if doc_type in ("excluded", "unknown"):
            reason = f"{doc_type}_type"
        elif language == notebooks.LANGUAGE:
            try:
                text = notebooks.convert(text)
                facts["converted"] = "jupyter-structured"
            except ValueError as error:
                reason = f"malformed_notebook: {error}"
        if not text.strip():
            reason = "empty"
    ref = reference
    time = None if ref.commit_time is None else datetime.datetime.fromtimestamp(ref.commit_time, datetime.UTC)
    return {
        "id": documents.document_id(ref.source, ref.repo, ref.path, ref.commit),
        "content_sha256": None if data is None else hashlib.sha256(data).hexdigest(),
        "text": text,
        "path": ref.path,
        "repo": ref.repo,
        "url": ref.url,
        "commit": ref.commit,
        "language": language,
        "natural_language": None,
        "doc_type": doc_type,
        "size": ref.size if data is None else len(data),
        "stars": ref.stars,
        "commit_time": time,
        "licence": ref.licence,
        "source": ref.source,
        "provenance": provenance(**facts),
        "split": None,
        "reasons": [reason] if reason else [],
    }


def decode(data: bytes) -> tuple[str | None, str | None, str | None]:
    """(text, reason, encoding): the text, or the reason why there is none; encoding is None for plain UTF-8."""
    encoding = None
    if data.startswith(codecs.BOM_UTF8):
        encoding = "utf-8-sig"
    elif data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif b"\0" in data:
        return None, "binary", None
    try:
        text = data.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        return None, f"not_utf8 (byte {error.start})", encoding
    if "\0" in text:
        return None, "binary", encoding
    return text.replace("\r\n", "\n").replace("\r", "\n"), None, encoding


def file_name(location: bytes) -> str:
    """Last component of a location, printable."""
    return printable(os.path.basename(location.rstrip(b"/")))
