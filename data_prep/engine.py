"""Where batches run: `map` over Parquet parts and `reduce` over rows that share a key.

A stage gives the engine a plain function of Arrow tables and two directories; it never learns how many workers there
are. Every output file is written under a temporary name, synced and renamed, then its manifest: after a crash at any
moment, the same call again does only what is missing, damaged or made from something else, and leaves the same bytes.
Memory is bounded by the size of batches, groups of parts and buckets, not by that of the corpus.
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import dataclasses
import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from typing import Any, Protocol

import gin
import pyarrow as pa
from etils import epath

from data_prep import files, tasks
from data_prep.progress import Progress
from data_prep.tasks import TableFn
from data_prep.workers import server

BATCH_ROWS = 1024
BATCH_BYTES = 32 << 20


class Engine(Protocol):
    """Runs pure, picklable functions of Arrow tables over Parquet parts; directories `out` are made where missing."""

    def map(self, fn: TableFn, inputs: Sequence[epath.Path], out: epath.Path, *, label: str) -> None:
        """Writes out/<name> = `fn` applied to every batch of each input part <name>, in order.

        `fn` sees tables of bounded rows and bytes and may return any number of rows and columns; the schema of a
        part's first result is the schema of its output. A part without rows calls `fn` once with an empty table.

        Raises:
          ValueError: two inputs have the same file name, or one is damaged.
        """
        ...

    def reduce(
        self, fn: TableFn, inputs: Sequence[epath.Path], out: epath.Path, *, key: str, buckets: int, label: str
    ) -> None:
        """Writes out/part-<bucket>.parquet = `fn` of all rows whose `key` hashes to that bucket.

        Rows come to `fn` in the order of (input part, row). All rows with equal `key` are in one bucket; a bucket
        without rows calls `fn` with an empty table. `key` names a string, binary or integer column. With `buckets` 0
        their number follows from the size of the inputs, so that a bucket fits in memory.

        Raises:
          ValueError: there are no inputs, or one of them is damaged.
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
    batch_rows: int = BATCH_ROWS
    batch_bytes: int = BATCH_BYTES

    def map(self, fn: TableFn, inputs: Sequence[epath.Path], out: epath.Path, *, label: str) -> None:
        parts = map_parts(fn, inputs, out, self.batch_rows, self.batch_bytes, label)
        self._run(fn, parts, [files.metadata(path).num_rows for path in inputs], label, "rows")

    def reduce(
        self, fn: TableFn, inputs: Sequence[epath.Path], out: epath.Path, *, key: str, buckets: int, label: str
    ) -> None:
        shuffle = out / "_shuffle"
        spills, merges = reduce_parts(fn, inputs, out, shuffle, key, buckets, label)
        if not all(merge.is_done() for merge in merges):
            shuffle.mkdir(parents=True, exist_ok=True)
            self._run(_unused, spills, [len(spill.sources) for spill in spills], f"{label} (shuffle)", "parts")
            self._run(fn, merges, [1] * len(merges), label, "buckets")
        if shuffle.exists():
            shuffle.rmtree()

    def _run(self, fn: TableFn, parts: Sequence[tasks.Part], sizes: Sequence[int], label: str, unit: str) -> None:
        """Writes the parts that are not there yet, in this process or in a pool."""
        remove_leftovers(parts)
        missing = [i for i, part in enumerate(parts) if not part.is_done()]
        with Progress(label, sum(sizes), unit) as progress:
            progress.update(sum(sizes) - sum(sizes[i] for i in missing))
            workers = min(self.workers or cores(), len(missing))
            if workers > 1:
                _run_in_pool(fn, [parts[i] for i in missing], workers, progress, label)
            else:
                for i in missing:
                    _write(parts[i], fn, progress.update)


def map_parts(
    fn: TableFn, inputs: Sequence[epath.Path], out: epath.Path, batch_rows: int, batch_bytes: int, label: str
) -> list[tasks.MapPart]:
    """The parts that a `map` writes."""
    names = [path.name for path in inputs]
    if len(set(names)) < len(names):
        raise ValueError(f"{label}: input parts must have different file names, got {sorted(names)}")
    out.mkdir(parents=True, exist_ok=True)
    config = tasks.digest(fn, batch_rows, batch_bytes)
    return [
        tasks.MapPart(
            os.fspath(out / path.name), files.content_digest(path), config, os.fspath(path), batch_rows, batch_bytes
        )
        for path in inputs
    ]


def reduce_parts(
    fn: TableFn,
    inputs: Sequence[epath.Path],
    out: epath.Path,
    shuffle: epath.Path,
    key: str,
    buckets: int,
    label: str,
) -> tuple[list[tasks.SpillGroup], list[tasks.ReduceBucket]]:
    """The spill files in `shuffle` and the parts in `out` that a `reduce` writes."""
    if not inputs:
        raise ValueError(f"{label}: there are no input parts to reduce")
    out.mkdir(parents=True, exist_ok=True)
    sizes = [tasks.input_bytes(path) for path in inputs]
    buckets = buckets or max(1, -(-sum(sizes) // tasks.BUCKET_BYTES))
    digests = [files.content_digest(path) for path in inputs]
    spills = []
    for i, group in enumerate(tasks.groups(sizes)):
        sources = tuple(zip(map(os.fspath, inputs[group]), digests[group], strict=True))
        target, made_from = os.fspath(shuffle / f"{i:05d}.spill"), _digest_of(digests[group])
        spills.append(tasks.SpillGroup(target, made_from, tasks.digest(key, buckets), sources, key, buckets))
    everything, names = _digest_of(digests), tuple(spill.target for spill in spills)
    config = tasks.digest(fn, key, buckets)
    merges = [
        tasks.ReduceBucket(os.fspath(out / f"part-{i:05d}.parquet"), everything, config, names, i, buckets)
        for i in range(buckets)
    ]
    return spills, merges


def _digest_of(digests: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def remove_leftovers(parts: Sequence[tasks.Part]) -> None:
    """Deletes what a killed run, or one with other inputs, left beside the files to write."""
    targets = {epath.Path(part.target) for part in parts}
    for directory in {target.parent for target in targets}:
        for leftover in (*directory.glob(".*.tmp"), *directory.glob("_manifests/.*.tmp")):
            leftover.unlink(missing_ok=True)
        for manifest in directory.glob("_manifests/*.json"):
            if (target := directory / manifest.name.removesuffix(".json")) not in targets:
                target.unlink(missing_ok=True)
                manifest.unlink()


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _unused(table: pa.Table) -> pa.Table:
    raise AssertionError("splitting calls no function")


_worker_fn: TableFn
_worker_count: Any  # a multiprocessing.Value: rows done by all workers


def _run_in_pool(fn: TableFn, parts: Sequence[tasks.Part], workers: int, progress: Progress, label: str) -> None:
    context = server(getattr(fn, "func", fn).__module__)  # of a partial: its function's
    count = context.Value("q", 0)
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, (fn, count))
    try:
        waiting = {pool.submit(_work, part) for part in parts}
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


def _work(part: tasks.Part) -> None:
    def advance(n: int) -> None:
        with _worker_count.get_lock():
            _worker_count.value += n

    _write(part, _worker_fn, advance)


def _write(part: tasks.Part, fn: TableFn, advance: tasks.Advance) -> None:
    part(fn, advance)
    pa.default_memory_pool().release_unused()  # or memory grows with the number of parts
