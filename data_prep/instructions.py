"""A small instruction set made from documented functions, without a language model (arXiv 2411.04905, section 4).

The paper's instructions are written and checked by large models; these are not. Questions come from a few templates
and answers are code and docstrings that people wrote, so they teach the form of a dialogue about code rather than new
knowledge. Stage 1 is breadth: write, complete, summarise and find functions of any kind. Stage 2 is quality: short,
self-contained functions with a well-formed summary, asked for as HumanEval asks for them.
"""

from __future__ import annotations

import functools as ft
import json
import logging
from typing import Any

import gin
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from etils import epath

from data_prep import conversations
from data_prep import documents as docs
from data_prep.conversations import SCHEMA
from data_prep.dialogues import about_file, about_functions, documented_functions
from data_prep.engine import Engine, LocalEngine

LOGGER = logging.getLogger("data_prep")
_COLUMNS = ["id", "text", "path", "language", "source", "licence", "split"]


@gin.configurable
def instructions(
    out: epath.Path,
    *,
    documents: epath.Path = epath.Path("split"),
    max_stage1: int = 20_000,
    max_stage2: int = 5_000,
    fill_stage1: int = 500,
    max_chars: int = 3_000,
    buckets: int = 0,
    engine: Engine = LocalEngine(),
) -> dict:
    """Writes distinct examples made from the training documents to out/stage1 and out/stage2.

    Functions come from Python and the languages of `brace_functions`. Where they are few, stage 1 is filled up with
    beginnings of files, in any language, to continue. Where none is good enough for stage 2, it repeats what stage 1
    has of whole functions, or else all of stage 1, and the result says so.

    Args:
      out: directory to write; part-*.parquet of `conversations.SCHEMA` in its stage1 and stage2.
      documents: documents with column `split`.
      max_stage1: most examples of stage 1; where there are more, those with the smallest hashes stay.
      max_stage2: the same for stage 2.
      fill_stage1: number of examples up to which files to continue fill stage 1.
      max_chars: longest example, question and answer together.
      buckets: number of parts of each stage, 0 for as many as fit in memory.

    Returns:
      {"stage1": {kind: examples}, "stage2": {kind: examples}}, and "stage2_fallback" where stage 2 repeats stage 1.
    """
    scratch = out / "_scratch"
    made, distinct = scratch / "made", scratch / "distinct"
    for directory in (made, distinct, out / "stage1", out / "stage2"):
        directory.mkdir(parents=True, exist_ok=True)
    make = ft.partial(_examples, max_chars=max_chars)
    engine.map(make, docs.parts(documents), made, label="instructions")
    engine.reduce(_distinct, docs.parts(made), distinct, key="id", buckets=buckets, label="distinct instructions")
    everything = pa.concat_tables(_read(part, ["id", "stage", "kind"]) for part in docs.parts(distinct)).sort_by("id")
    stage1, stage2, fallback = _choose(everything, max_stage1, max_stage2, fill_stage1)
    result: dict[str, Any] = {}
    for name, chosen in (("stage1", stage1), ("stage2", stage2)):
        keys = frozenset(zip(chosen["stage"].to_pylist(), chosen["id"].to_pylist(), strict=True))
        engine.map(ft.partial(_select, keys=keys), docs.parts(distinct), out / name, label=f"instructions, {name}")
        kinds = chosen["kind"].value_counts()
        result[name] = {str(entry["values"]): entry["counts"].as_py() for entry in kinds}
    scratch.rmtree()
    return result | ({"stage2_fallback": fallback} if fallback else {})


def _examples(table: pa.Table, *, max_chars: int) -> pa.Table:
    """All examples of both stages that can be made from the documents; `SCHEMA` and column `stage`."""
    rows = []
    for row in docs.kept(table).select(_COLUMNS).to_pylist():
        if row["split"] == "train":
            for made in (*about_functions(documented_functions(row)), *about_file(row)):
                if len(made.question) + len(made.answer) <= max_chars:
                    rows.append(_example(made.kind, made.question, made.answer, row) | {"stage": made.stage})
    return pa.Table.from_pylist(rows, SCHEMA.append(pa.field("stage", pa.int8())))


def _example(kind: str, question: str, answer: str, document: dict[str, Any]) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    provenance = json.dumps({"document": document["id"], "source": document["source"], "licence": document["licence"]})
    return conversations.row(messages, kind=kind, language=document["language"], provenance=provenance)


def _distinct(table: pa.Table) -> pa.Table:
    """One row for each id and stage, from the smallest document id, in the order of ids."""
    table = table.sort_by([("id", "ascending"), ("stage", "ascending"), ("provenance", "ascending")])
    keys = list(zip(table["id"].to_pylist(), table["stage"].to_pylist(), strict=True))
    return table.take(pa.array([i for i, key in enumerate(keys) if i == 0 or key != keys[i - 1]], pa.int64()))


def _choose(
    examples: pa.Table, max_stage1: int, max_stage2: int, fill_stage1: int
) -> tuple[pa.Table, pa.Table, str | None]:
    """Which of the `examples` (id, stage, kind; in the order of ids) make up stage 1 and stage 2, and the fallback."""
    fill, breadth, quality = (examples.filter(pc.equal(examples["stage"], stage)) for stage in (0, 1, 2))
    breadth = breadth.slice(0, max_stage1)
    room = max(min(fill_stage1, max_stage1) - len(breadth), 0)
    stage1 = pa.concat_tables([breadth, fill.slice(0, room)])
    if len(quality) or not max_stage2 or not len(stage1):
        return stage1, quality.slice(0, max_stage2), None
    written = stage1.filter(pc.is_in(stage1["kind"], pa.array(["write", "complete"])))
    fallback = "stage 1: write, complete" if len(written) else "stage 1"
    LOGGER.warning("instructions: no function is good enough for stage 2, which repeats examples of %s", fallback)
    return stage1, (written if len(written) else stage1).slice(0, max_stage2), fallback


def _select(table: pa.Table, *, keys: frozenset[tuple[int, str]]) -> pa.Table:
    rows = zip(table["stage"].to_pylist(), table["id"].to_pylist(), strict=True)
    return table.filter(pa.array([row in keys for row in rows], pa.bool_())).select(SCHEMA.names)


def _read(part: epath.Path, columns: list[str]) -> pa.Table:
    with part.open("rb") as file:
        return pq.read_table(file, columns=columns)
