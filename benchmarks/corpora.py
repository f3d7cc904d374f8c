"""Builds the corpora of the other benchmarks from public packages, the same files every time.

    python benchmarks/corpora.py OUT [S M forks synthetic]

    OUT/S           170,000 files, 1.3 GB: the sources of 19 Debian packages in 38 languages, a folder for each
    OUT/M           S and the C# compiler and class library of mono: 217,000 files, 1.8 GB
    OUT/forks       six versions of Django and two of sympy: real forks, dense around any threshold of similarity
    OUT/synthetic   Parquet with the columns of The Stack v2: files of S as repositories and four forks of each, with
                    stars and commit times; OUT/synthetic_truth.parquet tells what was done to every file

Packages come through apt-get (a sources list of its own, the machine's stays as it is) and pip. corpora.sha256 beside
this file pins what they deliver; a corpus that is there already is left alone.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from data_prep.sampling import draw  # noqa: E402

PINS = pathlib.Path(__file__).with_name("corpora.sha256")
SUITE = "bookworm"
S = (
    "kotlin kubernetes rails python3.11 git netty libspring-java scala postgresql-15 node-typescript wordpress "
    "golang-1.19 keepass2 dart elixir-lang lua5.4 bash-completion ocaml perl"
).split()
DJANGO = ["4.0", "4.1", "4.2", "5.0", "5.1", "5.2"]
FORKS = [f"django=={version}" for version in DJANGO] + ["sympy==1.12", "sympy==1.13.3"]

BASE_FILES = 8000  # of S, that the synthetic repositories hold
COPIES = 4  # forks of each repository
# What a fork does to a file: (share of files, what); an edit says the share of its lines. The rest is left out.
FATES = [
    (0.6, "exact"),
    (0.08, "licence"),
    (0.08, "indent"),
    (0.07, "edit 1 %"),
    (0.07, "edit 2 %"),
    (0.06, "edit 5 %"),
]
PART_ROWS = 4096
TRUTH = pa.schema(
    [("repo", pa.string()), ("path", pa.string()), ("content_sha256", pa.string()), ("origin_repo", pa.string())]
    + [("origin_sha256", pa.string()), ("kind", pa.string())]
)
STACK = pa.schema(
    [("repo_name", pa.string()), ("path", pa.string()), ("revision_id", pa.string()), ("content", pa.string())]
    + [("star_events_count", pa.int32()), ("committer_date", pa.timestamp("s", tz="UTC")), ("length_bytes", pa.int64())]
)


def download_sources(packages: list[str], out: pathlib.Path, mirror: str) -> None:
    """The upstream tarballs of Debian source packages."""
    state = out.parent / "apt"
    for directory in (out, state / "lists" / "partial", state / "cache" / "archives" / "partial"):
        directory.mkdir(parents=True, exist_ok=True)
    (state / "sources.list").write_text(f"deb-src {mirror} {SUITE} main\n")
    apt = ["apt-get", "-qq", "-o", f"Dir::Etc::sourcelist={state}/sources.list", "-o", "Dir::Etc::sourceparts=-"]
    apt += ["-o", f"Dir::State::lists={state}/lists", "-o", f"Dir::Cache={state}/cache"]
    apt += ["-o", "APT::Sandbox::User=root"]  # the directory may be closed to the user _apt
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, "source", "--download-only", "--tar-only", *packages], check=True, cwd=out)


def download_wheels(requirements: list[str], out: pathlib.Path) -> None:
    for requirement in requirements:  # one by one: pip takes one version of a distribution at a time
        flags = ["--quiet", "--no-deps", "--only-binary=:all:", "--dest", os.fspath(out)]
        subprocess.run([sys.executable, "-m", "pip", "download", *flags, requirement], check=True)


def check_pins(downloads: pathlib.Path, pin: bool) -> None:
    """Raises ValueError if a file of `downloads` is not the one that was pinned; with `pin`, pins them instead."""
    found = {path.name: sha256(path.read_bytes()) for path in sorted(downloads.iterdir())}
    if pin:
        PINS.write_text("".join(f"{digest}  {name}\n" for name, digest in found.items()))
    pinned = {name: digest for digest, name in (line.split("  ") for line in PINS.read_text().splitlines())}
    if wrong := sorted(name for name, digest in found.items() if pinned.get(name) != digest):
        raise ValueError(f"not the pinned {', '.join(wrong)}: the archive has moved on; --pin takes what it has now")


def unpack(archive: pathlib.Path, out: pathlib.Path, *members: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    command = ["unzip", "-q", archive, "-d", out] if archive.suffix == ".whl" else ["tar", "-xf", archive, "-C", out]
    if members:
        command += ["--wildcards", *members]
    subprocess.run(command, check=True)


def build_s(out: pathlib.Path, downloads: pathlib.Path) -> None:
    for package in S:
        for archive in downloads.glob(f"{package}_*.orig.tar.*"):
            unpack(archive, out / package)


def build_m(out: pathlib.Path, downloads: pathlib.Path) -> None:
    shutil.copytree(out.parent / "S", out, copy_function=os.link, symlinks=True)
    (archive,) = downloads.glob("mono_*.orig.tar.*")
    unpack(archive, out / "mono", "*/mcs/*")


def build_forks(out: pathlib.Path, downloads: pathlib.Path) -> None:
    for requirement in FORKS:
        name, version = requirement.split("==")
        (archive,) = (path for path in downloads.iterdir() if path.name.lower().startswith(f"{name}-{version}-"))
        unpack(archive, out / f"{name}-{version}")


def build_synthetic(out: pathlib.Path, downloads: pathlib.Path) -> None:
    """Repositories and their forks; see FATES. Everything is drawn by a hash of names and content."""
    out.mkdir()
    files = sorted(base_files(out.parent / "S"), key=lambda file: draw("base", "/".join(file[:2])))[:BASE_FILES]
    rows = [row for file in sorted(files) for row in file_and_forks(*file)]
    table = [{name: row[name] for name in STACK.names} for row in rows]
    for start in range(0, len(rows), PART_ROWS):
        part = pa.Table.from_pylist(table[start : start + PART_ROWS], STACK)
        pq.write_table(part, out / f"part-{start // PART_ROWS:05d}.parquet", compression="zstd")
    truth = [{name: row["repo_name" if name == "repo" else name] for name in TRUTH.names} for row in rows]
    pq.write_table(pa.Table.from_pylist(truth, TRUTH), out.parent / "synthetic_truth.parquet", compression="zstd")


def base_files(corpus: pathlib.Path) -> Iterator[tuple[str, str, str]]:
    """(package, path, text) of the text files of 200 bytes to 200 kB, each content once."""
    seen = set()
    for package in sorted(path.name for path in corpus.iterdir()):
        for path in sorted((corpus / package).rglob("*")):
            if path.is_file() and not path.is_symlink() and 200 <= path.stat().st_size <= 200_000:
                data = path.read_bytes()
                digest = hashlib.sha256(data).digest()
                name = os.fsencode(path.relative_to(corpus / package))
                if digest not in seen and b"\0" not in data and is_utf8(data) and is_utf8(name):
                    seen.add(digest)
                    yield package, name.decode(), data.decode()


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def file_and_forks(package: str, path: str, text: str) -> Iterator[dict]:
    for copy in range(COPIES + 1):
        repo = f"upstream/{package}" if copy == 0 else f"fork{copy}/{package}"
        kind = "original" if copy == 0 else fate(draw("fate", f"{repo}/{path}"))
        if kind is None:
            continue
        changed = change(text, kind, random.Random(f"{repo}/{path}"), path)
        same = copy > 0 and changed == text  # nothing to change, as in a file without indentation
        data = changed.encode()
        yield facts(repo) | {
            "repo_name": repo,
            "path": path,
            "content": changed,
            "length_bytes": len(data),
            "content_sha256": sha256(data),
            "origin_repo": f"upstream/{package}",
            "origin_sha256": sha256(text.encode()),
            "kind": "exact" if same else kind,
        }


def fate(number: float) -> str | None:
    for share, kind in FATES:
        if number < share:
            return kind
        number -= share
    return None


def facts(repo: str) -> dict:
    """Stars and head commit of a repository: few have many, one in ten is unknown, and ties are common."""
    known = draw("known", repo) > 0.1
    day = int(draw("day", repo) * 3000)
    return {
        "revision_id": sha256(repo.encode())[:40],
        "star_events_count": int(1 / (draw("stars", repo) + 1e-4)) - 1 if known else None,
        "committer_date": datetime.datetime(2015, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(days=day),
    }


def change(text: str, kind: str, randomness: random.Random, path: str) -> str:
    """`text` as a fork would have it. Lines keep their ends."""
    if kind == "licence":
        return change_licence(text, path)
    lines = text.splitlines(keepends=True)
    if kind == "indent":
        return "".join(re.sub(r"^[ \t]+", lambda indent: reindent(indent[0]), line) for line in lines)
    if kind.startswith("edit"):
        share = int(kind.split()[1]) / 100
        candidates = [i for i, line in enumerate(lines) if re.search(r"\w", line)]
        for i in randomness.sample(candidates, min(len(candidates), max(1, round(share * len(lines))))):
            words = list(re.finditer(r"\w+", lines[i]))
            word = randomness.choice(words)
            lines[i] = f"{lines[i][: word.start()]}w{randomness.getrandbits(32):08x}{lines[i][word.end() :]}"
        return "".join(lines)
    return text


def reindent(indent: str) -> str:
    return indent.replace("\t", "    ") if "\t" in indent else indent.replace("    ", "\t")


def change_licence(text: str, path: str) -> str:
    """Another holder in the first 40 lines or, where there is none, another header."""
    holder = "Copyright (c) 2019 the maintainers of this fork. All rights reserved."
    lines = text.splitlines(keepends=True)
    head = re.sub(r"(?i)copyright[^\n]*", holder, "".join(lines[:40]))
    if head != "".join(lines[:40]):
        return head + "".join(lines[40:])
    sign = "#" if path.endswith((".py", ".rb", ".sh", ".pl", ".pm", ".t", ".ex", ".exs", ".yml", ".yaml")) else "//"
    header = [holder, "Use of this source is governed by the licence in the file LICENCE", "at the top of the tree."]
    return "".join(f"{sign} {line}\n" for line in header) + text


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


BUILDERS = {"S": build_s, "M": build_m, "forks": build_forks, "synthetic": build_synthetic}
NEEDS_S = {"M", "synthetic"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path, help="directory that takes the corpora")
    parser.add_argument("corpora", nargs="*", help=f"which of {', '.join(BUILDERS)}; all by default")
    parser.add_argument("--mirror", default="http://deb.debian.org/debian", help="Debian archive (default %(default)s)")
    parser.add_argument("--pin", action="store_true", help="write corpora.sha256 from what was downloaded")
    flags = parser.parse_args()
    if unknown := sorted(set(flags.corpora) - set(BUILDERS)):
        parser.error(f"no corpus {', '.join(unknown)}; there are {', '.join(BUILDERS)}")
    wanted = set(flags.corpora or BUILDERS)
    wanted |= {"S"} if wanted & NEEDS_S else set()
    missing = [name for name in BUILDERS if name in wanted and not (flags.out / name).exists()]
    if missing and not all(map(shutil.which, ("apt-get", "tar", "unzip"))):
        sys.exit("skipped: this needs apt-get of Debian or a relative of it, tar and unzip")
    downloads = flags.out / "downloads"
    if missing:
        packages = (S if "S" in missing else []) + (["mono"] if "M" in missing else [])
        downloads.mkdir(parents=True, exist_ok=True)
        if packages:
            download_sources(packages, downloads, flags.mirror)
        if "forks" in missing:
            download_wheels(FORKS, downloads)
        check_pins(downloads, flags.pin)
    for name in missing:
        building = flags.out / f".{name}.building"
        shutil.rmtree(building, ignore_errors=True)
        BUILDERS[name](building, downloads)
        building.rename(flags.out / name)
    for name in sorted(wanted):
        sizes = [path.stat().st_size for path in (flags.out / name).rglob("*") if path.is_file()]
        print(f"{name:<10}{len(sizes):>9,} files {sum(sizes) / 1e6:>9,.1f} MB  {flags.out / name}")


if __name__ == "__main__":
    main()
