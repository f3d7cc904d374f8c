"""The stages `score` and `quality_filter` (paper §2.1, appendix A): measure every file, then judge it by its values.

They are apart so that new thresholds cost a pass over numbers and not over files.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import gin
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from etils import epath

from data_prep import documents as docs
from data_prep import funnel
from data_prep.engine import Engine, LocalEngine
from data_prep.quality import rules
from data_prep.quality.profiles import measure, profile_named


@gin.configurable
def score(
    out: epath.Path,
    *,
    documents: epath.Path = epath.Path("transform"),
    profile: str = "refinecode",
    engine: Engine = LocalEngine(),
) -> dict[str, Any]:
    """Computes the signals of every document; drops none. Texts get their `natural_language`.

    Adds two columns: `signals`, a struct with one float64 field per signal, null where a file has no such value, and
    `signal_errors`, a list of ``name: cause`` for signals that could not be computed.

    Args:
        profile: ``refinecode``, or ``reference`` for the values of the released filter.

    Raises:
        ValueError: there is no such profile.
    """
    profile_named(profile)
    counts = funnel.documents_map(engine, partial(score_table, profile=profile), documents, out, "score")
    return {**counts, "files_with_failed_signals": _count_failed(out)}


def score_table(table: pa.Table, profile: str) -> pa.Table:
    """`table` with columns `signals` and `signal_errors`."""
    how = profile_named(profile)
    names = how.names()
    columns: dict[str, list[float | None]] = {name: [] for name in names}
    errors: list[list[str]] = []
    spoken: list[str | None] = []
    for row in table.select(["text", "language", "doc_type", "size", "path", "natural_language"]).to_pylist():
        text, doc_type = row["text"], row["doc_type"]
        spoken.append(row["natural_language"] or how.natural_language(text, doc_type))
        values, failures = measure(text, row["language"], doc_type, row["size"], how, row["path"], spoken[-1])
        for name in names:
            columns[name].append(values.get(name))
        errors.append([f"{name}: {cause}" for name, cause in failures.items()])
    signals = pa.StructArray.from_arrays([pa.array(column, pa.float64()) for column in columns.values()], names)
    index = table.schema.get_field_index("natural_language")
    table = table.set_column(index, docs.SCHEMA.field("natural_language"), pa.array(spoken, pa.string()))
    with_signals = table.append_column("signals", signals)
    return with_signals.append_column("signal_errors", pa.array(errors, pa.list_(pa.string())))


def _count_failed(out: epath.Path) -> int:
    count = 0
    for part in docs.parts(out):
        with part.open("rb") as file:
            lengths = pc.list_value_length(pq.read_table(file, columns=["signal_errors"])["signal_errors"])
            count += pc.sum(pc.greater(lengths, 0)).as_py() or 0
    return count


@gin.configurable
def quality_filter(
    out: epath.Path,
    *,
    documents: epath.Path = epath.Path("score"),
    profile: str = "refinecode",
    thresholds: dict[str, list[str]] | None = None,
    engine: Engine = LocalEngine(),
) -> dict[str, Any]:
    """Drops the documents that a rule of their group rejects, with every rule that does as a reason.

    Reasons read ``frac_chars_comments > 0.8 (0.93)``; ``signal_failed: frac_chars_comments`` where the value that a
    rule needs could not be computed, and ``no_rules: <type>`` for types of documents without rules.

    Args:
        profile: the one that `documents` were scored with; ``reference`` does not drop for failed signals.
        thresholds: rules that replace those of `quality/thresholds`, by ``group.signal``:
            ``{"code/others.frac_chars_comments": ["> 0.7"]}``.

    Returns:
        The counts of the funnel, and under ``rules`` for each rule that fired {"files", "sole"}, the files it drops and
        those that no other rule does.

    Raises:
        ValueError: there is no such profile, group or signal, or a rule is malformed.
    """
    groups = rules.load(thresholds, profile)
    judge = partial(judge_table, groups=groups, failure_drops=profile_named(profile).failure_drops)
    counts = funnel.documents_map(engine, judge, documents, out, "quality_filter")
    reasons = json.loads((out / "funnel.json").read_text())["reasons"]
    hits = {rule: {"files": n["files"], "sole": n["sole"]["files"]} for rule, n in reasons.items()}
    return {**counts, "rules": hits}


def judge_table(table: pa.Table, groups: dict[str, rules.Rules], failure_drops: bool) -> pa.Table:
    """`table` with the reasons of the rules in `groups`."""
    used = {signal for group in groups.values() for signal in group}
    if missing := used - {field.name for field in table.schema.field("signals").type}:
        raise ValueError(
            f"the documents have no signal {', '.join(sorted(missing))}: delete their stage and score again"
        )
    reasons: list[list[str]] = [[] for _ in range(table.num_rows)]
    doc_types, *others = _lists(table, "doc_type", "language", "natural_language")
    members, without = rules.members(zip(doc_types, *others, strict=True), groups)
    for row in without:
        reasons[row].append(f"no_rules: {doc_types[row]}")
    keys = np.array([content or row_id for content, row_id in zip(*_lists(table, "content_sha256", "id"), strict=True)])
    for group, rows in members.items():
        for signal, comparisons in groups[group].items():
            values = _values(table, signal)[rows]
            for comparison in comparisons:
                dropped = comparison.drops(values, signal, keys[rows])
                for row, value in zip(rows[dropped], values[dropped], strict=True):
                    reasons[row].append(f"{signal} {comparison.operator} {comparison.threshold:g} ({value:.4g})")
    if failure_drops:
        for group, rows in members.items():
            for row in rows.tolist():
                failed = (error.partition(":")[0] for error in table["signal_errors"][row].as_py())
                reasons[row] += [f"signal_failed: {name}" for name in failed if name in groups[group]]
    return docs.drop(table, reasons)


def _lists(table: pa.Table, *columns: str) -> list[list[Any]]:
    return [table[column].to_pylist() for column in columns]


def _values(table: pa.Table, signal: str) -> np.ndarray:
    """float64 [rows], NaN where there is no value."""
    return pc.struct_field(table["signals"], signal).to_numpy()
