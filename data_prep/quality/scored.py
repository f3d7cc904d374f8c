"""Scored documents with the verdict of every rule, to look at rules one by one: numbers first, texts on demand."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from etils import epath

from data_prep import documents as docs
from data_prep.quality import rules
from data_prep.quality.profiles import profile_named

COLUMNS = ["id", "repo", "path", "language", "doc_type", "natural_language", "size", "content_sha256", "signal_errors"]
FACTORS = (0.5, 0.75, 1.0, 1.25, 2.0)  # of a threshold, where none are asked for


@dataclasses.dataclass(frozen=True)
class Rule:
    """One comparison as it stands in the file of `group`, with all groups that inherit it."""

    group: str
    signal: str
    comparison: rules.Comparison

    def __str__(self) -> str:
        return f"{self.group}.{self.signal} {self.comparison}"


@dataclasses.dataclass(frozen=True)
class Scored:
    """Documents and their signals, without the texts.

    Attributes:
      table: `COLUMNS` of each file, and `part` and `row`, where its text is.
      values: of each signal, float64 [files], NaN where there is none.
      hits: of each rule whether it drops the file, bool [files].
      measured: of each rule the files that it judges, bool [files].
      failed: whether the file is dropped since a signal could not be computed, bool [files].
      without: whether no rules are there for the file, bool [files].
    """

    table: pa.Table
    values: dict[str, np.ndarray]
    hits: dict[Rule, np.ndarray]
    measured: dict[Rule, np.ndarray]
    failed: np.ndarray
    without: np.ndarray

    @functools.cached_property
    def count(self) -> np.ndarray:
        """Causes that drop each file: int64 [files]; 0 for those that are kept."""
        causes = self.failed.astype(np.int64) + self.without
        for hit in self.hits.values():
            causes += hit
        return causes

    def sole(self, rule: Rule, comparison: rules.Comparison) -> np.ndarray:
        """Files that only `rule` drops if `comparison` stands in its place: bool [files]."""
        return self.fires(rule, comparison) & (self.count - self.hits[rule] == 0)

    def fires(self, rule: Rule, comparison: rules.Comparison) -> np.ndarray:
        """Files that the rule drops if `comparison` stands in its place: bool [files]."""
        return self.measured[rule] & comparison.drops(self.values[rule.signal], rule.signal, self.keys)

    @functools.cached_property
    def ids(self) -> np.ndarray:
        return np.array(self.table["id"].to_pylist())

    @functools.cached_property
    def keys(self) -> np.ndarray:
        """What the draws of rules that only thin out depend on."""
        content = self.table["content_sha256"].to_pylist()
        return np.array([sha or identifier for sha, identifier in zip(content, self.ids, strict=True)])


def load(directory: epath.Path, profile: str, overrides: Mapping[str, Sequence[str]], most: int) -> Scored:
    """The scored documents in `directory`, `most` of them at most, drawn by their ids.

    Raises:
      FileNotFoundError: there are no documents.
      ValueError: they have no signals, or an override is wrong.
    """
    table, values = _read(directory, most)
    groups, origins = rules.load(overrides, profile), rules.origins(overrides, profile)
    files = table.num_rows
    kinds = (table[name].to_pylist() for name in ("doc_type", "language", "natural_language"))
    members, without = rules.members(zip(*kinds, strict=True), groups)
    hits: dict[Rule, np.ndarray] = {}
    measured: dict[Rule, np.ndarray] = {}
    failed = np.zeros(files, bool)
    errors = [{error.partition(":")[0] for error in row} for row in table["signal_errors"].to_pylist()]
    scored = Scored(table, values, hits, measured, failed, np.isin(np.arange(files), without))
    for group, rows in members.items():
        for signal, comparisons in groups[group].items():
            for comparison in comparisons:
                rule = Rule(origins[group][signal], signal, comparison)
                measured.setdefault(rule, np.zeros(files, bool))[rows] = True
        if profile_named(profile).failure_drops:
            failed[rows] = [not errors[row].isdisjoint(groups[group]) for row in rows.tolist()]
    for rule in measured:
        if rule.signal not in values:
            raise ValueError(f"the documents have no signal {rule.signal}: score them again")
        hits[rule] = scored.fires(rule, rule.comparison)
    return scored


def _read(directory: epath.Path, most: int) -> tuple[pa.Table, dict[str, np.ndarray]]:
    parts = docs.parts(directory)
    ids = [_column(part, ["id"])["id"] for part in parts]
    every = pa.chunked_array([chunk for column in ids for chunk in column.chunks], pa.string())
    last = pc.sort_indices(every)[min(most, len(every)) - 1].as_py() if len(every) else None
    tables = []
    for number, (part, column) in enumerate(zip(parts, ids, strict=True)):
        rows = pa.array([] if last is None else np.flatnonzero(pc.less_equal(column, every[last])), pa.int64())
        if "signals" not in (names := _names(part)) or "signal_errors" not in names:
            raise ValueError(f"{part} has no signals: give a directory of the stage score")
        table = _column(part, [*COLUMNS, "signals"]).take(rows)
        tables.append(
            table.append_column("part", pa.array([number] * len(rows), pa.int32())).append_column("row", rows)
        )
    table = pa.concat_tables(tables).combine_chunks()
    signals = table["signals"]
    values = {
        field.name: pc.struct_field(signals, field.name).to_numpy() for field in table.schema.field("signals").type
    }
    return table.drop_columns(["signals"]), values


def _names(part: epath.Path) -> list[str]:
    with part.open("rb") as file:
        return pq.read_schema(file).names


def _column(part: epath.Path, columns: list[str]) -> pa.Table:
    with part.open("rb") as file:
        return pq.read_table(file, columns=columns)


def texts(directory: epath.Path, scored: Scored, rows: Sequence[int]) -> dict[int, str]:
    """The texts of some rows of `scored`, by row."""
    parts = docs.parts(directory)
    wanted = scored.table.select(["part", "row"]).take(pa.array(rows, pa.int64())).to_pylist()
    found: dict[int, str] = {}
    for number in sorted({place["part"] for place in wanted}):
        here = {place["row"]: row for place, row in zip(wanted, rows, strict=True) if place["part"] == number}
        with parts[number].open("rb") as file:
            parquet, before = pq.ParquetFile(file), 0
            for group in range(parquet.num_row_groups):
                size = parquet.metadata.row_group(group).num_rows
                inside = [row for row in here if before <= row < before + size]
                if inside:
                    column = parquet.read_row_group(group, columns=["text"])["text"]
                    found |= {here[row]: column[row - before].as_py() or "" for row in inside}
                before += size
    return found


def candidates(rule: Rule, asked: Sequence[float] | None, limits: tuple[float, float]) -> list[rules.Comparison]:
    """Comparisons to look at, the strictest first (the one that drops least), today's among them."""
    comparison = rule.comparison
    at = {comparison.threshold}
    if asked is not None:
        at |= set(asked)
    elif comparison.operator != "==":
        near = limits[1] if comparison.threshold > limits[1] / 2 else 0.0  # the end of the range that is closer
        scaled = (near + (comparison.threshold - near) * factor for factor in FACTORS)
        at |= {float(f"{value:.2g}") for value in scaled if limits[0] <= value < limits[1]}
    ordered = sorted(at, reverse=comparison.operator == ">")
    return [dataclasses.replace(comparison, threshold=value) for value in ordered]


def draw(scored: Scored, chosen: np.ndarray, count: int) -> list[int]:
    """At most `count` of the chosen rows, those with the smallest ids: hashes, so a draw that stays the same."""
    rows = np.flatnonzero(chosen)
    return rows[np.argsort(scored.ids[rows], kind="stable")][:count].tolist()
