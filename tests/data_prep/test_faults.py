"""Processes are killed, disks fill up and bits flip; a re-run ends with the bytes of the run that nobody touched."""

from __future__ import annotations

import hashlib
import os
import pathlib
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, os.path.dirname(__file__))
import engine_job  # noqa: E402

pytestmark = pytest.mark.slow
DEADLINE = 600  # seconds that nothing may take, on a machine that is busy with other things


def outputs(top: pathlib.Path) -> dict[str, str]:
    files = [path for name in ("mapped", "reduced") for path in (top / name).glob("*.parquet")]
    return {str(path.relative_to(top)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def start(top: pathlib.Path, kind: str, **options: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'data_prep'}", "SPARK_LOCAL_IP": "127.0.0.1"}
    command = [sys.executable, str(ROOT / "tests" / "data_prep" / "engine_job.py"), str(top), kind]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, **options)  # pyright: ignore


def finish(job: subprocess.Popen[str]) -> tuple[int, str]:
    _, stderr = job.communicate(timeout=DEADLINE)
    return job.returncode, stderr


def wait_until(condition: Callable[[], object], job: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert job.poll() is None, job.stderr and job.stderr.read()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    top = tmp_path_factory.mktemp("undisturbed")
    engine_job.write_inputs(top)
    engine_job.run(top, "local:1")
    assert len(outputs(top)) == engine_job.PARTS + engine_job.BUCKETS
    return outputs(top)


@pytest.fixture
def top(tmp_path: pathlib.Path) -> pathlib.Path:
    engine_job.write_inputs(tmp_path)
    (tmp_path / "pause").write_text("0.1")
    return tmp_path


def assert_only_whole_files(top: pathlib.Path, undisturbed: dict[str, str]) -> None:
    """What is there under a final name is there as it should be."""
    assert outputs(top).items() <= undisturbed.items()


def assert_a_rerun_completes(top: pathlib.Path, kind: str, undisturbed: dict[str, str]) -> None:
    (top / "pause").write_text("0")
    code, stderr = finish(start(top, kind))
    assert code == 0, stderr[-3000:]
    assert outputs(top) == undisturbed
    assert not list(top.rglob("*.tmp")) and not (top / "reduced" / "_shuffle").exists()


def wait_for_outputs(count: int, top: pathlib.Path, job: subprocess.Popen[str]) -> None:
    wait_until(lambda: len(list(top.glob("mapped/*.parquet")) + list(top.glob("reduced/*.parquet"))) >= count, job)


@pytest.mark.parametrize("earliest, latest", [(0, engine_job.PARTS - 2), (engine_job.PARTS, engine_job.PARTS + 3)])
def test_a_killed_worker(top: pathlib.Path, undisturbed: dict[str, str], earliest: int, latest: int) -> None:
    draw = random.Random(latest)
    job = start(top, "local:2")
    wait_for_outputs(draw.randint(earliest, latest), top, job)
    wait_until(lambda: workers_of(job, top), job)
    time.sleep(draw.uniform(0, 0.3))
    draw.choice(workers_of(job, top)).kill()
    code, stderr = finish(job)
    assert code != 0 and "a worker process died" in stderr
    assert_only_whole_files(top, undisturbed)
    assert_a_rerun_completes(top, "local:2", undisturbed)


def command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended since it was listed
        return ""


def workers_of(job: subprocess.Popen[str], top: pathlib.Path) -> list[psutil.Process]:
    known = {path.name for path in (top / "pids").iterdir()}
    return [child for child in psutil.Process(job.pid).children(recursive=True) if str(child.pid) in known]


def test_a_driver_killed_again_and_again(top: pathlib.Path, undisturbed: dict[str, str]) -> None:
    draw = random.Random(3)
    for count in sorted(draw.sample(range(1, len(undisturbed) - 2), 4)):
        job = start(top, "local:2")
        wait_for_outputs(count, top, job)
        time.sleep(draw.uniform(0, 0.3))
        job.kill()
        finish(job)
        assert_only_whole_files(top, undisturbed)
        assert len(outputs(top)) < len(undisturbed), "killed too late"
    assert_a_rerun_completes(top, "local:1", undisturbed)


def test_a_damaged_scratch_file(top: pathlib.Path, undisturbed: dict[str, str]) -> None:
    job = start(top, "local:2")
    wait_for_outputs(engine_job.PARTS + 1, top, job)
    job.kill()
    finish(job)
    (spill,) = (top / "reduced" / "_shuffle").glob("*.spill")
    data = bytearray(spill.read_bytes())
    data[random.Random(4).randrange(len(data))] ^= 16
    spill.write_bytes(data)
    assert_only_whole_files(top, undisturbed)
    assert_a_rerun_completes(top, "local:2", undisturbed)


@pytest.fixture
def small_disk(tmp_path: pathlib.Path) -> Iterator[Callable[[int], bool]]:
    """Gives tmp_path/mapped a disk of so many KiB; False where this may not be done."""
    where = str(tmp_path / "mapped")

    def resize(kib: int) -> bool:
        options = f"size={kib}k" if not os.path.ismount(where) else f"remount,size={kib}k"
        os.makedirs(where, exist_ok=True)
        return (
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", where], capture_output=True).returncode == 0
        )

    yield resize
    subprocess.run(["umount", where], capture_output=True)


def test_a_full_disk(top: pathlib.Path, undisturbed: dict[str, str], small_disk: Callable[[int], bool]) -> None:
    (top / "pause").write_text("0")
    if shutil.which("mount") and small_disk(64):
        code, stderr = finish(start(top, "local:2"))
        assert "No space left on device" in stderr
    else:
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
        code, stderr = finish(start(top, "local:2", preexec_fn=limit))
        assert "File too large" in stderr
    assert code != 0 and str(top) in stderr.strip().splitlines()[-1]
    assert_only_whole_files(top, undisturbed)
    assert len(outputs(top)) < len(undisturbed)
    small_disk(65536)
    assert_a_rerun_completes(top, "local:2", undisturbed)


class Cluster:
    """A standalone Spark cluster on this machine: a master and two workers with one core each."""

    def __init__(self, top: pathlib.Path) -> None:
        import pyspark

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.master = f"spark://127.0.0.1:{free.getsockname()[1]}"
        self._spark_class = pathlib.Path(pyspark.__file__).parent / "bin" / "spark-class"
        self._top, self._processes = top, []
        host, port = self.master.removeprefix("spark://").split(":")
        self._start("master.Master", "--host", host, "--port", port)
        self.workers = [self.start_worker() for _ in range(2)]

    def start_worker(self) -> subprocess.Popen[bytes]:
        return self._start("worker.Worker", "--cores", "1", "--memory", "1g", "--host", "127.0.0.1", self.master)

    def _start(self, name: str, *flags: str) -> subprocess.Popen[bytes]:
        command = [self._spark_class, f"org.apache.spark.deploy.{name}", "--webui-port", "0", *flags]
        environment = {"SPARK_DAEMON_MEMORY": "256m", "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_WORKER_DIR": str(self._top)}
        with open(self._top / f"{len(self._processes)}.log", "wb") as log:
            self._processes.append(
                subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=log, start_new_session=True)
            )
        return self._processes[-1]

    def executors(self) -> list[psutil.Process]:
        children = [c for w in self.workers if w.poll() is None for c in psutil.Process(w.pid).children(recursive=True)]
        return [child for child in children if "CoarseGrainedExecutorBackend" in command(child)]

    def stop(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    pytest.importorskip("pyspark", reason="pyspark is not installed")
    if not shutil.which("java"):
        pytest.skip("Spark needs Java 17")
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.stop()


def test_spark_survives_an_executor_and_a_whole_worker(
    cluster: Cluster, top: pathlib.Path, undisturbed: dict[str, str]
) -> None:
    draw = random.Random(5)
    job = start(top, cluster.master)
    wait_for_outputs(draw.randint(1, 3), top, job)
    time.sleep(draw.uniform(0, 0.3))
    draw.choice(cluster.executors()).kill()
    assert_only_whole_files(top, undisturbed)
    wait_for_outputs(draw.randint(engine_job.PARTS - 2, engine_job.PARTS + 1), top, job)
    worker = cluster.workers[draw.randrange(2)]
    os.killpg(worker.pid, signal.SIGKILL)  # with its executor and Python processes
    worker.wait()
    assert_only_whole_files(top, undisturbed)
    code, stderr = finish(job)
    assert code == 0, stderr[-3000:]
    assert outputs(top) == undisturbed
    cluster.workers.remove(worker)
    cluster.workers.append(cluster.start_worker())


def test_spark_goes_on_after_its_driver_was_killed(
    cluster: Cluster, top: pathlib.Path, undisturbed: dict[str, str]
) -> None:
    job = start(top, cluster.master)
    wait_for_outputs(random.Random(6).randint(1, engine_job.PARTS), top, job)
    job.kill()
    finish(job)
    assert_only_whole_files(top, undisturbed)
    assert_a_rerun_completes(top, cluster.master, undisturbed)


def test_spark_names_a_damaged_input(cluster: Cluster, top: pathlib.Path) -> None:
    (top / "pause").write_text("0")
    damaged = top / "in" / "part-00003.parquet"
    data = bytearray(damaged.read_bytes())
    data[len(data) // 3] ^= 1
    damaged.write_bytes(data)
    code, stderr = finish(start(top, cluster.master))
    assert code != 0 and f"{damaged} is damaged" in stderr.strip().splitlines()[-1]
    assert not (top / "mapped" / damaged.name).exists()
