from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from data_prep import files, tasks
from data_prep.engine import LocalEngine, reduce_parts
from data_prep.tasks import bucket_of

ROOT = pathlib.Path(__file__).parents[2]
ROWS = [300, 0, 41, 500]

JOB = """
import os, sys, time
import pyarrow as pa
from etils import epath
from data_prep.engine import LocalEngine

def double(table):
    with open(os.path.join(os.environ["PIDS"], str(os.getpid())), "w"):
        pass
    time.sleep(float(os.environ.get("PAUSE", 0)))
    return table.append_column("y", pa.array([2 * x for x in table["x"].to_pylist()], pa.int64()))

if __name__ == "__main__":
    top = epath.Path(sys.argv[1])
    engine = LocalEngine(workers=int(sys.argv[2]), batch_rows=100)
    mapped, reduced = top / "mapped", top / "reduced"
    mapped.mkdir(exist_ok=True)
    reduced.mkdir(exist_ok=True)
    engine.map(double, sorted(top.glob("in/*")), mapped, label="map")
    engine.reduce(double, sorted(mapped.glob("*.parquet")), reduced, key="s", buckets=6, label="reduce")
"""


def identity(table: pa.Table) -> pa.Table:
    return table


def add(table: pa.Table, addend: int) -> pa.Table:
    return table.append_column("y", pc.add(table["x"], addend))


def fail(table: pa.Table) -> pa.Table:
    raise ZeroDivisionError("of the function")


def die(table: pa.Table) -> pa.Table:
    os._exit(9)


@pytest.fixture
def inputs(tmp_path: pathlib.Path) -> list[epath.Path]:
    return write_inputs(tmp_path)


def write_inputs(top: pathlib.Path) -> list[epath.Path]:
    (top / "in").mkdir()
    schema = pa.schema([("x", pa.int64()), ("s", pa.string())])
    first, paths = 0, []
    for i, rows in enumerate(ROWS):
        xs = list(range(first, first + rows))
        keys = [None if x % 50 == 0 else f"key {x * x % 83}" for x in xs]
        paths.append(epath.Path(top / "in" / f"part-{i:05d}.parquet"))
        pq.write_table(pa.table({"x": xs, "s": keys}, schema), paths[-1])
        first += rows
    return paths


