"""Speed, outliers, memory and workers of the quality signals, both profiles.

    python benchmarks/quality_speed.py [DIRECTORY] [--profile refinecode] [--step 1] [--copies 10]

Without a directory it measures the sample in OC_TEST_DATA/filtering (by default ../shared/data/filtering). The released
filter itself is not run: its recorded speed is 28.5 files and 0.40 MB per second of CPU, on a larger sample of the same
kind and another machine. One core, warm; only the part about workers takes more.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import hashlib
import multiprocessing
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter, defaultdict

import numpy as np
import psutil
import zstandard

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from data_prep.quality import records, rules  # noqa: E402
from data_prep.quality.profiles import PROFILES, profile_named  # noqa: E402

RELEASED_FILES_PER_SECOND = 28.5
PATHOLOGICAL = {
    "one line": "x=1;",
    "words": "ab ",
    "braces": "{",
    "nesting": "([{",
    "calls": "a()\n",
    "quotes": "\"'",
    "comments": "/*",
    "tags": "<a b={",
    "declarations": "var a=",
    "labels": "case a:",
}
KINDS = ("py", "js", "ts", "html", "sql", "java", "c", "go", "css", "json", "md")
SIZES = (10_000_000, 1_000_000)  # over the budget of every costly step; and within it


def measure(files: list[tuple[str, bytes]], profile: str) -> list[tuple[str, int, float, bool]]:
    """(language, bytes, seconds, whether a signal failed) of each file."""
    how, groups = profile_named(profile), rules.load(profile=profile)
    for path, data in files[:: max(len(files) // 50, 1)]:  # imports, compiled patterns, caches
        records.record(path, data, how, groups)
    found = []
    for path, data in files:
        start = time.process_time()
        record = records.record(path, data, how, groups)
        seconds = time.process_time() - start
        if record["error"] is None and record["signals"]:
            found.append((record["program_lang"], len(data), seconds, bool(record["signal_errors"])))
    return found


def print_table(profile: str, found: list[tuple[str, int, float, bool]]) -> None:
    files, size = Counter(), Counter()
    seconds: defaultdict[str, float] = defaultdict(float)
    for language, n, time_taken, _ in found:
        for name in (language, "all"):
            files[name] += 1
            size[name] += n
            seconds[name] += time_taken
    rate = files["all"] / seconds["all"]
    print(f"\n{profile}: {rate:,.0f} files/s, {rate / RELEASED_FILES_PER_SECOND:.1f} times the released filter")
    costs = np.array([1e6 * time_taken / n for _, n, time_taken, _ in found if n > 1000])
    median, p99, most = np.percentile(costs, (50, 99, 100)) if len(costs) else [np.nan] * 3
    print(f"microseconds per byte, files over 1 kB: median {median:.2f}, p99 {p99:.2f}, most {most:.2f}; ", end="")
    print(f"{most / median:.0f} times the median; files with failed signals: {sum(failed for *_, failed in found)}")
    print(f"{'language':<28}{'files':>7}{'MB':>9}{'s':>9}{'files/s':>10}{'MB/s':>8}")
    for name, n in files.most_common(16):
        print(
            f"{name:<28}{n:>7,}{size[name] / 1e6:>9.2f}{seconds[name]:>9.2f}{n / seconds[name]:>10,.0f}"
            f"{size[name] / 1e6 / seconds[name]:>8.2f}"
        )


def print_pathological(profile: str) -> None:
    sizes = " and ".join(f"{size / 1e6:g}" for size in SIZES)
    print(f"\n{profile}: seconds of CPU for {sizes} MB of one thing; ! where a signal failed, each with its cause")
    how, groups = profile_named(profile), rules.load(profile=profile)
    print(f"{'':<14}" + "".join(f"{kind:>13}" for kind in KINDS))
    causes: Counter[str] = Counter()
    for name, unit in PATHOLOGICAL.items():
        cells = []
        for kind in KINDS:
            shown = []
            for size in SIZES:
                start = time.process_time()
                found = records.record(f"a.{kind}", (unit * (size // len(unit))).encode(), how, groups)
                failed = found["signal_errors"].values()
                shown.append(f"{time.process_time() - start:.1f}{'!' if failed else ''}")
                causes.update(set(failed))
            cells.append(f"{' '.join(shown):>13}")
        print(f"{name:<14}{''.join(cells)}")
    print("causes:", "; ".join(f"{cause} ({n})" for cause, n in causes.most_common(12)))


def print_workers(profile: str, files: list[tuple[str, bytes]], copies: int) -> None:
    """The command on `copies` of the files, with one worker and with two."""
    print(f"\n{profile}: python -m data_prep.quality on {copies * len(files):,} files")
    with tempfile.TemporaryDirectory() as top:
        for i, (path, data) in enumerate(files * copies):
            target = pathlib.Path(top, "files", str(i // len(files)), path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        digests, walls = set(), []
        for workers in (1, 2):
            out = pathlib.Path(top, f"{workers}.jsonl")
            command = [sys.executable, "-m", "data_prep.quality", "--profile", profile, "--workers", str(workers)]
            start = time.perf_counter()
            process = psutil.Popen([*command, "--out", out, f"{top}/files"], cwd=ROOT, stderr=subprocess.DEVNULL)
            memory, cpu = watch(process)
            walls.append(time.perf_counter() - start)
            digests.add(hashlib.sha256(out.read_bytes()).hexdigest())
            print(f"{workers} workers: {walls[-1]:.1f} s, {cpu:.1f} s of CPU, largest process {memory / 1e6:.0f} MB")
        load = os.getloadavg()[0]
        print(
            f"two workers are {walls[0] / walls[1]:.2f} times one (load {load:.1f} on {os.cpu_count()} cores); ", end=""
        )
        print("same bytes" if len(digests) == 1 else "DIFFERENT BYTES")
    print(f"two loops that share nothing but the machine are {ceiling(profile, files):.2f} times one")


def ceiling(profile: str, files: list[tuple[str, bytes]]) -> float:
    """What two processes are to one where each measures half of the files, started and warm."""
    shares = [files[::2], files[1::2]]
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(seconds_taken, shares, [profile] * 2))
        alone = sum(pool.submit(seconds_taken, share, profile).result() for share in shares)
        return 2 * alone / sum(pool.map(seconds_taken, shares, [profile] * 2))  # the halves are not equally long


def seconds_taken(files: list[tuple[str, bytes]], profile: str) -> float:
    how, groups = profile_named(profile), rules.load(profile=profile)
    start = time.perf_counter()
    for path, data in files:
        records.record(path, data, how, groups)
    return time.perf_counter() - start


def watch(process: psutil.Popen) -> tuple[int, float]:
    """(most resident bytes of any one process below `process`, its own included; seconds of CPU of all) at its end."""
    memory, cpu = 0, {}
    while process.poll() is None:
        for each in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                memory = max(memory, each.memory_info().rss)
                times = each.cpu_times()
                cpu[each.pid] = times.user + times.system
        time.sleep(0.1)
    return memory, sum(cpu.values())


def sample_files(step: int) -> list[tuple[str, bytes]] | None:
    data = pathlib.Path(os.environ.get("OC_TEST_DATA", ROOT.parent / "shared" / "data"))
    archive = data / "filtering" / "sample.tar.zst"
    if not archive.exists():
        return None
    with tempfile.TemporaryDirectory() as directory:
        with zstandard.open(archive, "rb") as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            tar.extractall(directory, filter="data")
        return read_files(directory, step)


def read_files(directory: str, step: int) -> list[tuple[str, bytes]]:
    found = records.list_files(directory)[::step]
    return [(path, pathlib.Path(os.fsdecode(location)).read_bytes()) for location, path in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", nargs="?", help="measure the files below it")
    parser.add_argument("--profile", choices=sorted(PROFILES), action="append", help="default: both")
    parser.add_argument("--step", type=int, default=1, help="measure every n-th file only")
    parser.add_argument("--copies", type=int, default=1, help="of the files, for the part about workers (default: 1)")
    flags = parser.parse_args()
    files = read_files(flags.directory, flags.step) if flags.directory else sample_files(flags.step)
    if files is None:
        print("no sample: name a directory of source files, or set OC_TEST_DATA")
        return
    for profile in flags.profile or sorted(PROFILES):
        found = measure(files, profile)
        if not found:
            print(f"{profile}: none of the {len(files):,} files is source or text in UTF-8; nothing to measure")
            continue
        print_table(profile, found)
        print_pathological(profile)
        print_workers(profile, files, flags.copies)


if __name__ == "__main__":
    main()
