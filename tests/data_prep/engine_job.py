"""A job for the fault tests: engine_job.py DIRECTORY ENGINE, where ENGINE is local:<workers> or a master of Spark.

Maps DIRECTORY/in to DIRECTORY/mapped and reduces that to DIRECTORY/reduced. Each batch takes DIRECTORY/pause seconds
and leaves the process id of its worker in DIRECTORY/pids.
"""

from __future__ import annotations

import functools
import os
import pathlib
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from data_prep.engine import LocalEngine
from data_prep.spark import SparkEngine

PARTS, ROWS = 8, 600
BUCKETS = 6


def write_inputs(top: pathlib.Path) -> None:
    (top / "in").mkdir(parents=True)
    (top / "pids").mkdir()
    (top / "pause").write_text("0")
    for part in range(PARTS):
        xs = range(part * ROWS, (part + 1) * ROWS)
        texts = [f"{x * 2654435761 % 2**32:08x} " * (x % 40) for x in xs]
        table = pa.table({"x": pa.array(xs, pa.uint32()), "key": [f"{x * x % 997}" for x in xs], "text": texts})
        pq.write_table(table, top / "in" / f"part-{part:05d}.parquet", write_page_checksum=True)


def run(top: pathlib.Path, kind: str) -> None:
    if kind.startswith("local:"):
        engine = LocalEngine(int(kind.removeprefix("local:")), batch_rows=100)
    else:
        settings = {"spark.executor.memory": "512m", "spark.driver.memory": "512m", "spark.driver.host": "127.0.0.1"}
        engine = SparkEngine(kind, settings, batch_rows=100)
    mapped, reduced = epath.Path(top / "mapped"), epath.Path(top / "reduced")
    for directory in (mapped, reduced):
        directory.mkdir(exist_ok=True)
    work, first = functools.partial(double, top=str(top)), functools.partial(first_of_key, top=str(top))
    engine.map(work, sorted(epath.Path(top / "in").glob("*.parquet")), mapped, label="map")
    engine.reduce(first, sorted(mapped.glob("*.parquet")), reduced, key="key", buckets=BUCKETS, label="reduce")


def double(table: pa.Table, top: str) -> pa.Table:
    _spend_time(pathlib.Path(top))
    return table.append_column("y", pa.array([2 * x for x in table["x"].to_pylist()], pa.uint64()))


def first_of_key(table: pa.Table, top: str) -> pa.Table:
    for _ in range(5):
        _spend_time(pathlib.Path(top))
    keys = table["key"].to_pylist()
    return table.take(pa.array([i for i, key in enumerate(keys) if keys.index(key) == i], pa.int64()))


def _spend_time(top: pathlib.Path) -> None:
    (top / "pids" / str(os.getpid())).touch()
    time.sleep(float((top / "pause").read_text()))


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(__file__))
    import engine_job  # functions of __main__ would not be found by workers

    engine_job.run(pathlib.Path(sys.argv[1]), sys.argv[2])
