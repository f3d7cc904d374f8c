"""What the engine costs: workers, overhead, memory and time against the size of the corpus, and what 10⁹ files take.

    python benchmarks/engine.py OUT/synthetic [workers] [overhead] [curve] [stages] [digests]

The first argument is a directory of Parquet tables that `preprocess` reads, such as corpora.py makes. CPU time and
memory are those of the whole process tree, memory as the sum of proportional set sizes.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
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

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from data_prep import dedup, documents, sampling, sources, tasks, transforms  # noqa: E402
from data_prep.engine import LocalEngine  # noqa: E402
from data_prep.files import content_digest, write_parquet  # noqa: E402
from data_prep.quality import stages  # noqa: E402
from data_prep.spark import SparkEngine  # noqa: E402

FILE_BYTES = 5000  # of a made-up file, about the mean of source code
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


def print_workers(inputs: list[epath.Path], top: epath.Path, repeats: int) -> None:
    """One worker and two, turn by turn."""
    walls: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(repeats):
        for workers, found in walls.items():
            found.append(timed(functools.partial(map_and_reduce, LocalEngine(workers), inputs, top))[0])
    one, two = (statistics.median(walls[n]) for n in (1, 2))
    print(f"\nworkers: one {one:.1f} s, two {two:.1f} s: {one / two:.2f} times")


def print_overhead(inputs: list[epath.Path], top: epath.Path, repeats: int) -> None:
    """CPU time of each primitive in this process and of a loop that does the same with nothing around it."""
    (mapped,) = fresh(top, "mapped")
    engine = LocalEngine(1)
    engine.map(count_and_hash, inputs, mapped, label="map")
    shuffled = documents.parts(mapped)

    def bare_map(out: epath.Path) -> None:
        for part in inputs:
            with pq.ParquetWriter(out / part.name, count_and_hash(pq.read_schema(part).empty_table()).schema) as writer:
                for batch in pq.ParquetFile(part).iter_batches(1024):
                    writer.write_table(count_and_hash(pa.Table.from_batches([batch])))

    def bare_reduce(out: epath.Path) -> None:
        pq.write_table(one_of_each(pa.concat_tables(pq.read_table(part) for part in shuffled)), out / "all.parquet")

    pairs = {
        "map": (bare_map, lambda out: engine.map(count_and_hash, inputs, out, label="map")),
        "reduce": (bare_reduce, lambda out: engine.reduce(one_of_each, shuffled, out, key="sha", buckets=0, label="r")),
    }
    for name, calls in pairs.items():
        seconds: list[list[float]] = [[], []]
        for _ in range(repeats):
            for found, call in zip(seconds, calls, strict=True):
                (out,) = fresh(top, "out")
                found.append(timed(functools.partial(call, out))[1])
        bare, ours = map(statistics.median, seconds)
        print(f"{name}: bare loop {bare:.2f} s of CPU, engine {ours:.2f} s: {100 * (ours / bare - 1):+.1f} %")


def make_up(inputs: list[epath.Path], out: epath.Path, files: int) -> None:
    """Documents of about FILE_BYTES each, cut from the texts of `inputs`; every third content comes twice."""
    texts = [text for part in inputs[:4] for text in documents.read_part(part, ["text"])["text"].to_pylist()]
    text = "".join(filter(None, texts))
    for first in range(0, files, PART_FILES):
        numbers = range(first, min(first + PART_FILES, files))
        contents = [n - n % 2 if n % 3 == 0 else n for n in numbers]
        starts = [n * 7919 * 13 % (len(text) - FILE_BYTES) for n in contents]
        texts = [f"{n}\n{text[start : start + FILE_BYTES]}" for n, start in zip(contents, starts, strict=True)]
        table = pa.table({"path": [f"{n}" for n in numbers], "text": pa.array(texts, pa.large_string())})
        write_parquet(iter([table]), out / f"part-{first // PART_FILES:05d}.parquet")


class Watch:
    """Looks at a process and those below it until it ends: largest sum of proportional set sizes, and CPU time."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.peak, self._cpu, self._process = 0.0, {}, process
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while self._process.poll() is None:
            total = 0
            try:
                top = psutil.Process(self._process.pid)
                for process in (top, *top.children(recursive=True)):
                    total += process.memory_full_info().pss
                    self._cpu[process.pid] = sum(process.cpu_times()[:2])
            except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
                pass
            self.peak = max(self.peak, total / 1e9)
            time.sleep(0.1)

    def join(self) -> tuple[float, float]:
        """(GB, seconds of CPU)"""
        self._thread.join()
        return self.peak, sum(self._cpu.values())


def print_curve(inputs: list[epath.Path], top: epath.Path, sizes: list[int]) -> None:
    print(
        f"\n{'files':>10}{'GB':>7}{'wall s':>9}{'CPU s':>9}{'MB/CPU s':>10}{'peak GB':>9}   map and reduce, two workers"
    )
    for files in sizes:
        (made,) = fresh(top, "made-up")
        make_up(inputs, made, files)
        command = [sys.executable, __file__, "--child", os.fspath(made), os.fspath(top / "curve")]
        start = time.perf_counter()
        peak, cpu = Watch(subprocess.Popen(command)).join()
        wall, size = time.perf_counter() - start, files * FILE_BYTES / 1e9
        rate = 1e3 * size / cpu
        print(f"{files:>10,}{size:>7.2f}{wall:>9.1f}{cpu:>9.1f}{rate:>10.0f}{peak:>9.2f}", flush=True)
        made.rmtree()


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
    sample = [(os.fspath(part), content_digest(part)) for part in inputs[:8]]
    shuffled = sum(map(len, tasks.split_group(sample, "content_sha256", 64)))
    rows = sum(pq.read_metadata(part).num_rows for part in inputs[:8])
    size, terabytes = shuffled / rows, shuffled / rows * STACK_FILES / 1e12
    print(f"all {total:,.0f} core-hours; exact_dedup shuffles {size:,.0f} bytes a file: {terabytes:.1f} TB")


def print_digests(inputs: list[epath.Path], top: epath.Path) -> None:
    engines = {"one worker": LocalEngine(1), "two workers": LocalEngine(2), "Spark": SparkEngine()}
    found = {name: map_and_reduce(engine, inputs, top) for name, engine in engines.items()}
    print("\n" + "  ".join(f"{name} {digest}" for name, digest in found.items()))
    if len(set(found.values())) > 1:
        sys.exit("the engines differ")


def child(made: str, top: str) -> None:
    map_and_reduce(LocalEngine(2), documents.parts(epath.Path(made)), epath.Path(top))


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
