"""What each stage kept, what it dropped, and why; and the search for a single document.

Examples:
  python -m data_prep.funnel WORKDIR --path '*/setup.py'            what became of these files
  python -m data_prep.funnel WORKDIR --reason too_large --limit 5   some of the files dropped for a reason
  python -m data_prep.funnel WORKDIR --id 3fa9 --text               one document, with its text
"""

from __future__ import annotations

import bisect
import collections
import dataclasses
import fnmatch
import functools
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gin
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from data_prep import command
from data_prep import documents as docs
from data_prep.engine import Engine
from data_prep.files import write_json

NAMES = (
    "preprocess web_pages recall exact_dedup fuzzy_dedup chunk transform text_files score quality_filter sample "
    "star_filter decontaminate split"
).split()
EXAMPLES = 3  # ids noted for each reason
STAGES = [  # in the paper's order
    epath.Path(name)
    for name in "preprocess exact_dedup fuzzy_dedup transform score quality_filter sample decontaminate split".split()
]


def reason_key(reason: str) -> str:
    """The part of a reason that is counted: `exact_duplicate: 3fa9…` → `exact_duplicate`."""
    return re.split(r":| \(", reason, maxsplit=1)[0]


def documents_map(
    engine: Engine, fn: Callable[[pa.Table], pa.Table], documents: epath.Path, out: epath.Path, label: str
) -> dict[str, int]:
    """Maps `fn` over the kept rows of `documents` into `out` and writes the funnel: the body of a per-document stage.

    `fn` takes and returns tables of `documents.SCHEMA` (and more columns, if it likes); it may get an empty table.
    """
    engine.map(functools.partial(_of_kept, fn), docs.parts(documents), out, label=label)
    return write(out)


def _of_kept(fn: Callable[[pa.Table], pa.Table], table: pa.Table) -> pa.Table:
    return fn(docs.kept(table))


def write(out: epath.Path, stage: str | None = None) -> dict[str, int]:
    """Counts the documents of a finished stage by language and reason into out/funnel.json.

    Of each reason: files, bytes and files by language; the same of ``sole``, those dropped for nothing else; and the
    smallest ids among its documents as ``examples``. Ids are hashes, so these are a random draw that stays the same.

    Args:
      out: a documents directory.
      stage: the name to record; by default the directory's.

    Returns:
      {"files_in", "files_kept", "bytes_in", "bytes_kept"}; bytes are those of the raw files.
    """
    every = _empty_counts()
    languages: dict[str, dict[str, int]] = collections.defaultdict(
        lambda: {"in_files": 0, "in_bytes": 0, "kept_files": 0, "kept_bytes": 0}
    )
    reasons: dict[str, dict[str, Any]] = collections.defaultdict(_empty_reason)
    for part in docs.parts(out):
        with part.open("rb") as file:
            rows = pq.read_table(file, columns=["id", "language", "size", "reasons"]).to_pylist()
        for row in rows:
            language, size, keys = row["language"], row["size"], {reason_key(reason) for reason in row["reasons"]}
            for state in ("in",) if keys else ("in", "kept"):
                every[state]["files"] += 1
                every[state]["bytes"] += size
                languages[language][f"{state}_files"] += 1
                languages[language][f"{state}_bytes"] += size
            for key in keys:
                counts = reasons[key]
                for hit in (counts, counts["sole"]) if len(keys) == 1 else (counts,):
                    hit["files"] += 1
                    hit["bytes"] += size
                    hit["by_language"][language] += 1
                bisect.insort(counts["examples"], row["id"])
                del counts["examples"][EXAMPLES:]
    counted = {"stage": stage or out.name, **every, "by_language": languages, "reasons": reasons}
    write_json(out / "funnel.json", counted)
    return {f"{what}_{state}": every[state][what] for what in ("files", "bytes") for state in ("in", "kept")}


def _empty_reason() -> dict[str, Any]:
    def hits() -> dict[str, Any]:
        return {"files": 0, "bytes": 0, "by_language": collections.Counter()}

    return {**hits(), "sole": hits(), "examples": []}


def _empty_counts() -> dict[str, dict[str, int]]:
    return {"in": {"files": 0, "bytes": 0}, "kept": {"files": 0, "bytes": 0}}


@gin.configurable
def funnel(out: epath.Path, *, stages: list[epath.Path] = STAGES) -> dict[str, Any]:
    """Merges the funnels of all document stages, in order, into out/funnel.json and prints them as a table.

    The file holds {"stages": [funnel of each stage], "languages": {name: {"before": …, "after": …}}}, before and after
    being {"files", "bytes"} that entered the first stage and left the last one.

    Returns:
      {"files_in", "files_kept", "bytes_in", "bytes_kept"} from the first stage's input to the last stage's output.

    Raises:
      FileNotFoundError: a stage has no funnel.json.
    """
    counts = []
    for stage in stages:
        if not (stage / "funnel.json").exists():
            raise FileNotFoundError(f"{stage}/funnel.json is missing: run that stage, or take it out of funnel.stages")
        counts.append(json.loads((stage / "funnel.json").read_text()))
    before, after = counts[0]["by_language"], counts[-1]["by_language"]
    nothing: dict[str, int] = collections.defaultdict(int)
    languages = {
        name: {
            "before": {unit: before.get(name, nothing)[f"in_{unit}"] for unit in ("files", "bytes")},
            "after": {unit: after.get(name, nothing)[f"kept_{unit}"] for unit in ("files", "bytes")},
        }
        for name in sorted({*before, *after})
    }
    write_json(out / "funnel.json", {"stages": counts, "languages": languages})
    print(table_text(counts))
    first, last = counts[0]["in"], counts[-1]["kept"]
    return {
        "files_in": first["files"],
        "files_kept": last["files"],
        "bytes_in": first["bytes"],
        "bytes_kept": last["bytes"],
    }


