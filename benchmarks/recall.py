"""How much of a web of known truth the recall finds, round by round, how exactly code survives, and how fast it is.

    python benchmarks/recall.py [--work DIR] [--pages 400]

The web is made of Debian's documentation packages: each is a domain, code-related or not, in English or Chinese, and
goes into a WARC file. The seed is a part of the pages of a few domains. What is measured are the others: those that the
recall crawls, and some that it never sees, which are scored with the classifier of every round.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import html.parser
import io
import json
import multiprocessing
import pathlib
import re
import subprocess
import sys
import tarfile
import time
import tomllib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from etils import epath
from fastwarc.stream_io import GzipWriter
from fastwarc.warc import WarcRecord, WarcRecordType

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from data_prep import documents as docs  # noqa: E402
from data_prep.engine import LocalEngine  # noqa: E402
from data_prep.files import write_parquet  # noqa: E402
from data_prep.sampling import draw  # noqa: E402
from data_prep.sources import preprocess  # noqa: E402
from data_prep.web import batches, classifier, urls  # noqa: E402
from data_prep.web.pages import web_pages  # noqa: E402
from data_prep.web.recall import recall  # noqa: E402

SEED, CRAWL, OUTSIDE = "seed", "crawl", "outside"
# package → (domain, whether it is about code, seed | crawl | outside, directory above its pages)
WEB = {
    "python3.11-doc": ("docs.python.org", True, SEED, "html"),
    "nodejs-doc": ("nodejs.org", True, SEED, "api"),
    "libreoffice-help-en-us": ("help.libreoffice.org", False, SEED, "text"),
    "anarchism": ("anarchistfaq.org", False, SEED, "html"),
    "cppreference-doc-en-html": ("en.cppreference.com", True, CRAWL, "en"),
    "postgresql-doc-15": ("postgresql.org", True, CRAWL, "html"),
    "sqlite3-doc": ("sqlite.org", True, CRAWL, "sqlite3"),
    "python-django-doc": ("docs.djangoproject.com", True, CRAWL, "html"),
    "libreoffice-help-zh-cn": ("help.libreoffice.cn", False, SEED, "text"),
    "gimp-help-en": ("docs.gimp.org", False, CRAWL, "en"),
    "gimp-help-zh-cn": ("docs.gimp.cn", False, CRAWL, "zh_CN"),
    "debian-history": ("debian-history.org", False, CRAWL, "docs"),
    "cmake-doc": ("cmake.org", True, OUTSIDE, "html"),
    "python-sqlalchemy-doc": ("docs.sqlalchemy.org", True, OUTSIDE, "html"),
    "gimp-help-fr": ("docs.gimp.fr", False, OUTSIDE, "fr"),
    "libreoffice-help-zh-tw": ("help.libreoffice.tw", False, OUTSIDE, "text"),
}
CODE = {domain for domain, code, _, _ in WEB.values() if code}
NOBODY = pathlib.Path(__file__).parents[1] / "data_prep" / "web" / "code_urls.toml"
WORK = pathlib.Path(__file__).parents[1] / "out" / "benchmarks" / "recall"
SEED_PAGES = 250  # of each seed domain
EXACT_PAGES = 200


def fetch(package: str, cache: pathlib.Path) -> pathlib.Path:
    """The package file, downloaded by apt if it is not there."""
    cache.mkdir(parents=True, exist_ok=True)
    if not (found := list(cache.glob(f"{package}_*.deb"))):
        try:
            subprocess.run(["apt-get", "download", "-q", package], cwd=cache, check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"skipped: the pages come from Debian's packages, and apt-get does not fetch {package} ({error})")
        found = list(cache.glob(f"{package}_*.deb"))
    return found[0]


def pages(package: str, above: str, cache: pathlib.Path) -> Iterator[tuple[str, bytes]]:
    """(path, HTML) of the pages of a package."""
    stream = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(fetch(package, cache))], stdout=subprocess.PIPE)
    with tarfile.open(fileobj=stream.stdout, mode="r|") as archive:
        for member in archive:
            if member.isfile() and member.name.endswith((".html", ".htm")) and "/sbasic/" not in member.name:
                directory, _, path = member.name.partition(f"/{above}/")
                file = archive.extractfile(member)
                if file and path and directory:
                    yield path, file.read()
    stream.wait()


def write_web(work: pathlib.Path, limit: int) -> None:
    """Writes crawl.warc.gz, with the pages of the seed, and outside.warc.gz."""
    for name, groups in (("crawl", (SEED, CRAWL)), ("outside", (OUTSIDE,))):
        target = work / f"{name}.warc.gz"
        if target.exists():
            continue
        temporary = target.with_suffix(".tmp")
        with open(temporary, "wb") as file:
            for package, (domain, _, group, above) in WEB.items():
                if group in groups:
                    found = sorted(pages(package, above, work / "packages"), key=lambda page: draw("web", page[0]))
                    for path, content in found[: limit or None]:
                        file.write(_record(f"https://{domain}/{path}", content))
                    print(f"{domain:26} {min(len(found), limit or len(found)):6} pages of {len(found)}")
        temporary.rename(target)


def _record(url: str, content: bytes) -> bytes:
    record = WarcRecord()
    record.init_headers(WarcRecordType.response)
    record.headers["WARC-Target-URI"] = url
    record.headers["Content-Type"] = "application/http; msgtype=response"
    record.headers["WARC-Date"] = "2024-01-01T00:00:00Z"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"
    record.set_bytes_content(head + content)
    sink = io.BytesIO()
    member = GzipWriter(sink)
    record.write(member)
    member.close()
    return sink.getvalue()


def write_seed(work: epath.Path) -> None:
    """Judged pages: some of each seed domain, kept where they are about code."""
    (work / "seed").mkdir(exist_ok=True)
    table = pa.concat_tables(list(docs.read(work / "pages_crawl")))
    rows = []
    for domain, code, group, _ in WEB.values():
        if group == SEED:
            found = [row for row in table.to_pylist() if row["domain"] == domain]
            found.sort(key=lambda row: draw("seed", row["id"]))
            rows += [row | {"reasons": [] if code else ["not_code"]} for row in found[:SEED_PAGES]]
    write_parquet(iter([pa.Table.from_pylist(rows, table.schema)]), work / "seed" / "part-00000.parquet")


def stage(function: Any, out: epath.Path, **arguments: Any) -> dict[str, Any]:
    """Runs a stage once; a second call reads what the first returned."""
    done = out / "result.json"
    if not done.exists():
        out.mkdir(parents=True, exist_ok=True)
        start, cpu = time.monotonic(), time.process_time()
        result = function(out, **arguments)
        print(f"{out.name}: {time.monotonic() - start:.0f} s, {time.process_time() - cpu:.0f} s CPU of this process")
        done.write_text(json.dumps(result))
    return json.loads(done.read_text())


def write_person(work: epath.Path, target: pathlib.Path) -> None:
    """What a person who knows the truth makes of the proposals of all rounds."""
    lists: dict[str, list[str]] = {"code": [], "rejected": []}
    for proposals in sorted((work / "recall").glob("round-*/proposals.toml")):
        for patterns in tomllib.loads(proposals.read_text()).values():
            for pattern in patterns:
                lists["code" if urls.domain(pattern) in CODE else "rejected"].append(pattern)
    target.write_text("".join(f"{name} = {json.dumps(sorted(set(found)))}\n" for name, found in lists.items()))


def report_rounds(work: epath.Path, out: epath.Path, rounds: list[dict[str, Any]]) -> None:
    seeds = {domain for domain, _, group, _ in WEB.values() if group == SEED}
    tables = {name: pa.concat_tables(list(docs.read(work / f"pages_{name}"))) for name in ("crawl", "outside")}
    for number in rounds:
        directory = out / f"round-{number['round']}"
        threshold = number["heldout"]["score"]
        print(f"round {number['round']}: " + json.dumps({k: v for k, v in number.items() if k != "round"}))
        for name, table in tables.items():
            scored = batches.scored(
                table,
                segmenter=str(out / "segmenter.model"),
                model=str(directory / "classifier.bin"),
                digest="",
            )
            rows = [row for row in scored.select(["domain", "score"]).to_pylist() if row["domain"] not in seeds]
            hits = [row for row in rows if row["score"] >= threshold]
            right = sum(row["domain"] in CODE for row in hits)
            code = sum(row["domain"] in CODE for row in rows)
            print(f"  {name}: recall {right / code:.4f}, precision {right / max(len(hits), 1):.4f}")
            shares = []
            for domain in sorted({row["domain"] for row in rows}):
                scores = [row["score"] >= threshold for row in rows if row["domain"] == domain]
                shares.append(f"{domain} {100 * sum(scores) / len(scores):.1f} % of {len(scores)}")
            print("    " + ", ".join(shares))
        found = {
            r["domain"] for p in docs.parts(directory / "domains") for r in docs.read_part(p).to_pylist() if r["code"]
        }
        present = {domain for domain, _, group, _ in WEB.values() if group != OUTSIDE}
        print(f"  domains: missed {sorted(CODE & present - found)}, wrong {sorted(found - CODE)}")


class _Preformatted(html.parser.HTMLParser):
    """Texts of the outermost <pre> elements, by Python's parser."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.depth, self.blocks = 0, []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "pre":
            self.depth += 1
            if self.depth == 1:
                self.blocks.append("")
        elif tag == "br" and self.depth:
            self.blocks[-1] += "\n"

    def handle_endtag(self, tag: str) -> None:
        if tag == "pre" and self.depth:
            self.depth -= 1

    def handle_data(self, data: str) -> None:
        if self.depth:
            self.blocks[-1] += data


