"""A page to look at what a stage has made: web pages of the recall, synthetic data, or any documents and conversations.

It shows what was kept and dropped and why, samples by domain or task, those nearest to the threshold of a score,
near-duplicates among the samples, and what in them is also in a benchmark.

Examples:
  python -m data_prep.data_page out/recall/recall --out recall.html
  python -m data_prep.data_page out/sft/educational --out educational.html --benchmarks humaneval mbpp.jsonl
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from etils import epath

from data_prep import benchmark_items, command, minhash, page
from data_prep import documents as docs
from data_prep.decontaminate import build_index, reasons
from data_prep.funnel import reason_key
from data_prep.page import Html, tag

GROUPS = 24  # domains or tasks to show samples of
SAMPLES = 6  # of each group, each reason and each side of the threshold
LOOKED_AT = 4000  # kept rows to look for near-duplicates and benchmarks in
_BANDS, _ROWS = 32, 8  # meets most pairs from a Jaccard similarity of 0.7 on
_SIMILAR = 0.7


@dataclasses.dataclass(frozen=True)
class Row:
    """What is known of a row without its text."""

    id: str
    group: str
    score: float | None
    answers: dict[str, float]  # the scores of single questions
    reasons: tuple[str, ...]
    size: int
    place: tuple[int, int]  # part, row


@dataclasses.dataclass(frozen=True)
class Shown:
    name: str
    text: str
    provenance: dict[str, Any]


def write(target: epath.Path, directory: epath.Path, *, benchmarks: Sequence[str]) -> None:
    """Writes the page of a directory of documents or conversations.

    Raises:
      FileNotFoundError: there are no parts in it, or a benchmark does not exist.
    """
    parts = docs.parts(directory)
    rows = [row for number, part in enumerate(parts) for row in _rows(number, part)]
    rows.sort(key=lambda row: row.id)  # ids are hashes, so the first ones are a random draw
    kept = [row for row in rows if not row.reasons]
    looked_at = kept[:LOOKED_AT]
    choices = Choices(rows)
    texts = _read(parts, [*choices.every(), *looked_at])
    sections: dict[str, Any] = {}
    if rounds := _json_files(directory, "round-*/round.json"):
        sections |= {"Rounds": _rounds(rounds), "Domains": _domains(directory, rounds)}
    if steps := _json_files(directory, "yield.json"):
        sections["Steps"] = _steps(steps[0]["steps"])
    if choices.scored:
        lines = [r["heldout"]["score"] for r in rounds[-1:]]
        sections["Scores"] = _scores(rows, choices, texts, lines)
    sections |= {
        "Samples": page.listing((_group(*group, texts) for group in choices.groups), per_page=12),
        "Dropped": _dropped(choices, len(rows), texts),
        "Near-duplicates": _near_duplicates(looked_at, texts),
        "Benchmarks": _contaminated(looked_at, texts, benchmarks),
    }
    lead = (
        f"{len(kept):,} of {len(rows):,} rows are kept ({page.percent(len(kept), len(rows))}), "
        f"{page.size(sum(row.size for row in kept))} of {page.size(sum(row.size for row in rows))}."
    )
    page.write(target, f"What {directory.name} has made", lead, sections)


def _rows(number: int, part: epath.Path) -> Iterator[Row]:
    with part.open("rb") as file:
        parquet = pq.ParquetFile(file)
        there = parquet.schema_arrow.names
        names = ["id", "domain", "kind", "repo", "language", "reasons", "size"]
        names.append("score" if "score" in there else "provenance")
        table = parquet.read(columns=[name for name in names if name in there])
    for i, row in enumerate(table.to_pylist()):
        group = next((str(row[n]) for n in ("domain", "kind", "repo") if row.get(n)), "–")
        if "kind" in row and row["language"] != "unknown":
            group += f" · {row['language']}"
        told = {"score": row["score"]} if "score" in row else json.loads(row["provenance"])
        value = None if told.get("score") is None else float(told["score"])
        answers = json.loads(told.get("scores", "{}"))
        yield Row(row["id"], group, value, answers, tuple(row["reasons"]), row["size"], (number, i))


class Choices:
    """Which rows to show: of `groups` (name, rows, how many are kept, of how many), `reasons`, `near` a threshold."""

    def __init__(self, rows: Sequence[Row]):
        by_group: dict[str, tuple[list[Row], list[Row]]] = collections.defaultdict(lambda: ([], []))
        self.reasons: dict[str, list[Row]] = collections.defaultdict(list)
        self.counts: collections.Counter[str] = collections.Counter()
        for row in rows:
            by_group[row.group][bool(row.reasons)].append(row)
            for key in {reason_key(reason) for reason in row.reasons}:
                self.counts[key] += 1
                self.reasons[key] += [row] if len(self.reasons[key]) < SAMPLES else []
        order = sorted(by_group, key=lambda name: (-len(by_group[name][0]), name))[:GROUPS]
        self.groups = [
            (name, kept[:SAMPLES] + gone[: SAMPLES // 2], len(kept), len(kept) + len(gone))
            for name in order
            for kept, gone in [by_group[name]]
        ]
        self.scored = [row for row in rows if row.score is not None]
        inside = sorted((r for r in self.scored if not r.reasons), key=lambda r: (r.score, r.id))[:SAMPLES]
        outside = sorted((r for r in self.scored if r.reasons), key=lambda r: (-(r.score or 0), r.id))[:SAMPLES]
        self.near = {"just kept": inside, "just dropped": outside}

    def every(self) -> Iterator[Row]:
        yield from itertools.chain(*(few for _, few, _, _ in self.groups), *self.reasons.values(), *self.near.values())


def _read(parts: Sequence[epath.Path], rows: Iterable[Row]) -> dict[str, Shown]:
    wanted: dict[int, dict[int, str]] = collections.defaultdict(dict)
    for row in rows:
        wanted[row.place[0]][row.place[1]] = row.id
    found = {}
    for number, places in sorted(wanted.items()):
        with parts[number].open("rb") as file:
            names = pq.read_schema(file).names
            columns = [n for n in ("id", "text", "messages", "url", "repo", "path", "provenance") if n in names]
            table = pq.read_table(file, columns=columns).take(sorted(places))
        found |= {row["id"]: _shown(row) for row in table.to_pylist()}
    return found


def _shown(row: dict[str, Any]) -> Shown:
    provenance = json.loads(row["provenance"])
    if "messages" in row:
        text = "\n\n".join(f"[{turn['role']}]\n{turn['content']}" for turn in row["messages"])
        return Shown(row["id"][:12], text, provenance)
    return Shown(row["url"] or f"{row['repo']}/{row['path']}", row["text"] or "", provenance)


def _item(row: Row, texts: Mapping[str, Shown], why: Sequence[str] = ()) -> Html:
    """A row to unfold; `why` it is shown where that is not its reasons, nor what its steps rejected."""
    shown = texts[row.id]
    steps = [f"{s['step']}: {'; '.join(s['rejected'])}" for s in shown.provenance.get("steps", []) if s["rejected"]]
    about = page.join(*(tag("p", page.esc(line, 400), class_="meta") for line in [*why, *row.reasons, *steps]))
    aside = [
        *why[:1],
        *(["dropped"] if row.reasons else []),
        *([f"score {row.score:.3f}"] if row.score is not None else []),
    ]
    return page.fold(
        page.esc(shown.name, 160),
        about,
        page.source(shown.text, lines=60),
        aside=" · ".join([*aside, page.size(row.size)]),
    )


def _group(name: str, rows: Sequence[Row], kept: int, count: int, texts: Mapping[str, Shown]) -> Html:
    return page.fold(name, *(_item(row, texts) for row in rows), aside=f"{kept:,} of {count:,} kept")


def _rounds(rounds: Sequence[dict[str, Any]]) -> Html:
    """What each round learnt from, what it recalled, and what it hands to the next one."""
    head = [
        "round", "examples: code", "others", "threshold", "precision", "recall", "pages", "recalled", "tokens",
        "code domains", "of", "new seeds", "hard negatives",
    ]  # fmt: skip
    rows = []
    for r in rounds:
        held, given = r["heldout"], r["examples"]
        code, other = (given.get(kind, 0) + given.get(f"heldout_{kind}", 0) for kind in ("code", "other"))
        rows.append(
            [r["round"], code, other, held["score"], (held["precision"], page.percent(held["precision"], 1)),
             (held["recall"], page.percent(held["recall"], 1)), r["pages"], (r["recalled"], f"{r['recalled']:,}"),
             r["tokens"], r["code_domains"], r["domains"], r["next"].get("joined", 0), r["next"].get("hard", 0)]
        )  # fmt: skip
    note = "Precision and recall are those on held-out examples. New seeds are missed pages that a pattern matches."
    return page.join(tag("p", note), page.table(head, rows))


def _domains(directory: epath.Path, rounds: Sequence[dict[str, Any]]) -> Html:
    last = directory / f"round-{rounds[-1]['round']}"
    rows = [row for part in docs.parts(last / "domains") for row in docs.read_part(part).to_pylist()]
    rows.sort(key=lambda row: (-row["pages"], row["domain"]))
    head = ["domain", "pages", "recalled", "share", "tokens", "about code"]
    shares = [(row["recalled"] / row["pages"], page.percent(row["recalled"], row["pages"])) for row in rows]
    table = page.table(
        head,
        [
            (r["domain"], r["pages"], r["recalled"], share, r["tokens"], "yes" if r["code"] else "")
            for r, share in zip(rows[:200], shares, strict=False)
        ],
    )
    proposals = (last / "proposals.toml").read_text()
    note = (
        f"The {min(len(rows), 200)} largest of {len(rows):,} domains. Which paths are about code, a person says: "
        "copy lines from below into the lists of the file of patterns (recall.patterns), and run the stage again."
    )
    return page.join(tag("p", note), table, tag("h3", "Proposed patterns"), page.source(proposals, lines=60))


def _steps(steps: Sequence[dict[str, Any]]) -> Html:
    rows = [
        (s["step"], s["model"], (s.get("prompt_sha256") or "")[:12] or None, s["entered"], s["passed"],
         (s["passed"] / max(s["entered"], 1), page.percent(s["passed"], s["entered"])), s["requests"],
         ", ".join(f"{why} {n}" for why, n in sorted(s["rejected"].items(), key=lambda x: -x[1])))
        for s in steps
    ]  # fmt: skip
    return page.table(["step", "model", "prompt", "entered", "passed", "yield", "requests", "rejected for"], rows)


def _scores(rows: Sequence[Row], choices: Choices, texts: Mapping[str, Shown], lines: Sequence[float]) -> Html:
    gone = np.array([bool(row.reasons) for row in rows])
    values = {"score": np.array([np.nan if row.score is None else row.score for row in rows])}
    for name in sorted({name for row in rows for name in row.answers}):
        values[name] = np.array([row.answers.get(name, np.nan) for row in rows])
    histogram = page.histogram({name: (found, gone) for name, found in values.items()}, lines=lines, unit="rows")
    near = (
        page.join(tag("h3", name), *(_item(row, texts) for row in found))
        for name, found in choices.near.items()
        if found
    )
    return page.join(page.key(kept="kept", dropped="dropped"), histogram, *near)


def _dropped(choices: Choices, total: int, texts: Mapping[str, Shown]) -> Html:
    if not choices.counts:
        return tag("p", "Nothing was dropped.")
    return page.join(
        *(
            page.fold(
                key,
                *(_item(row, texts) for row in choices.reasons[key]),
                aside=f"{count:,} rows · {page.percent(count, total)}",
            )
            for key, count in choices.counts.most_common()
        )
    )


def _near_duplicates(rows: Sequence[Row], texts: Mapping[str, Shown]) -> Html:
    scheme = minhash.Scheme(_BANDS * _ROWS, 5, "word", 0)
    grams = [minhash.shingles(texts[row.id].text, scheme) for row in rows]
    signatures = minhash.signatures([texts[row.id].text for row in rows], scheme)
    buckets: dict[tuple[int, int], list[int]] = collections.defaultdict(list)
    for i, hashes in enumerate(minhash.band_hashes(signatures, _BANDS).tolist()):
        if len(grams[i]) >= 10:
            for band, value in enumerate(hashes):
                buckets[band, value].append(i)
    pairs = {pair for members in buckets.values() for pair in itertools.pairwise(members)}
    found = [(minhash.jaccard(grams[i], grams[j]), rows[i].id, rows[j].id) for i, j in sorted(pairs)]
    found = sorted((f for f in found if f[0] >= _SIMILAR), key=lambda f: (-f[0], f[1:]))
    lead = (
        f"Among {len(rows):,} kept rows, {len({name for _, *pair in found for name in pair}):,} share at least "
        f"{100 * _SIMILAR:.0f} % of their five-word sequences with another (Jaccard similarity)."
    )
    shown = (
        page.fold(
            page.join(page.esc(texts[one].name, 160), page.esc(texts[other].name, 160), between="<br>"),
            page.diff(texts[one].text, texts[other].text, ("one", "other"), rows=60),
            aside=f"J = {similar:.3f}",
        )
        for similar, one, other in found[: 3 * SAMPLES]
    )
    return page.join(tag("p", lead), *shown)


def _contaminated(rows: Sequence[Row], texts: Mapping[str, Shown], benchmarks: Sequence[str]) -> Html:
    items = [item for name in benchmarks for item in benchmark_items.read(name)]
    index = build_index(items, ngram=10, min_words=5, min_grams=3, entry_points="signature")
    hits = [(row, why) for row in rows if (why := reasons(texts[row.id].text, index))]
    lead = (
        f"{len(hits):,} of {len(rows):,} kept rows share enough with one of the {len(items):,} items of "
        f"{', '.join(benchmarks)} that the stage decontaminate drops them."
    )
    return page.join(tag("p", lead), *(_item(row, texts, why) for row, why in hits[:50]))


def _json_files(directory: epath.Path, pattern: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(directory.glob(pattern))]


@command.one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    parser = command.parser("data_prep.data_page", __doc__)
    parser.add_argument("directory", type=epath.Path, help="what a stage has written: documents or conversations")
    parser.add_argument("--out", type=epath.Path, required=True, help="HTML page to write")
    parser.add_argument("--benchmarks", nargs="*", default=["humaneval"], help="as decontaminate.benchmarks")
    flags = parser.parse_args(argv)
    write(flags.out, flags.directory, benchmarks=flags.benchmarks)
    return 0


if __name__ == "__main__":
    sys.exit(main())
