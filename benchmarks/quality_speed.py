"""Files per second of CPU of the quality signals, both profiles, one core.

    python benchmarks/quality_speed.py [DIRECTORY] [--profile refinecode] [--step 1]

Without a directory it measures the sample in OC_TEST_DATA/filtering (by default ../shared/data/filtering). The released
filter does 28.5 files and 0.40 MB per second of CPU on a larger sample of the same kind.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import tarfile
import tempfile
import time
from collections import Counter

import zstandard

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from data_prep.quality import records, rules  # noqa: E402
from data_prep.quality.profiles import PROFILES, profile_named  # noqa: E402

RELEASED_FILES_PER_SECOND = 28.5
PATHOLOGICAL = {  # 10 MB each
    "one line": ("x=1;" * 2_500_000, "a.js"),
    "ab ab ab": ("ab " * 3_333_333, "a.java"),
    "braces": ("{" * 10_000_000, "a.c"),
    "nested": ("(" * 5_000_000 + ")" * 5_000_000, "a.py"),
    "calls": ("a()\n" * 2_500_000, "a.cpp"),
    "comment openers": ("/*" * 5_000_000, "a.css"),
    "tags": ("<script>" * 1_250_000, "a.html"),
    "quotes": ("\"'" * 5_000_000, "a.go"),
}
# The most that the costly steps take: the same files, as long as the budget allows.
BUDGET = 2_000_000


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
    files, size, seconds = Counter(), Counter(), Counter()
    for language, n, time_taken, _ in found:
        for name in (language, "all"):
            files[name] += 1
            size[name] += n
            seconds[name] += time_taken
    rate = files["all"] / seconds["all"]
    print(f"\n{profile}: {rate:,.0f} files/s, {rate / RELEASED_FILES_PER_SECOND:.1f} times the released filter")
    costs = sorted(time_taken / n for _, n, time_taken, _ in found if n > 1000)
    print(f"costliest file over 1 kB: {costs[-1] / costs[len(costs) // 2]:.0f} times the median per byte; ", end="")
    print(f"files with failed signals: {sum(failed for *_, failed in found)}")
    print(f"{'language':<28}{'files':>7}{'MB':>9}{'s':>9}{'files/s':>10}{'MB/s':>8}")
    for name, n in files.most_common(16):
        print(
            f"{name:<28}{n:>7,}{size[name] / 1e6:>9.2f}{seconds[name]:>9.2f}{n / seconds[name]:>10,.0f}"
            f"{size[name] / 1e6 / seconds[name]:>8.2f}"
        )


def print_pathological(profile: str) -> None:
    print(f"\n{profile}: seconds of CPU for files made to be slow, 10 MB and {BUDGET / 1e6:g} MB")
    how, groups = profile_named(profile), rules.load(profile=profile)
    for name, (text, path) in PATHOLOGICAL.items():
        times = []
        for data in (text.encode(), text[:BUDGET].encode()):
            start = time.process_time()
            records.record(path, data, how, groups)
            times.append(time.process_time() - start)
        print(f"{name:<18}{times[0]:>8.2f}{times[1]:>8.2f}")


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
    parser.add_argument("--pathological", action="store_true", help="measure files made to be slow as well")
    flags = parser.parse_args()
    files = read_files(flags.directory, flags.step) if flags.directory else sample_files(flags.step)
    if files is None:
        print("no sample: name a directory of source files, or set OC_TEST_DATA")
        return
    for profile in flags.profile or sorted(PROFILES):
        print_table(profile, measure(files, profile))
        if flags.pathological:
            print_pathological(profile)


if __name__ == "__main__":
    main()
