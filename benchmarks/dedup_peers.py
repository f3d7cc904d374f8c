"""A whole fuzzy deduplication beside datatrove's and text-dedup's: time, memory, and what each finds.

    python benchmarks/dedup_peers.py CORPUS [--files N] [--patience 12] [--bands 16] [--rows 128]

CORPUS holds a folder for each package or version of one: forks, S or M from corpora.py. Files are read and exact
duplicates dropped once; then each contender gets the same Parquet files, the same bands and rows of 5-grams and one
process, and writes what it keeps. One that has taken `patience` times as much CPU time as this project is stopped, so
that all files of a large corpus (--files 0) need not take a day. Memory is the largest sum of proportional
set sizes of the processes. Where folders are versions (package-1.2), files of the same path are pairs of known exact
Jaccard similarity: recall is the share of the pairs above the setting's threshold that end up in one cluster, precision
the share of the pairs in one cluster that are above it, or below it by no more than 0.05. Both are given for this
project's 5-grams and for the contender's own.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import os
import pathlib
import pickle
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.engine import Watch  # noqa: E402
from benchmarks.minhash_speed import MALLOC  # noqa: E402
from data_prep import dedup, minhash  # noqa: E402
from data_prep import documents as docs  # noqa: E402
from data_prep.engine import LocalEngine  # noqa: E402
from data_prep.files import write_parquet  # noqa: E402
from data_prep.sampling import draw  # noqa: E402

Clusters = dict[str, str]  # id of every file in a cluster of two or more → name of the cluster
Pairs = dict[tuple[str, str], float]  # ids of two files → their exact Jaccard similarity
Shingles = Callable[[str], Collection]  # the different shingles of a text
NGRAM = 5


def ours(source: pathlib.Path, work: pathlib.Path, bands: int, rows: int) -> Clusters:
    out = epath.Path(work / "out")
    out.mkdir()
    dedup.fuzzy_dedup(out, documents=epath.Path(source), bands=bands, rows=rows, engine=LocalEngine(workers=1))
    table = pq.read_table(work / "out" / "clusters.parquet", columns=["id", "cluster"])
    return dict(zip(table["id"].to_pylist(), table["cluster"].to_pylist(), strict=True))


def our_shingles() -> Shingles:
    return lambda text: minhash.shingles(text, minhash.Scheme()).tolist()


def datatrove(source: pathlib.Path, work: pathlib.Path, bands: int, rows: int) -> Clusters:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import minhash as theirs
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import JsonlWriter

    theirs.load_word_tokenizer = lambda language: type("Split", (), {"word_tokenize": staticmethod(str.split)})
    config = theirs.MinhashConfig(n_grams=NGRAM, num_buckets=bands, hashes_per_bucket=rows)
    folder = {name: str(work / name) for name in ("signatures", "buckets", "removed", "kept", "dropped")}
    steps = [
        (1, [ParquetReader(str(source)), theirs.MinhashDedupSignature(folder["signatures"], config)]),
        (bands, [theirs.MinhashDedupBuckets(folder["signatures"], folder["buckets"], config=config)]),
        (1, [theirs.MinhashDedupCluster(folder["buckets"], folder["removed"], config, save_cluster_id=True)]),
        (
            1,
            [
                ParquetReader(str(source)),
                theirs.MinhashDedupFilter(
                    folder["removed"],
                    exclusion_writer=JsonlWriter(folder["dropped"], compression=None),
                    load_cluster_ids=True,
                ),
                JsonlWriter(folder["kept"], compression=None),
            ],
        ),
    ]
    for i, (tasks, pipeline) in enumerate(steps):
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=str(work / f"log{i}")).run()
    found = {}
    for path in itertools.chain((work / "kept").glob("*.jsonl"), (work / "dropped").glob("*.jsonl")):
        for line in path.open():
            row = json.loads(line)
            if (cluster := row["metadata"].get("minhash_cluster_id", -1)) >= 0:
                found[row["id"]] = str(cluster)
    return found


def datatrove_shingles() -> Shingles:
    from datatrove.pipeline.dedup import minhash as theirs

    theirs.load_word_tokenizer = lambda language: type("Split", (), {"word_tokenize": staticmethod(str.split)})
    step = theirs.MinhashDedupSignature(tempfile.gettempdir(), theirs.MinhashConfig(n_grams=NGRAM))
    return lambda text: step.get_shingles(text).ravel().tolist()


def text_dedup(source: pathlib.Path, work: pathlib.Path, bands: int, rows: int) -> Clusters:
    setting = (
        f"--column text --ngram {NGRAM} --num_perm {bands * rows} --b {bands} --r {rows} --hash_bits 64 --num_proc 1"
    )
    place = [
        "--path",
        str(source),
        "--split",
        "train",
        "--cache_dir",
        str(work / "cache"),
        "--output",
        str(work / "out"),
    ]
    subprocess.run([sys.executable, "-m", "text_dedup.minhash", *place, *setting.split(), "--debug"], check=True)
    ids = [
        i for part in sorted(source.glob("*.parquet")) for i in pq.read_table(part, columns=["id"])["id"].to_pylist()
    ]
    with open(work / "out" / "uf.pkl", "rb") as file:
        union = pickle.load(file)
    return {ids[i]: ids[union.find(i)] for i in union.parent}


def text_dedup_shingles() -> Shingles:
    from text_dedup.minhash import NON_ALPHA
    from text_dedup.utils import ngrams

    return lambda text: list(ngrams(NON_ALPHA.split(text.lower()), NGRAM, NGRAM))


CONTENDERS: dict[str, tuple[Callable[..., Clusters], Callable[[], Shingles]]] = {
    "ours": (ours, our_shingles),
    "datatrove": (datatrove, datatrove_shingles),
    "text-dedup": (text_dedup, text_dedup_shingles),
}


def read_corpus(corpus: pathlib.Path, work: pathlib.Path) -> pathlib.Path:
    """All documents, without exact duplicates."""
    from data_prep.sources import preprocess  # half a second that is not the contenders'

    raw, unique = epath.Path(work / "preprocess"), epath.Path(work / "exact_dedup")
    for directory in (raw, unique):
        directory.mkdir()
    preprocess(raw, sources=[str(path) for path in sorted(corpus.iterdir()) if path.is_dir()])
    dedup.exact_dedup(unique, documents=raw)
    return pathlib.Path(unique)


def choose(unique: pathlib.Path, chosen: pathlib.Path, limit: int) -> pathlib.Path:
    """About `limit` of the documents, the same ones every time; all of them with 0."""
    chosen.mkdir()
    share = limit / size_and_count(unique)[1] if limit else 1
    for number, table in enumerate(docs.read(epath.Path(unique), batch_rows=4096)):
        drawn = [draw("peers", path) < share for path in table["path"].to_pylist()]  # all versions of a file or none
        write_parquet(iter([table.filter(pa.array(drawn))]), epath.Path(chosen / f"part-{number:05d}.parquet"))
    return chosen


def size_and_count(source: pathlib.Path) -> tuple[float, int]:
    """(megabytes, files) of the kept documents."""
    sizes = [size for table in docs.read(epath.Path(source), ["size"]) for size in table["size"].to_pylist()]
    return sum(sizes) / 1e6, len(sizes)


def measure(
    name: str, source: pathlib.Path, place: pathlib.Path, bands: int, rows: int, limit: float
) -> tuple[Clusters | None, float]:
    """Runs a contender in a process of its own, which may write to `place`, and prints what it took.

    Returns its clusters, None if it fails or takes more than `limit` seconds of CPU, and those seconds.
    """
    place.mkdir()
    command = [sys.executable, __file__, str(source), "--contender", name, "--work", str(place)]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    log = place / "log.txt"
    with log.open("w") as sink:
        command += [f"--bands={bands}", f"--rows={rows}"]
        process = subprocess.Popen(command, stdout=sink, stderr=sink, env=os.environ | MALLOC)
        peak, watched = Watch(process, limit).join()
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if watched > limit:
        print(f"{name:<12}{wall:>9.1f} s{watched:>9.1f} CPU s{peak:>8.2f} GB when it was stopped", flush=True)
        return None, watched
    if process.returncode:
        print(f"{name:<12} failed or missing: {log.read_text().strip().splitlines()[-1]}")
        return None, cpu
    found = json.loads((place / "clusters.json").read_text())
    print(f"{name:<12}{wall:>9.1f} s{cpu:>9.1f} CPU s{peak:>8.2f} GB{len(found):>9,} files in clusters", flush=True)
    return found, cpu


def similarities(source: pathlib.Path, shingles: Shingles) -> Pairs:
    """Of the files of one path in two versions of a package."""

    def rows(*columns: str) -> Iterator[tuple[tuple[str, str], dict]]:
        for table in docs.read(epath.Path(source), ["source", "path", *columns]):
            for row in table.to_pylist():
                yield (re.split(r"[-=]", row["source"])[0], row["path"]), row

    versions = collections.Counter(key for key, _ in rows())
    files: dict[tuple[str, str], list[tuple[str, np.ndarray]]] = {}
    for key, row in rows("id", "text"):
        if versions[key] > 1:
            hashes = np.unique(np.fromiter(map(hash, shingles(row["text"])), np.int64))
            files.setdefault(key, []).append((row["id"], hashes))
    return {
        (a, b): minhash.jaccard(x, y)
        for versions in files.values()
        for (a, x), (b, y) in itertools.combinations(versions, 2)
    }


def quality(clusters: Clusters, pairs: Pairs, threshold: float) -> str:
    joined = {pair: pair[0] in clusters and clusters[pair[0]] == clusters.get(pair[1]) for pair in pairs}
    alike = [pair for pair, jaccard in pairs.items() if jaccard >= threshold]
    found = [pair for pair, is_joined in joined.items() if is_joined]
    recall = sum(joined[pair] for pair in alike) / max(len(alike), 1)
    precision = sum(pairs[pair] >= threshold - 0.05 for pair in found) / max(len(found), 1)
    return f"recall {recall:.3f} of {len(alike):,} pairs, precision {precision:.3f} of {len(found):,}"


def run_one(flags: argparse.Namespace) -> None:
    work = pathlib.Path(flags.work)
    clusters = CONTENDERS[flags.contender][0](flags.corpus, work, flags.bands, flags.rows)
    (work / "clusters.json").write_text(json.dumps(clusters))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=pathlib.Path, nargs="?", default=pathlib.Path("corpora/forks"))
    parser.add_argument("--files", type=int, default=2000, help="about as many files, after exact ones; 0: all")
    parser.add_argument("--patience", type=float, default=12, help="times this project's CPU time that a peer may take")
    parser.add_argument("--scratch", help="where to write (default: a temporary directory)")
    parser.add_argument("--bands", type=int, default=16)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.contender:
        return run_one(flags)
    if not flags.corpus.is_dir():
        print(f"no corpus at {flags.corpus}: build it with benchmarks/corpora.py")
        return
    work = pathlib.Path(tempfile.mkdtemp(prefix="dedup_peers", dir=flags.scratch))
    bands, rows = flags.bands, flags.rows
    threshold = (1 - 0.5 ** (1 / bands)) ** (1 / rows)
    try:
        source = choose(read_corpus(flags.corpus, work), work / "input", flags.files)
        print("{:.1f} MB, {:,} files; ".format(*size_and_count(source)), end="")
        print(f"{bands} x {rows}, threshold {threshold:.3f}; load {os.getloadavg()[0]:.1f}", flush=True)
        by_ours, limit = similarities(source, our_shingles()), float("inf")
        for name, (_, shingles) in CONTENDERS.items():
            clusters, cpu = measure(name, source, work / name, bands, rows, limit)
            if name == "ours":
                limit = flags.patience * cpu
            if clusters is not None and by_ours:
                print(f"{'':<12}{quality(clusters, by_ours, threshold)}")
                by_theirs = similarities(source, shingles())
                print(f"{'':<12}{quality(clusters, by_theirs, threshold)} by its own 5-grams", flush=True)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
