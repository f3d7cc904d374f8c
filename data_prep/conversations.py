"""Instruction data that exists already, as rows of conversations: the other way to a fine-tuning set.

Rows come from JSON Lines or Parquet files in any layout that the field uses (arXiv 2411.04905, section 4 and its data
sets opc-sft-stage1 and opc-sft-stage2):

  {"instruction": …, "output": …, "tag": …, "seq_id": …}       also with "input", or one of `PAIRS`
  {"messages": [{"role": "user", "content": …}, …]}            also as "conversation"
  {"conversations": [{"from": "human", "value": …}, …]}        ShareGPT

A row that is not a conversation keeps its place with a reason, as a document does, so the stages `decontaminate` and
`shards` read these directories as they read documents.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gin
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from data_prep import documents as docs
from data_prep import funnel
from data_prep.engine import Engine, LocalEngine
from data_prep.files import write_parquet
from data_prep.progress import Progress
from data_prep.sources import archives, tables
from data_prep.sources.reference import printable

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # sha256 hex of the messages, see `conversation_id`
        pa.field("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # what it trains: a tag of the data set, or its file's name
        pa.field("language", pa.string(), nullable=False),  # of the code in it, or "unknown"
        pa.field("size", pa.int64(), nullable=False),  # bytes of all contents
        pa.field("provenance", pa.string(), nullable=False),  # JSON: file and row, or id of the document
        pa.field("reasons", pa.list_(pa.string()), nullable=False),  # why it was dropped; empty while it is kept
    ]
)
# Columns of a question and its answer, the first pair that a row has counts.
PAIRS = (("instruction", "output"), ("instruction", "response"), ("prompt", "completion"), ("question", "answer"))
ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}

_FENCE = re.compile(r"^```[ \t]*([A-Za-z][\w+#.-]{0,19})", re.MULTILINE)
_ROWS = 4096  # of one scratch part
_SPACE = re.compile(r"\s+")


@gin.configurable
def conversations(
    out: epath.Path, *, sources: list[str] = gin.REQUIRED, buckets: int = 0, engine: Engine = LocalEngine()
) -> dict[str, int]:
    """Reads instruction data into conversations, each of which is kept once.

    Reasons: malformed_row, unknown_role, turn_order, empty_turn, no_answer, exact_duplicate: <where the first is>.

    Args:
      out: directory to write, part-*.parquet with `SCHEMA`.
      sources: files, or directories of files, .jsonl (also .gz, .zst) or .parquet.
      buckets: number of parts, 0 for as many as fit in memory.

    Raises:
      ValueError: no source is given, or one is no such file, or is damaged.
      FileNotFoundError: a source does not exist.
    """
    scratch = out / "_scratch"
    listing, parsed = scratch / "rows", scratch / "parsed"
    if not (scratch / "LISTED").exists():
        files = [file for source in sources for file in _files(epath.Path(source).expanduser())]
        if not files:
            raise ValueError("conversations.sources names no file: bind it to .jsonl or .parquet files")
        if scratch.exists():
            scratch.rmtree()
        listing.mkdir(parents=True)
        with Progress("read instruction data", None, unit="rows") as progress:
            for number, table in enumerate(_raw_parts(files)):
                write_parquet(iter([table]), listing / f"part-{number:05d}.parquet")
                progress.update(table.num_rows)
        (scratch / "LISTED").touch()
    parsed.mkdir(exist_ok=True)
    engine.map(parse, docs.parts(listing), parsed, label="parse conversations")
    engine.reduce(first_of_equals, docs.parts(parsed), out, key="id", buckets=buckets, label="distinct conversations")
    (scratch / "LISTED").unlink()  # first, so that a kill within rmtree leaves no listing that looks whole
    scratch.rmtree()
    return funnel.write(out)


def row(messages: Sequence[Mapping[str, str]], *, kind: str, language: str, provenance: str) -> dict[str, Any]:
    """A kept row of `SCHEMA`."""
    return {
        "id": conversation_id(messages),
        "messages": list(messages),
        "kind": kind,
        "language": language,
        "size": sum(len(message["content"].encode("utf-8", "surrogatepass")) for message in messages),
        "provenance": provenance,
        "reasons": [],
    }


def conversation_id(messages: Sequence[Mapping[str, str]]) -> str:
    """Sha256 hex of roles and contents; the same for contents that differ in white space and case alone."""
    plain = [(m["role"], _SPACE.sub(" ", m["content"]).strip().lower()) for m in messages]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


def parse(table: pa.Table) -> pa.Table:
    """Rows as JSON with their file and number → `SCHEMA`."""
    return pa.Table.from_pylist([_parsed(**raw) for raw in table.to_pylist()], SCHEMA)


def first_of_equals(table: pa.Table) -> pa.Table:
    """All but the first row of each id lose their place."""
    first: dict[str, str] = {}
    reasons = []
    for identity, provenance, known in zip(
        *(table[c].to_pylist() for c in ("id", "provenance", "reasons")), strict=True
    ):
        where = json.loads(provenance)
        here = f"{where['file']}:{where['row']}"
        duplicate = not known and first.setdefault(identity, here) != here
        reasons.append([f"exact_duplicate: {first[identity]}"] if duplicate else known)
    return docs.drop(table, reasons)


def messages_of(found: Mapping[str, Any]) -> tuple[list[dict[str, str]], str | None]:
    """(messages, None) of a row in any known layout, or ([], reason)."""
    turns: Any = next((found[n] for n in ("messages", "conversation", "conversations") if found.get(n)), None)
    if turns is None:
        pair = next(((q, a) for q, a in PAIRS if isinstance(found.get(q), str) and isinstance(found.get(a), str)), None)
        if pair is None:
            return [], "malformed_row"
        question, answer = (found[name] for name in pair)
        if isinstance(found.get("input"), str) and found["input"].strip():
            question = f"{question}\n\n{found['input']}"
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return [], "malformed_row"
    messages = []
    for turn in turns:
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if not isinstance(role, str) or not isinstance(content, str):
            return [], "malformed_row"
        if role not in ROLES:
            return [], f"unknown_role: {printable(role[:40])}"
        if ROLES[role] != "system" and not content.strip():
            return [], "no_answer" if ROLES[role] == "assistant" else "empty_turn"
        if content.strip():  # an empty system line asks for the default one
            messages.append({"role": ROLES[role], "content": content})
    return (messages, None) if (reason := _order(messages)) is None else ([], reason)


def _order(messages: Sequence[Mapping[str, str]]) -> str | None:
    """Why the turns cannot be trained on: after an optional system line, user and assistant take turns to the end."""
    roles = [message["role"] for message in messages]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if any(role != ("user", "assistant")[i % 2] for i, role in enumerate(spoken)):
        return "turn_order"
    return "no_answer" if not spoken or len(spoken) % 2 else None


def _parsed(file: str, number: int, row_json: str) -> dict[str, Any]:
    provenance = {"file": file, "row": number}
    try:
        found = json.loads(row_json)
    except (ValueError, RecursionError):
        found = None
    messages, reason = messages_of(found) if isinstance(found, dict) else ([], "malformed_row")
    try:
        json.dumps(messages, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half of a surrogate pair is no text
        messages, reason = [], "malformed_row"
    if reason is not None or found is None:
        # Nothing of the row is lost: what could not be read stays as the content of one turn.
        kept = [{"role": "raw", "content": row_json}]
        return row(kept, kind=_stem(file), language="unknown", provenance=json.dumps(provenance)) | {
            "reasons": [reason]
        }
    provenance |= {name: found[name] for name in ("seq_id", "entry_point") if isinstance(found.get(name), int | str)}
    tag = found.get("tag")
    return row(
        messages,
        kind=printable(tag) if isinstance(tag, str) and tag else _stem(file),
        language=_language(messages),
        provenance=json.dumps(provenance),
    )


def _language(messages: Sequence[Mapping[str, str]]) -> str:
    """The first language that an answer names at a code fence."""
    answers = (message["content"] for message in messages if message["role"] == "assistant")
    named = next((match[1].lower() for match in map(_FENCE.search, answers) if match), "unknown")
    return {"c++": "cpp", "c#": "csharp", "js": "javascript", "ts": "typescript", "py": "python"}.get(named, named)


def _stem(file: str) -> str:
    return file.rsplit("/", 1)[-1].split(".")[0]


def _files(source: epath.Path) -> Iterator[epath.Path]:
    if not source.exists():
        raise FileNotFoundError(f"conversations.sources: {source} does not exist")
    if source.is_dir():
        for path in sorted(source.iterdir()):
            if path.is_dir() or tables.is_table(path.name):
                yield from _files(path)
    elif tables.is_table(source.name):
        yield source
    else:
        raise ValueError(f"conversations.sources: {source} is none of {', '.join(tables.SUFFIXES)}")


def _raw_parts(files: Sequence[epath.Path]) -> Iterator[pa.Table]:
    """Rows of all files as JSON text, in order, in tables of at most `_ROWS` rows."""
    waiting: list[dict[str, Any]] = []
    for file in files:
        number = 0
        try:
            for text in _parquet_rows(file) if file.name.endswith(".parquet") else _lines(file):
                waiting.append({"file": file.name, "number": number, "row_json": text})
                number += 1
                if len(waiting) == _ROWS:
                    yield pa.Table.from_pylist(waiting, _RAW)
                    waiting = []
        except (pa.ArrowException, *archives.DECOMPRESSION_ERRORS) as error:
            raise ValueError(f"{file} is damaged after row {number} ({error}): fetch it again") from error
    yield pa.Table.from_pylist(waiting, _RAW)


_RAW = pa.schema([("file", pa.string()), ("number", pa.int64()), ("row_json", pa.large_string())])


def _lines(path: epath.Path) -> Iterator[str]:
    with path.open("rb") as raw:
        stream = io.BufferedReader(archives.decompressed(raw, path.suffix.lower()))
        for line in iter(functools.partial(stream.readline), b""):
            if line.strip():
                yield line.decode("utf-8", "backslashreplace").rstrip("\r\n")


def _parquet_rows(path: epath.Path) -> Iterator[str]:
    with path.open("rb") as file:
        for batch in pq.ParquetFile(file).iter_batches(1024):
            for found in batch.to_pylist():
                yield json.dumps(found, ensure_ascii=False, default=str)
