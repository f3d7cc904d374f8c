"""Reads a workdir into plain data for the report. Whatever is missing comes back empty; nothing here raises for it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

_SHOWN = ["id", "repo", "path", "language", "size", "reasons", "text"]
_NOT_STAGES = frozenset({"superseded", "_scratch"})


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage's directory. done: its DONE.json, empty for a half-done stage."""

    name: str
    directory: epath.Path
    done: dict[str, Any]

    @property
    def kind(self) -> str:
        """train, evaluate or data: what its files say it is."""
        if (self.directory / "metrics.jsonl").exists():
            return "train"
        return "evaluate" if (self.directory / "results.json").exists() else "data"


@dataclasses.dataclass(frozen=True)
class Dropped:
    """One dropped document: where it came from, all its reasons, the beginning of its text (None: it has none)."""

    id: str
    path: str
    language: str
    size: int
    reasons: list[str]
    text: str | None


def read_json(path: epath.Path) -> Any:
    """The parsed file; {} if it is missing or cut short."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return {}


def read_text(path: epath.Path) -> str:
    return path.read_text() if path.exists() else ""


def stages(workdir: epath.Path, exclude: epath.Path) -> list[Stage]:
    """Stages in the order in which they started, half-done ones last; without the one that writes to `exclude`."""
    found = [
        Stage(str(directory.relative_to(workdir)), directory, read_json(directory / "DONE.json"))
        for directory in _stage_directories(workdir)
        if directory != exclude
    ]
    return sorted(found, key=lambda s: (not s.done, s.done.get("started", 0), s.name))


def _stage_directories(parent: epath.Path, depth: int = 2) -> Iterator[epath.Path]:
    """Directories that a stage has started in; names may have two parts, such as data/corpus."""
    for directory in parent.iterdir():
        if directory.name in _NOT_STAGES or not directory.is_dir():
            continue
        if (directory / "DONE.json").exists() or (directory / "STARTED.json").exists():
            yield directory
        elif depth > 1:
            yield from _stage_directories(directory, depth - 1)


def funnels(found: list[Stage]) -> list[tuple[Stage, dict[str, Any]]]:
    """(stage, its funnel.json) of the stages that pass documents on."""
    pairs = [(stage, read_json(stage.directory / "funnel.json")) for stage in found]
    return [(stage, funnel) for stage, funnel in pairs if "kept" in funnel]


def corpus(found: list[Stage]) -> list[tuple[Stage, dict[str, Any]]]:
    """Of `funnels` those between the sources and the corpus: what the stage `funnel` merged, or all before it ran.

    Stages behind them (algorithmic documents, functions) take from the corpus and leave it as it is.
    """
    merged = [read_json(stage.directory / "funnel.json").get("stages") for stage in found]
    names = {counted["stage"] for stages in merged if stages for counted in stages}
    every = funnels(found)
    return [pair for pair in every if pair[0].name in names] if names else every


def manifests(found: list[Stage]) -> list[dict[str, Any]]:
    return [
        manifest | {"stage": stage.name}
        for stage in found
        if (manifest := read_json(stage.directory / "manifest.json"))
    ]


def tokenizer(found: list[Stage]) -> dict[str, Any]:
    return next((read for s in found if (read := read_json(s.directory / "tokenizer.json"))), {})


@dataclasses.dataclass(frozen=True)
class Curve:
    """What a training stage logged: rows of metrics.jsonl with "at", the tokens seen so far in this stage, added."""

    name: str
    rows: list[dict[str, Any]]


def curves(found: list[Stage]) -> list[Curve]:
    read = []
    for stage in found:
        rows, at, previous = [], 0, None
        for line in read_text(stage.directory / "metrics.jsonl").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                break  # the line being written when the run was killed
            # a row stands for all steps since the one before
            at += int(row.get("tokens") or 0) * (row["step"] - previous if previous is not None else 1)
            previous = row["step"]
            rows.append(row | {"at": at})
        if rows:
            read.append(Curve(stage.name, rows))
    return sorted(read, key=lambda curve: curve.rows[0].get("time", 0))


def scores(workdir: epath.Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """What --mode=follow found: task → train stage → (step, headline) in order."""
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for path in sorted(workdir.glob("scores/*/*/results.json"), key=lambda path: int(path.parent.name)):
        for task, value in read_json(path).get("headlines", {}).items():
            if value is not None:
                found.setdefault(task, {}).setdefault(path.parent.parent.name, []).append(
                    (int(path.parent.name), value)
                )
    return found


def dropped(directory: epath.Path, funnel: dict[str, Any]) -> dict[str, list[Dropped]]:
    """By reason the documents that the stage's funnel names as examples, as far as they are still there."""
    named = {key: reason.get("examples", []) for key, reason in funnel["reasons"].items()}
    wanted = {identifier for examples in named.values() for identifier in examples}
    found: dict[str, Dropped] = {}
    for part in sorted(directory.glob("part-*.parquet")):
        with part.open("rb") as file:
            parquet = pq.ParquetFile(file)
            for group in range(parquet.num_row_groups):
                ids = parquet.read_row_group(group, columns=["id"])["id"].to_pylist()
                if rows := [row for row, identifier in enumerate(ids) if identifier in wanted]:
                    table = parquet.read_row_group(group, columns=_SHOWN).take(pa.array(rows))
                    found |= {document.id: document for document in _read_rows(table)}
    return {key: [found[i] for i in examples if i in found] for key, examples in named.items()}


def _read_rows(table: pa.Table) -> Iterator[Dropped]:
    for row in table.to_pylist():
        yield Dropped(
            row["id"], f"{row['repo']}/{row['path']}", row["language"], row["size"], row["reasons"],
            row["text"] and row["text"][:4000],
        )  # fmt: skip