def digests(top: pathlib.Path) -> dict[str, str]:
    files = [path for path in top.rglob("*") if path.is_file() and path.parent.name in ("mapped", "reduced")]
    return {str(path.relative_to(top)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run_job(top: pathlib.Path, workers: int, pause: float = 0) -> subprocess.Popen[bytes]:
    (top / "pids").mkdir(exist_ok=True)
    (top / "job.py").write_text(JOB)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PIDS": str(top / "pids"), "PAUSE": str(pause)}
    return subprocess.Popen([sys.executable, str(top / "job.py"), str(top), str(workers)], env=environment)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    top = tmp_path_factory.mktemp("undisturbed")
    write_inputs(top)
    assert run_job(top, workers=1).wait(60) == 0
    found = digests(top)
    assert len(found) == len(ROWS) + 6
    return found


@pytest.mark.parametrize("waits_for", ["mapped", "reduced"])
def test_kill_and_rerun_leaves_the_bytes_of_an_undisturbed_run(
    tmp_path: pathlib.Path, undisturbed: dict[str, str], waits_for: str
) -> None:
    write_inputs(tmp_path)
    job = run_job(tmp_path, workers=2, pause=0.1)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(f"{waits_for}/*.parquet")):
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    job.send_signal(signal.SIGKILL)
    job.wait()
    assert len(list(tmp_path.glob("reduced/*.parquet"))) < 6, "killed too late to test anything"
    workers = [int(path.name) for path in (tmp_path / "pids").iterdir()]
    assert workers and job.pid not in workers
    while any(is_alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers outlive the driver"
        time.sleep(0.01)
    assert run_job(tmp_path, workers=2).wait(60) == 0
    assert digests(tmp_path) == undisturbed
    assert not [path for path in tmp_path.rglob("*.tmp")] and not (tmp_path / "reduced" / "_shuffle").exists()


def is_alive(pid: int) -> bool:
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_map_keeps_order_and_writes_empty_parts(inputs: list[epath.Path], tmp_path: pathlib.Path) -> None:
    out = epath.Path(tmp_path / "out")
    out.mkdir()
    LocalEngine(workers=1, batch_rows=7).map(identity, inputs, out, label="map")
    for path in inputs:
        assert pq.read_table(out / path.name).equals(pq.read_table(path))


def test_a_part_is_used_again_only_if_it_is_what_the_same_call_wrote(
    inputs: list[epath.Path], tmp_path: pathlib.Path
) -> None:
    out = epath.Path(tmp_path / "out")
    out.mkdir()
    engine = LocalEngine(workers=1)

    def written(addend: int) -> list[bool]:
        """Which parts a call has written."""
        files = [tmp_path / "out" / path.name for path in inputs]
        before = [file.exists() and file.stat().st_ino for file in files]
        engine.map(functools.partial(add, addend=addend), inputs, out, label="map")
        return [file.stat().st_ino != inode for file, inode in zip(files, before, strict=True)]

    assert written(1) == [True] * 4 and written(1) == [False] * 4
    expected = [(out / path.name).read_bytes() for path in inputs]
    damaged = bytearray(expected[0])
    damaged[len(damaged) // 2] ^= 1
    (out / inputs[0].name).write_bytes(damaged)  # a flipped bit
    (out / "_manifests" / f"{inputs[1].name}.json").unlink()  # killed between part and manifest
    (out / inputs[2].name).unlink()
    assert written(1) == [True, True, True, False]
    assert [(out / path.name).read_bytes() for path in inputs] == expected
    pq.write_table(pq.read_table(inputs[3]).slice(1), inputs[3])
    assert written(1) == [False, False, False, True]
    assert written(2) == [True] * 4, "another configuration"
    engine.map(functools.partial(add, addend=2), inputs[1:], out, label="map")
    assert sorted(path.name for path in out.glob("*.parquet")) == [path.name for path in inputs[1:]]


def test_map_bounds_the_bytes_of_a_batch(tmp_path: pathlib.Path) -> None:
    texts = [f"{i:1000d}" for i in range(100)]
    path = epath.Path(tmp_path / "part-00000.parquet")
    pq.write_table(pa.table({"text": texts}), path)
    (tmp_path / "out").mkdir()
    LocalEngine(workers=1, batch_bytes=10_000).map(identity, [path], epath.Path(tmp_path / "out"), label="map")
    written = pq.ParquetFile(tmp_path / "out" / path.name)
    assert written.num_row_groups > 9 and written.read()["text"].to_pylist() == texts


def test_reduce_gathers_equal_keys_in_order_and_loses_nothing(inputs: list[epath.Path], tmp_path: pathlib.Path) -> None:
    out = epath.Path(tmp_path / "out")
    out.mkdir()
    LocalEngine(workers=1, batch_rows=64).reduce(identity, inputs, out, key="s", buckets=5, label="reduce")
    parts = [pq.read_table(path).to_pylist() for path in sorted(out.glob("*.parquet"))]
    assert len(parts) == 5 and sum(bool(part) for part in parts) > 1
    place = {}
    for number, part in enumerate(parts):
        assert [row["x"] for row in part] == sorted(row["x"] for row in part)
        for row in part:
            assert place.setdefault(row["s"], number) == number
    everything = [row for path in inputs for row in pq.read_table(path).to_pylist()]
    assert sorted((row for part in parts for row in part), key=lambda row: row["x"]) == everything


def test_inputs_must_have_different_names(inputs: list[epath.Path], tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="different file names"):
        LocalEngine().map(identity, [inputs[0], inputs[0]], epath.Path(tmp_path), label="map")
    with pytest.raises(ValueError, match="no input parts"):
        LocalEngine().reduce(identity, [], epath.Path(tmp_path), key="s", buckets=2, label="reduce")


@pytest.mark.parametrize("fn, error, text", [(fail, ZeroDivisionError, "of the fun"), (die, RuntimeError, "run again")])
def test_failure_in_a_worker_reaches_the_caller_and_leaves_no_part(fn, error, text, inputs, tmp_path) -> None:
    out = epath.Path(tmp_path / "out")
    out.mkdir()
    with pytest.raises(error, match=text):
        LocalEngine(workers=2).map(fn, inputs, out, label="map")
    assert not list(out.glob("*.parquet"))


@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)), st.integers(1, 1000))
def test_buckets_of_integers(values: list[int | None], buckets: int) -> None:
    found = bucket_of(pa.array(values, pa.int64()), buckets)
    assert len(found) == len(values) and all(0 <= bucket < buckets for bucket in found)
    assert found.tolist() == [bucket_of(pa.array([value], pa.int64()), buckets)[0] for value in values]