def report_exact(work: epath.Path) -> None:
    raw = {row["id"]: row["text"] for t in docs.read(work / "raw_crawl", ["id", "text"]) for row in t.to_pylist()}
    texts = {row["id"]: row["text"] for t in docs.read(work / "pages_crawl", ["id", "text"]) for row in t.to_pylist()}
    with_code = [key for key in texts if "<pre" in raw[key]]
    exact = blocks = lost = 0
    sample = sorted(with_code, key=lambda key: draw("exact", key))[:EXACT_PAGES]
    for key in sample:
        parser = _Preformatted()
        parser.feed(raw[key])
        parser.close()
        wanted = [text for block in parser.blocks if (text := block.removeprefix("\n")).strip()]
        missing = [block for block in wanted if block not in texts[key]]
        blocks, lost, exact = blocks + len(wanted), lost + len(missing), exact + (not missing)
    print(f"code blocks: {exact} of {len(sample)} pages byte-exact, {lost} of {blocks} blocks differ")


def report_speed(work: epath.Path) -> None:
    table = pa.concat_tables(list(docs.read(work / "pages_crawl")))
    size = sum(len(text.encode()) for text in table["text"].to_pylist())
    model, segmenter = work / "recall" / "round-3" / "classifier.bin", work / "recall" / "segmenter.model"
    for state in ("first pass, no word known", "second pass"):
        if state != "second pass":
            classifier.segmenter.cache_clear()
        start = time.process_time()
        for first in range(0, table.num_rows, 1024):
            batches.scored(table.slice(first, 1024), segmenter=str(segmenter), model=str(model), digest="")
        seconds = time.process_time() - start
        print(f"recall: {table.num_rows / seconds:.0f} pages/s, {size / seconds / 1e6:.2f} MB/s of text ({state})")