def table_text(stages: list[dict[str, Any]]) -> str:
    """The funnels of several stages as lines of text: what came in, what was kept, and the three main reasons."""
    lines = [f"{'stage':<16}{'files in':>12}{'kept':>12}{'':>7}{'MB in':>11}{'kept':>11}  dropped for"]
    for stage in stages:
        files_in, files = stage["in"]["files"], stage["kept"]["files"]
        main = sorted(stage["reasons"].items(), key=lambda item: (-item[1]["files"], item[0]))[:3]
        lines.append(
            f"{stage['stage']:<16}{files_in:>12,}{files:>12,}{100 * files / max(files_in, 1):>5.1f} %"
            f"{stage['in']['bytes'] / 1e6:>11,.1f}{stage['kept']['bytes'] / 1e6:>11,.1f}  "
            + ", ".join(f"{key} {reason['files']:,}" for key, reason in main)
        )
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Query:
    """Which documents to look for; what is None does not matter."""

    id: str | None = None  # the beginning of an id is enough
    path: str | None = None  # glob over repo/path
    reason: str | None = None  # key of a reason

    def matches(self, row: dict[str, Any]) -> bool:
        return (
            (self.id is None or row["id"].startswith(self.id))
            and (self.path is None or fnmatch.fnmatchcase(f"{row['repo']}/{row['path']}", self.path))
            and (self.reason is None or self.reason in map(reason_key, row["reasons"]))
        )


def find(workdir: epath.Path, query: Query, stage: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (stage, row with all columns) of matching documents.

    A document comes once: from the stage that dropped it or, if none did, from the last stage. With `stage`, all rows
    of that stage are searched instead.

    Raises:
      FileNotFoundError: there is no documents directory, or not the one asked for.
    """
    stages = [stage] if stage else document_stages(workdir)
    if not stages:
        raise FileNotFoundError(f"{workdir} holds no documents: is it the workdir of a run?")
    for name in stages:
        for part in docs.parts(workdir / name):
            with part.open("rb") as file:
                parquet = pq.ParquetFile(file)
                read = functools.partial(parquet.read_row_group, use_threads=False)  # none outlives a short command
                for group in range(parquet.num_row_groups):
                    keys = read(group, columns=["id", "repo", "path", "reasons"]).to_pylist()
                    last = stage is not None or name == stages[-1]
                    hits = [i for i, row in enumerate(keys) if (row["reasons"] or last) and query.matches(row)]
                    if hits:
                        for row in read(group).take(pa.array(hits)).to_pylist():
                            yield name, row


def document_stages(workdir: epath.Path) -> list[str]:
    """Names of the stages in `workdir` that hold documents, in the order in which documents pass through them."""
    return [name for name in NAMES if next(iter((workdir / name).glob("part-*.parquet")), None)]


@command.one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    parser = command.parser("data_prep.funnel", __doc__)
    parser.add_argument("workdir", type=epath.Path, help="workdir of a run")
    parser.add_argument("--id", help="id of a document, or its beginning")
    parser.add_argument("--path", help="glob over repo/path; * also matches /")
    parser.add_argument("--reason", help="reason it was dropped for, such as exact_duplicate")
    parser.add_argument("--stage", help="search the rows of this stage only, kept and dropped")
    parser.add_argument("--limit", type=int, default=20, help="show at most this many documents (default 20)")
    parser.add_argument("--text", action="store_true", help="show the text as well")
    flags = parser.parse_args(argv)
    query = Query(flags.id, flags.path, flags.reason)
    shown = 0
    for stage, row in find(flags.workdir, query, flags.stage):
        if shown == flags.limit:
            print(f"… more: raise --limit ({flags.limit})")
            break
        shown += 1
        print(describe(stage, row, with_text=flags.text))
    if not shown:
        print("no such document", file=sys.stderr)
    return 0 if shown else 1


def describe(stage: str, row: dict[str, Any], with_text: bool) -> str:
    """A few lines about one document."""
    fate = f"dropped by {stage}: {'; '.join(row['reasons'])}" if row["reasons"] else f"kept by {stage}"
    known = {name: row[name] for name in ("url", "commit", "commit_time", "stars", "licence", "split", "source")}
    lines = [
        f"{row['id'][:16]}  {row['repo']}/{row['path']}",
        f"  {fate}",
        f"  {row['language']} ({row['doc_type']}), {row['size']:,} bytes"
        + "".join(f", {name} {value}" for name, value in known.items() if value is not None),
        f"  {row['provenance']}",
    ]
    if with_text:
        lines.append("  (no text)" if row["text"] is None else row["text"])
    return "\n".join(lines)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `… | head` ends it quietly
    status = main()
    sys.stdout.flush()
    os._exit(status)  # Arrow's threads can abort an interpreter that is winding down