def test_buckets_never_change_and_are_even() -> None:
    assert bucket_of(pa.array(["", "123456789", None]), 1 << 32).tolist() == [0, 0xCBF43926, 0]  # CRC-32's check value
    assert bucket_of(pa.array([0, 1, 2, 10**12]), 1000).tolist() == [0, 789, 730, 471]
    counts = np.bincount(bucket_of(pa.array(range(100_000)), 10))
    assert counts.min() > 9_600 and counts.max() < 10_400


def test_a_flipped_bit_anywhere_in_an_input_is_noticed_and_the_file_named(tmp_path: pathlib.Path) -> None:
    path = epath.Path(tmp_path / "part-00000.parquet")
    table = pa.table({"x": range(300), "s": [f"{i * 7919 % 1000:x}" * (i % 9) for i in range(300)]})
    written = files.write_parquet(iter([table.slice(0, 200), table.slice(200)]), path)
    data = path.read_bytes()
    assert hashlib.sha256(data).hexdigest() == written.sha256 and len(data) == written.bytes
    for position in range(0, len(data), 53):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{path} is damaged"):
            list(files.batches(path, 100, written.sha256))
        with contextlib.suppress(ValueError):  # the checksums of pages find most of it where no manifest tells the rest
            list(files.batches(path, 100, hashlib.sha256(damaged).hexdigest()))
    for length in (0, 4, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=f"{path} is damaged"):
            LocalEngine(workers=1).map(identity, [path], epath.Path(tmp_path), label="map")


def test_a_damaged_spill_is_named_and_a_second_run_mends_it(inputs: list[epath.Path], tmp_path: pathlib.Path) -> None:
    out = epath.Path(tmp_path / "out")
    out.mkdir()
    (group,), merges = reduce_parts(identity, inputs, out, out, "s", 5, "reduce")
    group(identity, lambda n: None)
    spill = pathlib.Path(group.target)
    data = spill.read_bytes()
    for position in [*range(0, len(data), len(data) // 12), *range(len(data) - 24, len(data))]:
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        spill.write_bytes(damaged)
        assert not group.is_done()
        with pytest.raises(ValueError, match=f"{spill} is damaged"):
            for merge in merges:
                merge(identity, lambda n: None)
    LocalEngine(workers=1).reduce(identity, inputs, out, key="s", buckets=5, label="reduce")
    assert sum(pq.read_metadata(path).num_rows for path in out.glob("*.parquet")) == sum(ROWS)


def test_digests_depend_on_values_alone() -> None:
    code = (
        "import functools, sys; from data_prep import tasks; from etils import epath; import pyarrow as pa\n"
        "same = 'x' * 3 if len(sys.argv) > 1 else 'xxx'\n"
        "f = functools.partial(tasks.bucket_of, a={'q', 'w', 'e', 'r'}, b=[same, 'xxx'], c=epath.Path('/a'))\n"
        "print(tasks.digest(f, pa.table({'x': [1]})))"
    )
    run = lambda seed, *flags: (
        subprocess.run(
            [sys.executable, "-c", code, *flags],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            cwd=ROOT,
        ).stdout
    )
    assert run("1") == run("2", "other") != b""
    values = [identity, fail, functools.partial(add, addend=1), functools.partial(add, addend=2), {1}, [1], "1", 1]
    assert len({tasks.digest(value) for value in values}) == len(values)
    assert tasks.digest({"a": 1}, {2, 1}) == tasks.digest({"a": 1}, {1, 2})