def report_memory(work: epath.Path) -> None:
    """Peak memory of the recall over the crawled pages, and over four copies of each; one worker."""
    for copies in (1, 4):
        pages, out = work / f"copies-{copies}", work / f"recall-copies-{copies}"
        for directory in (pages, out):
            if directory.exists():
                directory.rmtree()
            directory.mkdir()
        for number, part in enumerate(docs.parts(work / "pages_crawl")):
            table = docs.read_part(part)
            ids = table["id"].to_pylist()
            for copy in range(copies):
                copied = table.set_column(0, table.schema.field("id"), pa.array([f"{copy}{i[1:]}" for i in ids]))
                write_parquet(iter([copied]), pages / f"part-{number * copies + copy:05d}.parquet")
        pool = concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        with pool:
            found, peak = pool.submit(_recall_peak, str(out), str(pages), str(work / "seed")).result()
        print(f"memory: {found:,} pages, peak {peak / 2**20:.0f} MiB")


def _recall_peak(out: str, pages: str, seed: str) -> tuple[int, int]:
    result = recall(epath.Path(out), documents=epath.Path(pages), seed=epath.Path(seed), engine=LocalEngine(workers=1))
    # Not ru_maxrss, which a process takes over from the one that started it.
    status = pathlib.Path("/proc/self/status").read_text()
    return result["files_in"], 1024 * int(re.search(r"VmHWM:\s*(\d+)", status)[1])  # pyright: ignore[reportOptionalSubscript]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, default=WORK, help=f"packages, pages and results (default {WORK})")
    parser.add_argument("--pages", type=int, default=400, help="of a domain at most; 0 for all (default 400)")
    flags = parser.parse_args()
    flags.work.mkdir(parents=True, exist_ok=True)
    write_web(flags.work, flags.pages)
    work = epath.Path(flags.work)
    for name in ("crawl", "outside"):
        stage(preprocess, work / f"raw_{name}", sources=[str(work / f"{name}.warc.gz")])
        stage(web_pages, work / f"pages_{name}", documents=work / f"raw_{name}")
    write_seed(work)
    for name, patterns in (("recall", NOBODY), ("recall_person", flags.work / "person.toml")):
        if name == "recall_person":
            write_person(work, flags.work / "person.toml")
        result = stage(recall, work / name, documents=work / "pages_crawl", seed=work / "seed", patterns=str(patterns))
        print(f"{name}:")
        report_rounds(work, work / name, result["rounds"])
    report_exact(work)
    report_memory(work)
    report_speed(work)


if __name__ == "__main__":
    main()
