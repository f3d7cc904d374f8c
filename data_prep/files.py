"""Parquet files that are there whole or not at all, and the manifests that tell what each was made from.

A file is written under a temporary name, synced and renamed. Its pages carry checksums, so a damaged file is noticed
when it is read, by name. The manifest of out/<name> is out/_manifests/<name>.json.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import uuid
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath


@contextlib.contextmanager
def atomic(target: epath.Path) -> Iterator[Any]:
    """A binary file that appears as `target` when the block ends well, synced to disk, and not at all otherwise."""
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}.tmp"
    try:
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                with contextlib.suppress(AttributeError, io.UnsupportedOperation):  # object stores: durable on close
                    os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, f"cannot write it ({os.strerror(error.errno)})", os.fspath(target)) from error


def write_json(target: epath.Path, value: Any) -> None:
    """Writes `value` complete or not at all, its keys in order, so that equal values are equal bytes."""
    with atomic(target) as file:
        file.write((json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


@dataclasses.dataclass(frozen=True)
class Written:
    """What `write_parquet` has written."""

    rows: int
    bytes: int
    sha256: str


def write_parquet(tables: Iterator[pa.Table], target: epath.Path) -> Written:
    """Writes tables of one schema as row groups of one Parquet file, complete or not at all."""
    first = next(tables)
    rows = first.num_rows
    # The first flag keeps the names of list items, so that a table read back has the schema that was written.
    options = {"compression": "zstd", "use_compliant_nested_type": False, "write_page_checksum": True}
    with atomic(target) as file:
        sink = Digested(file)
        with pq.ParquetWriter(sink, first.schema, **options) as writer:
            writer.write_table(first)
            for table in tables:
                writer.write_table(table.cast(first.schema))
                rows += table.num_rows
    return Written(rows, sink.bytes, sink.sha256.hexdigest())


class Digested:
    """A binary file that hashes what is written to it."""

    def __init__(self, file: Any) -> None:
        self._file, self.sha256, self.bytes, self.closed = file, hashlib.sha256(), 0, False

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self.sha256.update(data)
        self.bytes += len(data)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self.closed = True


def metadata(path: epath.Path) -> pq.FileMetaData:
    """Footer of a Parquet file. Raises ValueError, naming the file, if it is damaged."""
    with path.open("rb") as file, _named(path):
        return pq.read_metadata(file)


def batches(path: epath.Path, rows: int, sha256: str) -> Iterator[pa.RecordBatch]:
    """A Parquet file in batches of at most `rows` rows, one without rows if it has none.

    Raises:
      ValueError: the file is truncated, or the checksum of a page or of the whole is wrong; names the file.
    """
    if _sha256(path) != sha256:  # pages have checksums of their own, the schema in the footer has none
        raise damaged(path, "its checksum is wrong")
    with path.open("rb") as file:
        with _named(path):
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            found = parquet.iter_batches(rows)
        if parquet.metadata.num_rows == 0:
            yield pa.RecordBatch.from_pylist([], schema=parquet.schema_arrow)
        while True:
            with _named(path):
                batch = next(found, None)
            if batch is None:
                return
            yield batch


@contextlib.contextmanager
def _named(path: epath.Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise damaged(path, error) from error


def damaged(path: epath.Path, why: object) -> ValueError:
    return ValueError(f"{path} is damaged ({' '.join(str(why).split())}): delete it, and run what wrote it again")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a file was made from, and what it must be to be used again.

    Attributes:
      inputs: SHA-256 of the contents of the files it was made from.
      config: SHA-256 of the function and the values it was made with.
      bytes: size of the file.
      sha256: of the contents of the file.
      counts: rows_in, that were read, and rows, that were written.
    """

    inputs: str
    config: str
    bytes: int
    sha256: str
    counts: dict[str, int]

    def write(self, target: epath.Path) -> None:
        path = manifest_path(target)
        path.parent.mkdir(exist_ok=True)
        write_json(path, dataclasses.asdict(self))


def manifest_path(target: epath.Path) -> epath.Path:
    return target.parent / "_manifests" / f"{target.name}.json"


def manifest(target: epath.Path) -> Manifest | None:
    """The manifest of a file, or None where there is none or it is not one of ours."""
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
        return Manifest(**json.loads(manifest_path(target).read_text()))
    return None


def is_current(target: epath.Path, inputs: str, config: str) -> bool:
    """Whether `target` is what its manifest says, made from these inputs with this configuration."""
    known = manifest(target)
    if known is None or (known.inputs, known.config) != (inputs, config) or not target.exists():
        return False
    return _sha256(target) == known.sha256


def content_digest(path: epath.Path) -> str:
    """SHA-256 hex of a file: from its manifest if its size is right, so that input is not read twice."""
    known = manifest(path)
    return known.sha256 if known and known.bytes == path.stat().length else _sha256(path)


def _sha256(path: epath.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]
