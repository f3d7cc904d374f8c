"""Where batches run: `map` over Parquet parts and `reduce` over rows that share a key.

A stage gives the engine a plain function of Arrow tables and two directories; it never learns how many workers there
are. Every output file is written under a temporary name, synced and renamed, and a file that exists is complete: after
a crash at any moment, the same call again does only what is missing and leaves the same bytes.
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import contextlib
import dataclasses
import io
import multiprocessing
import os
import signal
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import gin
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from data_prep.progress import Progress

TableFn = Callable[[pa.Table], pa.Table]
Task = Callable[[TableFn, Callable[[int], None]], None]  # (fn, advance): advance(n) tells that n rows are done


class Engine(Protocol):
    """Runs pure, picklable functions of Arrow tables over Parquet parts."""

    def map(self, fn: TableFn, inputs: Sequence[epath.Path], out: epath.Path, *, label: str) -> None:
        """Writes out/<name> = `fn` applied to every batch of each input part <name>, in order.

        `fn` sees tables of bounded rows and bytes and may return any number of rows and columns; the schema of a
        part's first result is the schema of its output. A part without rows calls `fn` once with an empty table.

        Raises:
          ValueError: two inputs have the same file name.
        """
        ...

    def reduce(
        self, fn: TableFn, inputs: Sequence[epath.Path], out: epath.Path, *, key: str, buckets: int, label: str
    ) -> None:
        """Writes out/part-<bucket>.parquet = `fn` of all rows whose `key` hashes to that bucket.

        Rows come to `fn` in the order of (input part, row). All rows with equal `key` are in one bucket; a bucket
        without rows calls `fn` with an empty table. `key` names a string, binary or integer column.

        Raises:
          ValueError: there are no inputs.
        """
        ...


@gin.configurable
@dataclasses.dataclass(frozen=True)
class LocalEngine:
    """Runs batches in processes on this machine; the result does not depend on how many.

    Attributes:
      workers: number of processes, 0 for one per core this process may use.
      batch_rows: most rows `fn` sees at once in `map`.
      batch_bytes: bytes in memory that a batch is cut to; a single row may exceed it.
    """

    workers: int = 0
    batch_rows: int = 1024
    batch_bytes: int = 32 << 20

    def map(self, fn: TableFn, inputs: Sequence[epath.Path], out: epath.Path, *, label: str) -> None:
        names = [path.name for path in inputs]
        if len(set(names)) < len(names):
            raise ValueError(f"{label}: input parts must have different file names, got {sorted(names)}")
        targets = [out / name for name in names]
        tasks = [
            _MapPart(os.fspath(source), os.fspath(target), self.batch_rows, self.batch_bytes)
            for source, target in zip(inputs, targets, strict=True)
        ]
        self._run(fn, tasks, targets, [_rows(path) for path in inputs], label)

    def reduce(
        self, fn: TableFn, inputs: Sequence[epath.Path], out: epath.Path, *, key: str, buckets: int, label: str
    ) -> None:
        if not inputs:
            raise ValueError(f"{label}: there are no input parts to reduce")
        shuffle = out / "_shuffle"
        spills = [shuffle / f"{i:05d}.arrow" for i in range(len(inputs))]
        targets = [out / f"part-{bucket:05d}.parquet" for bucket in range(buckets)]
        if not all(target.exists() for target in targets):
            shuffle.mkdir(parents=True, exist_ok=True)
            tasks = [
                _SpillPart(os.fspath(source), os.fspath(spill), key, buckets, self.batch_rows)
                for source, spill in zip(inputs, spills, strict=True)
            ]
            self._run(_identity, tasks, spills, [_rows(path) for path in inputs], f"{label} (shuffle)")
            sources = tuple(os.fspath(spill) for spill in spills)
            merges = [_ReduceBucket(sources, os.fspath(target), i, buckets) for i, target in enumerate(targets)]
            self._run(fn, merges, targets, [1] * buckets, label, unit="buckets")
        if shuffle.exists():
            shuffle.rmtree()

    def _run(
        self,
        fn: TableFn,
        tasks: Sequence[Task],
        targets: Sequence[epath.Path],
        sizes: Sequence[int],
        label: str,
        unit: str = "rows",
    ) -> None:
        """Does the tasks whose target is missing, in this process or in a pool."""
        for directory in {target.parent for target in targets}:
            for leftover in directory.glob(".*.tmp"):
                leftover.unlink(missing_ok=True)
        missing = [i for i, target in enumerate(targets) if not target.exists()]
        with Progress(label, sum(sizes), unit) as progress:
            progress.update(sum(sizes) - sum(sizes[i] for i in missing))
            workers = min(self.workers or cores(), len(missing))
            if workers > 1:
                _run_in_pool(fn, [tasks[i] for i in missing], workers, progress, label)
            else:
                for i in missing:
                    tasks[i](fn, progress.update)


@dataclasses.dataclass(frozen=True)
class _MapPart:
    source: str
    target: str
    batch_rows: int
    batch_bytes: int

    def __call__(self, fn: TableFn, advance: Callable[[int], None]) -> None:
        with epath.Path(self.source).open("rb") as file:
            parquet = pq.ParquetFile(file)

            def results() -> Iterator[pa.Table]:
                for table in _batches(parquet, self.batch_rows, self.batch_bytes):
                    yield fn(table)
                    advance(table.num_rows)
                if parquet.metadata.num_rows == 0:
                    yield fn(parquet.schema_arrow.empty_table())

            write_parquet(results(), epath.Path(self.target))


@dataclasses.dataclass(frozen=True)
class _SpillPart:
    """Splits one part by bucket: an Arrow file whose record batch number i holds rows of bucket i % buckets."""

    source: str
    target: str
    key: str
    buckets: int
    batch_rows: int

    def __call__(self, fn: TableFn, advance: Callable[[int], None]) -> None:
        with epath.Path(self.source).open("rb") as file, atomic(epath.Path(self.target)) as sink:
            parquet = pq.ParquetFile(file)
            with pa.ipc.new_file(sink, parquet.schema_arrow) as writer:
                for batch in parquet.iter_batches(self.batch_rows):
                    bucket = bucket_of(batch.column(self.key), self.buckets)
                    order = np.argsort(bucket, kind="stable")
                    ends = np.searchsorted(bucket[order], np.arange(self.buckets + 1))
                    split = batch.take(pa.array(order))
                    for start, end in zip(ends[:-1], ends[1:], strict=True):
                        writer.write_batch(split.slice(start, end - start))
                    advance(batch.num_rows)


@dataclasses.dataclass(frozen=True)
class _ReduceBucket:
    sources: tuple[str, ...]
    target: str
    bucket: int
    buckets: int

    def __call__(self, fn: TableFn, advance: Callable[[int], None]) -> None:
        with contextlib.ExitStack() as stack:
            files = [pa.ipc.open_file(stack.enter_context(pa.memory_map(source))) for source in self.sources]
            batches = [
                file.get_batch(i) for file in files for i in range(self.bucket, file.num_record_batches, self.buckets)
            ]
            table = pa.Table.from_batches([batch for batch in batches if batch.num_rows], files[0].schema)
            write_parquet(iter([fn(table)]), epath.Path(self.target))
        advance(1)


def bucket_of(column: pa.Array, buckets: int) -> np.ndarray:
    """Bucket (int64 in 0 … buckets - 1) of each value by a hash that never changes; null falls into bucket 0."""
    if pa.types.is_integer(column.type):
        x = column.cast(pa.int64(), safe=False).fill_null(0).to_numpy(zero_copy_only=False).view(np.uint64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)  # the finaliser of SplitMix64
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return ((x ^ (x >> np.uint64(31))) % np.uint64(buckets)).astype(np.int64)
    values = column.cast(pa.large_binary()).to_pylist()
    return np.fromiter((zlib.crc32(v or b"") % buckets for v in values), np.int64, len(values))


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_parquet(tables: Iterator[pa.Table], target: epath.Path) -> None:
    """Writes tables of one schema as row groups of one Parquet file, complete or not at all."""
    first = next(tables)
    # The flag keeps the names of list items, so that a table read back has the schema that was written.
    options = {"compression": "zstd", "use_compliant_nested_type": False}
    with atomic(target) as sink, pq.ParquetWriter(sink, first.schema, **options) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table.cast(first.schema))


@contextlib.contextmanager
def atomic(target: epath.Path) -> Iterator[Any]:
    """A binary file that appears as `target` when the block ends well, synced to disk, and not at all otherwise."""
    temporary = target.parent / f".{target.name}.{os.getpid()}.tmp"
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            with contextlib.suppress(AttributeError, io.UnsupportedOperation):  # object stores are durable on close
                os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _batches(parquet: pq.ParquetFile, rows: int, limit: int) -> Iterator[pa.Table]:
    for batch in parquet.iter_batches(rows):
        step = max(1, batch.num_rows * limit // max(batch.nbytes, limit))
        for start in range(0, batch.num_rows, step):
            yield pa.Table.from_batches([batch.slice(start, step)])


def _rows(path: epath.Path) -> int:
    with path.open("rb") as file:
        return pq.read_metadata(file).num_rows


def _identity(table: pa.Table) -> pa.Table:
    return table


_worker_fn: TableFn
_worker_count: Any  # a multiprocessing.Value: rows done by all workers


def _run_in_pool(fn: TableFn, tasks: Sequence[Task], workers: int, progress: Progress, label: str) -> None:
    # A forked copy of a process that runs threads (JAX, gRPC) may deadlock, so workers come from a clean server.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["data_prep.engine"])
    count = context.Value("q", 0)
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, (fn, count))
    try:
        waiting = {pool.submit(_work, task) for task in tasks}
        shown = 0
        while waiting:
            finished, waiting = concurrent.futures.wait(waiting, 0.2, concurrent.futures.FIRST_COMPLETED)
            for future in finished:
                future.result()
            total = count.value
            progress.update(total - shown)
            shown = total
    except concurrent.futures.process.BrokenProcessPool as error:
        raise RuntimeError(
            f"{label}: a worker process died (killed, or out of memory); run again to go on where it stopped, "
            "with a smaller LocalEngine.workers if memory was short"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(fn: TableFn, count: Any) -> None:
    global _worker_fn, _worker_count
    _worker_fn, _worker_count = fn, count
    pa.set_cpu_count(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """Without this, workers of a driver that was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(task: Task) -> None:
    def advance(n: int) -> None:
        with _worker_count.get_lock():
            _worker_count.value += n

    task(_worker_fn, advance)
