"""The Spark engine: the functions of the stages on a cluster, and the bytes that the local engine would write.

    include 'gin/runs/cookbook.gin'
    ENGINE = @SparkEngine()
    SparkEngine.master = "spark://host:7077"

`map` sends parts to executors with `mapInArrow`; an executor reads, calls the stage's function and renames its file as
a local worker does. `reduce` sends slices of parts, as packed Arrow, through Spark's shuffle to `applyInArrow`. Spark
does again what a lost executor had done; a file that comes twice comes with the same bytes.

Executors need this checkout and its requirements at the same path, and must see the workdir: one machine, a shared
file system, or gs://. Started by spark-submit, as on Dataproc, leave `master` empty:

    gcloud dataproc jobs submit pyspark run.py --cluster=C -- --gin_file=… --workdir=gs://… \
        --gin_bindings='ENGINE = @SparkEngine()' --gin_bindings='SparkEngine.master = ""'

One machine and a standalone cluster are tested; Dataproc was not tried. It needs an image with Spark 4, and an
initialisation action that installs the checkout on every node. Beyond some 100 GB set the stages' `buckets` (4,096 for
The Stack v2): slices of parts, which are as many as groups times buckets, otherwise become small and many.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import gin
import pyarrow as pa
from etils import epath

from data_prep import files, tasks
from data_prep.engine import BATCH_BYTES, BATCH_ROWS, map_parts, reduce_parts, remove_leftovers
from data_prep.progress import Progress
from data_prep.tasks import TableFn

ROOT = pathlib.Path(__file__).parents[1]


@gin.configurable
@dataclasses.dataclass(frozen=True)
class SparkEngine:
    """Runs batches on Spark 4.

    Attributes:
      master: "local[*, 4]" (this machine, four attempts), "spark://host:port", or "" for what spark-submit says.
      settings: more settings of Spark, such as {"spark.executor.memory": "8g"}.
      batch_rows: most rows `fn` sees at once in `map`.
      batch_bytes: bytes in memory that a batch is cut to; a single row may exceed it.
    """

    master: str = "local[*, 4]"
    settings: dict[str, str] = dataclasses.field(default_factory=dict)
    batch_rows: int = BATCH_ROWS
    batch_bytes: int = BATCH_BYTES

    def map(self, fn: TableFn, inputs: Sequence[epath.Path], out: epath.Path, *, label: str) -> None:
        parts = map_parts(fn, inputs, out, self.batch_rows, self.batch_bytes, label)
        sizes = [files.metadata(path).num_rows for path in inputs]
        remove_leftovers(parts)
        missing = [(part, size) for part, size in zip(parts, sizes, strict=True) if not part.is_done()]
        with Progress(label, sum(sizes), "rows") as progress:
            progress.update(sum(sizes) - sum(size for _, size in missing))
            if missing:
                self._write_parts(fn, [part for part, _ in missing], progress)

    def reduce(
        self, fn: TableFn, inputs: Sequence[epath.Path], out: epath.Path, *, key: str, buckets: int, label: str
    ) -> None:
        groups, merges = reduce_parts(fn, inputs, out, out / "_shuffle", key, buckets, label)
        remove_leftovers(merges)
        missing = {merge.bucket: merge for merge in merges if not merge.is_done()}
        with Progress(label, len(merges), "buckets") as progress:
            progress.update(len(merges) - len(missing))
            if missing:
                self._shuffle(fn, groups, missing, progress)

    def _write_parts(self, fn: TableFn, parts: Sequence[tasks.MapPart], progress: Progress) -> None:
        spark = self._session()
        done, everything = spark.sparkContext.accumulator(0), spark.sparkContext.broadcast((fn, parts))

        def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            fn, parts = everything.value
            for batch in batches:
                for number in batch["id"].to_pylist():
                    parts[number](fn, done.add)
                yield batch

        frame = spark.range(0, len(parts), numPartitions=len(parts)).mapInArrow(write, "id long")
        _collect(frame, done, progress)
        everything.destroy()

    def _shuffle(
        self,
        fn: TableFn,
        groups: Sequence[tasks.SpillGroup],
        missing: dict[int, tasks.ReduceBucket],
        progress: Progress,
    ) -> None:
        spark = self._session()
        spark.conf.set("spark.sql.shuffle.partitions", str(len(missing)))
        done, split = spark.sparkContext.accumulator(0), spark.sparkContext.broadcast(groups)
        merge = spark.sparkContext.broadcast((fn, missing))
        wanted = frozenset(missing)

        def slices(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for number in (number for batch in batches for number in batch["id"].to_pylist()):
                group = split.value[number]
                for bucket, data in enumerate(tasks.split_group(group.sources, group.key, group.buckets)):
                    if bucket in wanted:
                        yield pa.RecordBatch.from_pylist([{"bucket": bucket, "number": number, "data": data}], SLICE)

        def gather(table: pa.Table) -> pa.Table:
            fn, missing = merge.value
            bucket = table["bucket"][0].as_py()
            rows = sorted(table.to_pylist(), key=lambda row: row["number"])
            missing[bucket].gather(fn, (tasks.unpack(row["data"]) for row in rows))
            done.add(1)
            return pa.table({"id": [bucket]})

        frame = spark.range(0, len(groups), numPartitions=len(groups)).mapInArrow(slices, SLICE_TYPES)
        _collect(frame.groupBy("bucket").applyInArrow(gather, "id long"), done, progress)
        for broadcast in (split, merge):
            broadcast.destroy()

    def _session(self) -> Any:
        """Spark's session: the one that this process has, or a new one."""
        try:
            from pyspark.sql import SparkSession  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError(
                "SparkEngine needs pyspark: pip install -r requirements-spark.txt (and Java 17)"
            ) from error
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        path = os.pathsep.join([os.fspath(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        builder = SparkSession.builder.appName("data_prep").config("spark.executorEnv.PYTHONPATH", path)  # pyright: ignore
        builder = builder.config("spark.ui.enabled", "false").config("spark.ui.showConsoleProgress", "false")
        for name, value in (({"spark.master": self.master} if self.master else {}) | self.settings).items():
            builder = builder.config(name, value)
        spark = builder.getOrCreate()
        spark.sparkContext.setLogLevel("ERROR")
        return spark


SLICE_TYPES = "bucket long, number long, data binary"
SLICE = pa.schema([("bucket", pa.int64()), ("number", pa.int64()), ("data", pa.binary())])


def _collect(frame: Any, done: Any, progress: Progress) -> None:
    """Runs the job of `frame`, showing how far it is. Raises RuntimeError with what went wrong in a worker."""
    from py4j.protocol import Py4JJavaError  # pyright: ignore[reportMissingImports]
    from pyspark.errors import PySparkException  # pyright: ignore[reportMissingImports]

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        job, shown = thread.submit(frame.collect), 0
        while True:
            finished = concurrent.futures.wait([job], 0.2).done
            total = min(done.value, progress.total or 0)  # what was done twice counts twice
            progress.update(total - shown)
            shown = total
            if finished:
                break
    try:
        job.result()
    except (PySparkException, Py4JJavaError) as error:
        raised = re.findall(r"^\w*(?:Error|Exception): .*", str(error), re.MULTILINE)  # of Python; Java's have dots
        why = raised[-1] if raised else str(error).splitlines()[0]
        raise RuntimeError(f"{progress.label}: {why}; run again to go on where it stopped") from error
