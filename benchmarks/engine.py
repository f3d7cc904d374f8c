"""What the engine costs: workers, overhead, memory and time against the size of the corpus, and what 10⁹ files take.

    python benchmarks/engine.py OUT/synthetic [workers] [overhead] [curve] [stages] [digests]

The first argument is a directory of Parquet tables that `preprocess` reads, such as corpora.py makes. CPU time and
memory are those of the whole process tree, memory as the sum of proportional set sizes.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import hashlib
import json
import multiprocessing
import os
import pathlib
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from data_prep import dedup, documents, sampling, sources, tasks, transforms  # noqa: E402
from data_prep.engine import LocalEngine  # noqa: E402
from data_prep.files import write_parquet  # noqa: E402
from data_prep.quality import stages  # noqa: E402
from data_prep.spark import SparkEngine  # noqa: E402
from data_prep.workers import server  # noqa: E402

FILE_BYTES, BLOCK_BYTES = 5000, 500  # of a made-up file, about the mean of source code, and of what it consists of
PART_FILES = 3000
STACK_FILES = 1e9
KEYWORDS = re.compile(r"\b(?:class|def|else|for|func|if|import|int|return|static|struct|var|void|while)\b")
SECTIONS = ["workers", "overhead", "curve", "stages", "digests"]


def count_and_hash(table: pa.Table) -> pa.Table:
    """A cheap stage: 20 to 30 MB of text a second."""
    texts = [text or "" for text in table["text"].to_pylist()]
    table = table.append_column("keywords", pa.array([len(KEYWORDS.findall(text)) for text in texts], pa.int32()))
    shas = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    return table.append_column("sha", pa.array(shas, pa.string()))


def one_of_each(table: pa.Table) -> pa.Table:
    """One row for each value of `sha`, the one with the smallest path."""
    table = table.sort_by([("sha", "ascending"), ("path", "ascending")])
    shas = table["sha"].to_pylist()
    return table.take(pa.array([i for i, sha in enumerate(shas) if i == 0 or shas[i - 1] != sha], pa.int64()))


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """(seconds of wall clock, seconds of CPU of this process) of a call."""
    cpu, start = cpu_seconds(), time.perf_counter()
    call()
    return time.perf_counter() - start, cpu_seconds() - cpu


def fresh(top: epath.Path, *names: str) -> list[epath.Path]:
    made = [top / name for name in names]
    for directory in made:
        if directory.exists():
            directory.rmtree()
        directory.mkdir(parents=True)
    return made


def map_and_reduce(engine: LocalEngine | SparkEngine, inputs: list[epath.Path], top: epath.Path) -> str:
    """Runs the cheap stage and the reduction; digest of all parts."""
    mapped, reduced = fresh(top, "mapped", "reduced")
    engine.map(count_and_hash, inputs, mapped, label="map")
    engine.reduce(one_of_each, documents.parts(mapped), reduced, key="sha", buckets=0, label="reduce")
    found = [*documents.parts(mapped), *documents.parts(reduced)]
    return hashlib.sha256(b"".join(hashlib.sha256(part.read_bytes()).digest() for part in found)).hexdigest()[:12]


def bare_map(inputs: list[epath.Path], out: epath.Path) -> None:
    """`count_and_hash` with nothing around it."""
    for part in inputs:
        schema = count_and_hash(pq.read_schema(part).empty_table()).schema
        with pq.ParquetWriter(out / part.name, schema, compression="zstd") as writer:
            for batch in pq.ParquetFile(part).iter_batches(1024):
                writer.write_table(count_and_hash(pa.Table.from_batches([batch])))


def bare_reduce_in_memory(inputs: list[epath.Path], out: epath.Path) -> None:
    """`one_of_each` of everything at once."""
    table = pa.concat_tables(pq.read_table(part) for part in inputs)
    pq.write_table(one_of_each(table), out / "all.parquet", compression="zstd")


def bare_reduce(inputs: list[epath.Path], out: epath.Path) -> None:
    """`one_of_each` of a bucket at a time, as many as the engine takes; of files that nothing checks or syncs."""
    buckets = -(-sum(map(tasks.input_bytes, inputs)) // tasks.BUCKET_BYTES)
    schema, options = pq.read_schema(inputs[0]), pa.ipc.IpcWriteOptions(compression="lz4")
    names = [os.fspath(out / f"{i}.arrow") for i in range(buckets)]
    writers = [pa.ipc.new_stream(name, schema, options=options) for name in names]
    for part in inputs:
        table = pq.read_table(part)
        bucket = tasks.bucket_of(table["sha"].combine_chunks(), buckets)
        for i, writer in enumerate(writers):
            writer.write_table(table.take(pa.array(np.flatnonzero(bucket == i))))
    for i, (writer, name) in enumerate(zip(writers, names, strict=True)):
        writer.close()
        with pa.OSFile(name) as file:
            table = one_of_each(pa.ipc.open_stream(file).read_all())
        pq.write_table(table, out / f"{i}.parquet", compression="zstd")


def print_workers(inputs: list[epath.Path], top: epath.Path, repeats: int) -> None:
    """One worker and two, turn by turn; and what two processes are to one where they share nothing but the machine."""
    walls: dict[int, list[float]] = {1: [], 2: []}
    shares = [inputs[::2], inputs[1::2]]
    outs = fresh(top, "bare0", "bare1")
    alone, both = [], []
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(bare_map, [inputs[:1]] * 2, outs))
        for _ in range(repeats):
            for workers, found in walls.items():
                found.append(timed(functools.partial(map_and_reduce, LocalEngine(workers), inputs, top))[0])
            alone += [timed(pool.submit(bare_map, share, outs[0]).result)[0] for share in shares]
            both.append(timed(lambda: list(pool.map(bare_map, shares, outs)))[0])
    one, two = (statistics.median(walls[n]) for n in (1, 2))
    ceiling = 2 * statistics.mean(alone) / statistics.median(both)
    print(f"\nworkers: one {one:.1f} s, two {two:.1f} s: {one / two:.2f} times; two bare loops {ceiling:.2f} times one")


def print_overhead(inputs: list[epath.Path], top: epath.Path, repeats: int) -> None:
    """CPU time of each primitive in this process, and of loops that do the same with nothing around it."""
    (mapped,) = fresh(top, "mapped")
    engine = LocalEngine(1)
    engine.map(count_and_hash, inputs, mapped, label="map")
    shuffled = documents.parts(mapped)
    calls: dict[str, Callable[[epath.Path], None]] = {
        "map, bare loop": functools.partial(bare_map, inputs),
        "map": lambda out: engine.map(count_and_hash, inputs, out, label="map"),
        "reduce, bare loop in memory": functools.partial(bare_reduce_in_memory, shuffled),
        "reduce, bare loop of buckets": functools.partial(bare_reduce, shuffled),
        "reduce": lambda out: engine.reduce(one_of_each, shuffled, out, key="sha", buckets=0, label="reduce"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            (out,) = fresh(top, "out")
            seconds[name].append(timed(functools.partial(call, out))[1])
    median = {name: statistics.median(found) for name, found in seconds.items()}
    print()
    for name, cost in median.items():
        primitive = name.split(",")[0]
        more = f"; the engine takes {100 * (median[primitive] / cost - 1):+.1f} %" if name != primitive else ""
        print(f"{name:<30}{cost:>7.2f} s of CPU{more}")


def make_up(inputs: list[epath.Path], out: epath.Path, files: int) -> None:
    """Documents of FILE_BYTES each, of blocks of `inputs`: one in three repeats another, one in ten all but a word."""
    texts = [text for part in inputs[:4] for text in documents.read_part(part, ["text"])["text"].to_pylist()]
    text = "".join(filter(None, texts))
    blocks = FILE_BYTES // BLOCK_BYTES
    for first in range(0, files, PART_FILES):
        rows = []
        for n in range(first, min(first + PART_FILES, files)):
            near, content = n % 10 == 7, n - 1 if n % 10 == 7 or n % 3 == 2 else n
            starts = np.random.default_rng(content).integers(len(text) - BLOCK_BYTES, size=blocks)
            made = f"w{n} " * near + "".join(text[start : start + BLOCK_BYTES] for start in starts)
            sha, path = hashlib.sha256(made.encode()).hexdigest(), f"src/{n}.c"
            row = {"id": documents.document_id("made up", f"r{n % 1000}", path, None), "content_sha256": sha}
            row |= {"text": made, "path": path, "repo": f"r{n % 1000}", "language": "c", "doc_type": "code"}
            row |= {"size": len(made), "stars": n % 97, "source": "made up", "provenance": "{}", "reasons": []}
            rows.append(row)
        table = pa.Table.from_pylist(rows, documents.SCHEMA)
        write_parquet(iter([table]), out / f"part-{first // PART_FILES:05d}.parquet")


class Watch:
    """Looks at a process and those below it until it ends: largest sum of proportional set sizes, and CPU time.

    They are killed once they have taken more than `limit` seconds of CPU.
    """

    def __init__(self, process: subprocess.Popen, limit: float = float("inf")) -> None:
        self.peak, self._cpu, self._process, self._limit = 0.0, {}, process, limit
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while self._process.poll() is None:
            total, start = 0, time.monotonic()
            try:
                top = psutil.Process(self._process.pid)
                tree = (top, *top.children(recursive=True))
                for process in tree:
                    total += process.memory_full_info().pss
                    self._cpu[process.pid] = sum(process.cpu_times()[:2])
                if sum(self._cpu.values()) > self._limit:
                    for process in tree:
                        process.kill()
            except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
                pass
            self.peak = max(self.peak, total / 1e9)
            time.sleep(max(0.1, 9 * (time.monotonic() - start)))  # to look takes the kernel long

    def join(self) -> tuple[float, float]:
        """(GB, seconds of CPU)"""
        self._thread.join()
        return self.peak, sum(self._cpu.values())


def print_curve(inputs: list[epath.Path], top: epath.Path, sizes: list[int]) -> None:
    """Time and memory against the number of files, and what the largest size says of STACK_FILES of them."""
    print(
        f"\n{'':<20}{'files':>10}{'GB':>6}{'wall s':>8}{'CPU s':>8}{'files/CPU s':>13}{'peak GB':>9}{'shuffled GB':>13}"
    )
    per_file: dict[str, tuple[float, float]] = {}
    for files in sizes:
        (made,) = fresh(top, "made-up")
        make_up(inputs, made, files)
        for job in JOBS:
            (out,) = fresh(top, "curve")
            start = time.perf_counter()
            process = subprocess.Popen([sys.executable, __file__, "--child", job, made, out], stdout=subprocess.PIPE)
            peak, cpu = Watch(process).join()
            assert process.stdout and process.returncode == 0
            wall, shuffled = time.perf_counter() - start, int(process.stdout.read())
            figures = f"{wall:>8.1f}{cpu:>8.1f}{files / cpu:>13,.0f}{peak:>9.2f}{shuffled / 1e9:>13.3f}"
            print(f"{job:<20}{files:>10,}{files * FILE_BYTES / 1e9:>6.2f}{figures}", flush=True)
            per_file[job] = cpu / files, shuffled / files
            out.rmtree()
        made.rmtree()
    for job, (cpu, shuffled) in per_file.items():
        hours, terabytes = cpu * STACK_FILES / 3600, shuffled * STACK_FILES / 1e12
        print(f"{job}, {STACK_FILES:,.0f} files of this size: {hours:,.0f} core-hours, {terabytes:.2f} TB shuffled")
    print("if cost stays in proportion to files, on cores like these, in one pass")


class Counting(LocalEngine):
    """Prints the bytes of its spill files in the end."""

    shuffled = 0

    def _run(self, fn, parts, sizes, label, unit) -> None:
        super()._run(fn, parts, sizes, label, unit)
        spills = [part.target for part in parts if isinstance(part, tasks.SpillGroup)]
        Counting.shuffled += sum(map(os.path.getsize, spills))


def dedup_twice(engine: LocalEngine, inputs: list[epath.Path], top: epath.Path) -> None:
    exact, fuzzy = fresh(top, "exact", "fuzzy")
    dedup.exact_dedup(exact, documents=inputs[0].parent, engine=engine)
    dedup.fuzzy_dedup(fuzzy, documents=exact, engine=engine)


JOBS = {"map, reduce": map_and_reduce, "exact, fuzzy dedup": dedup_twice}  # with two workers


def print_stages(inputs: list[epath.Path], top: epath.Path) -> None:
    """CPU of each data stage on these documents, and what a billion files of the same kind would take."""
    names = ["exact_dedup", "fuzzy_dedup", "transform", "score", "quality_filter", "sample"]
    calls = [dedup.exact_dedup, dedup.fuzzy_dedup, transforms.transform, stages.score, stages.quality_filter]
    print(f"\n{'stage':<16}{'files in':>10}{'CPU s':>9}{'files/s':>10}{'core-hours for 1e9 files at the start':>40}")
    before, files = inputs[0].parent, sum(pq.read_metadata(part).num_rows for part in inputs)
    every, total = files, 0.0
    for name, call in zip(names, [*calls, sampling.sample], strict=True):
        (out,) = fresh(top, name)
        result: dict = {}
        _, cpu = timed(lambda: result.update(call(out, documents=before, engine=LocalEngine(1))))  # noqa: B023
        hours = cpu / every * STACK_FILES / 3600
        total += hours
        print(f"{name:<16}{files:>10,}{cpu:>9.2f}{files / cpu:>10,.0f}{hours:>40,.0f}", flush=True)
        before, files = out, result["files_kept"]
    print(f"all {total:,.0f} core-hours")


def print_digests(inputs: list[epath.Path], top: epath.Path) -> None:
    engines = {"one worker": LocalEngine(1), "two workers": LocalEngine(2), "Spark": SparkEngine()}
    found = {name: map_and_reduce(engine, inputs, top) for name, engine in engines.items()}
    print("\n" + "  ".join(f"{name} {digest}" for name, digest in found.items()))
    if len(set(found.values())) > 1:
        sys.exit("the engines differ")


def child(job: str, made: str, top: str) -> None:
    JOBS[job](Counting(2), documents.parts(epath.Path(made)), epath.Path(top))
    print(Counting.shuffled)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", help="directory of Parquet tables")
    parser.add_argument("sections", nargs="*", help=f"which of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="files of the curve")
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the median counts")
    parser.add_argument("--parts", type=int, default=0, help="use only so many parts of documents; 0 for all")
    parser.add_argument("--scratch", help="where to write (default: a temporary directory)")
    flags = parser.parse_args()
    sections = flags.sections or SECTIONS
    if not pathlib.Path(flags.tables).is_dir():
        sys.exit(f"skipped: {flags.tables} is not there; benchmarks/corpora.py makes it")
    server(__name__)  # imports it once for the workers of all that follows
    with tempfile.TemporaryDirectory(dir=flags.scratch) as scratch:
        top = epath.Path(scratch)
        (raw,) = fresh(top, "preprocess")
        sources.preprocess(raw, sources=[flags.tables], engine=LocalEngine(0))
        inputs = documents.parts(raw)[: flags.parts or None]
        for part in documents.parts(raw)[len(inputs) :]:
            part.unlink()
        rows = [documents.read_part(part, ["size"])["size"] for part in inputs]
        print(json.dumps({"parts": len(inputs), "files": sum(map(len, rows)), "cores": os.cpu_count()}), flush=True)
        calls = {
            "workers": lambda: print_workers(inputs, top, flags.repeats),
            "overhead": lambda: print_overhead(inputs, top, flags.repeats),
            "curve": lambda: print_curve(inputs, top, flags.sizes),
            "stages": lambda: print_stages(inputs, top),
            "digests": lambda: print_digests(inputs, top),
        }
        for name in sections:
            calls[name]()


if __name__ == "__main__":
    from benchmarks import engine  # under a name that workers and executors find

    if sys.argv[1:2] == ["--child"]:
        engine.child(*sys.argv[2:])
    else:
        engine.main()
