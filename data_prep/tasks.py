"""What one worker does with one part: the same code on this machine and on a cluster.

`map` is a MapPart for each input. `reduce` first splits groups of inputs by bucket (`split_group`), then gathers each
bucket's slices (`ReduceBucket`); how slices travel in between is the engine's affair.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import pickle
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from etils import epath

from data_prep import files

TableFn = Callable[[pa.Table], pa.Table]
Advance = Callable[[int], None]  # tells that so many rows (or buckets) are done

GROUP_BYTES = 64 << 20  # of input, in memory, that one worker splits at once
BUCKET_BYTES = 32 << 20  # of input that a bucket gets where the number of buckets is left open
INDEX = struct.Struct("<3q")  # offset, length and CRC-32 of a slice in a spill file


@dataclasses.dataclass(frozen=True)
class Part:
    """A file to write.

    Attributes:
      target: the file.
      inputs: digest of what it is made from.
      config: digest of how.
    """

    target: str
    inputs: str
    config: str

    def __call__(self, fn: TableFn, advance: Advance) -> None:
        raise NotImplementedError

    def is_done(self) -> bool:
        return files.is_current(epath.Path(self.target), self.inputs, self.config)

    def record(self, size: int, sha256: str, **counts: int) -> None:
        """Writes the manifest, last of all: without it the file does not count."""
        files.Manifest(self.inputs, self.config, size, sha256, counts).write(epath.Path(self.target))


@dataclasses.dataclass(frozen=True)
class MapPart(Part):
    """Applies a function to the batches of one Parquet file."""

    source: str
    batch_rows: int
    batch_bytes: int

    def __call__(self, fn: TableFn, advance: Advance) -> None:
        rows_in = 0

        def results() -> Iterator[pa.Table]:
            nonlocal rows_in
            for batch in files.batches(epath.Path(self.source), self.batch_rows, self.inputs):
                step = max(1, batch.num_rows * self.batch_bytes // max(batch.nbytes, self.batch_bytes))
                for start in range(0, max(batch.num_rows, 1), step):
                    table = pa.Table.from_batches([batch.slice(start, step)])
                    yield fn(table)
                    rows_in += table.num_rows
                    advance(table.num_rows)

        written = files.write_parquet(results(), epath.Path(self.target))
        self.record(written.bytes, written.sha256, rows_in=rows_in, rows=written.rows)


@dataclasses.dataclass(frozen=True)
class SpillGroup(Part):
    """Writes a group of inputs split by bucket: the slices one after the other, then an `INDEX` for each bucket."""

    sources: tuple[tuple[str, str], ...]  # (file, its digest)
    key: str
    buckets: int

    def __call__(self, fn: TableFn, advance: Advance) -> None:
        index = bytearray()
        with files.atomic(epath.Path(self.target)) as file:
            sink = files.Digested(file)
            for data in split_group(self.sources, self.key, self.buckets):
                index += INDEX.pack(sink.bytes, len(data), zlib.crc32(data))
                sink.write(data)
            sink.write(bytes(index))
        self.record(sink.bytes, sink.sha256.hexdigest())
        advance(len(self.sources))


@dataclasses.dataclass(frozen=True)
class ReduceBucket(Part):
    """Applies a function to the rows of one bucket, out of spill files."""

    spills: tuple[str, ...]
    bucket: int
    buckets: int

    def __call__(self, fn: TableFn, advance: Advance) -> None:
        self.gather(fn, (self._slice(epath.Path(spill)) for spill in self.spills))
        advance(1)

    def gather(self, fn: TableFn, slices: Iterator[pa.Table]) -> None:
        table = pa.concat_tables(slices)
        written = files.write_parquet(iter([fn(table)]), epath.Path(self.target))
        self.record(written.bytes, written.sha256, rows_in=table.num_rows, rows=written.rows)

    def _slice(self, spill: epath.Path) -> pa.Table:
        with spill.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            end = max(0, size - INDEX.size * (self.buckets - self.bucket))
            file.seek(end)
            offset, length, checksum = INDEX.unpack(file.read(INDEX.size).ljust(INDEX.size, b"\xff"))
            inside = 0 <= offset <= offset + length <= end
            data = file.read(length) if inside and file.seek(offset) == offset else b""
        if zlib.crc32(data) != checksum:
            raise files.damaged(spill, f"wrong checksum of bucket {self.bucket}")
        return unpack(data)


def split_group(sources: Sequence[tuple[str, str]], key: str, buckets: int) -> Iterator[bytes]:
    """For each bucket, the rows of all sources (file, digest) that fall into it, in order, packed."""
    ordered = []  # batch by batch, for Arrow would first join them and so hold everything three times
    for source, sha256 in sources:
        for batch in files.batches(epath.Path(source), 1 << 16, sha256):
            bucket = bucket_of(batch[key], buckets)
            order = np.argsort(bucket, kind="stable")
            ends = np.searchsorted(bucket[order], np.arange(buckets + 1))
            ordered.append((batch.take(pa.array(order)), ends))
    for i in range(buckets):
        yield pack(pa.Table.from_batches([batch.slice(ends[i], ends[i + 1] - ends[i]) for batch, ends in ordered]))


def pack(table: pa.Table) -> bytes:
    """A table as an Arrow stream, schema and all. Small slices are read ten times faster than as Parquet."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table.combine_chunks())
    return sink.getvalue().to_pybytes()


def unpack(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()


def groups(sizes: Sequence[int]) -> list[slice]:
    """Runs of consecutive inputs of about `GROUP_BYTES` bytes each, at least one input long."""
    found, start, total = [], 0, 0
    for i, size in enumerate(sizes):
        if total + size > GROUP_BYTES and i > start:
            found.append(slice(start, i))
            start, total = i, 0
        total += size
    return [*found, slice(start, len(sizes))]


def input_bytes(path: epath.Path) -> int:
    """Bytes of a Parquet file in memory, by its footer."""
    footer = files.metadata(path)
    return sum(footer.row_group(i).total_byte_size for i in range(footer.num_row_groups))


def bucket_of(column: pa.Array, buckets: int) -> np.ndarray:
    """Bucket (int64 in 0 … buckets - 1) of each value by a hash that never changes; null falls into bucket 0."""
    if pa.types.is_integer(column.type):
        x = column.cast(pa.int64(), safe=False).fill_null(0).to_numpy(zero_copy_only=False).view(np.uint64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)  # the finaliser of SplitMix64
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return ((x ^ (x >> np.uint64(31))) % np.uint64(buckets)).astype(np.int64)
    values = column.cast(pa.large_binary()).to_pylist()
    return np.fromiter((zlib.crc32(v or b"") % buckets for v in values), np.int64, len(values))


def digest(*values: Any) -> str:
    """SHA-256 hex of values that are equal: plain functions (by name), partials of them, data classes, tables, sets …

    The same in every process: sets count as sorted, and no value depends on which objects are shared.
    """
    sink = io.BytesIO()
    pickler = _Canonical(sink, protocol=5)
    pickler.fast = True  # no references to objects that occur twice
    pickler.dump(values)
    return hashlib.sha256(sink.getvalue()).hexdigest()


class _Canonical(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, set | frozenset):
            return "set", sorted(obj, key=repr)
        if isinstance(obj, os.PathLike):
            return "path", os.fspath(obj)
        return None
