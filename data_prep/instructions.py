"""A small instruction set made from documented functions, without a language model (arXiv 2411.04905, section 4).

The paper's instructions are written and checked by large models; these are not. Questions come from a few templates
and answers are code and docstrings that people wrote, so they teach the form of a dialogue about code rather than new
knowledge. Stage 1 is breadth: write, complete, summarise and find functions of any kind. Stage 2 is quality: short,
self-contained functions with a well-formed summary, asked for as HumanEval asks for them.
"""

from __future__ import annotations

import ast
import functools as ft
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import gin
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from etils import epath

from data_prep import documents as docs
from data_prep.engine import Engine, LocalEngine
from data_prep.python_functions import Function, documented_functions

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # sha256 hex of the messages
        pa.field("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # write | complete | summarise | find | implement
        pa.field("source_id", pa.string(), nullable=False),  # id of the document it was made from
        pa.field("language", pa.string(), nullable=False),
    ]
)

# One of the templates of a kind is chosen by a hash of what fills it.
WRITE = (
    "Write a Python function `{name}` that does the following:\n\n{description}",
    "Implement `{signature}` in Python.\n\n{description}",
    "I need a Python function called `{name}`. Its documentation reads:\n\n{description}\n\nPlease write it.",
    "This is the docstring of the Python function `{signature}`:\n\n{description}\n\nWrite the function.",
)
COMPLETE = (
    "Complete this function:\n\n```python\n{header}```",
    "Fill in the body of `{name}`:\n\n```python\n{header}```",
    "The body of this Python function is missing. Write the whole function.\n\n```python\n{header}```",
)
SUMMARISE = (
    "What does this function do?\n\n```python\n{code}```",
    "Summarise the following Python function in one sentence.\n\n```python\n{code}```",
    "Write the first line of a docstring for this function:\n\n```python\n{code}```",
    "Explain briefly what `{name}` does.\n\n```python\n{code}```",
)
FIND = (
    "A module has these functions:\n\n```python\n{signatures}\n```\n\nWhich of them fits this description? {summary}",
    "Which of the following functions is described by this sentence: “{summary}”\n\n```python\n{signatures}\n```",
    "Given the functions\n\n```python\n{signatures}\n```\n\nname the one that does this: {summary}",
)
IMPLEMENT = (
    "Complete the following Python function.\n\n```python\n{prompt}```",
    "Write a self-contained solution for this function, with the imports it needs.\n\n```python\n{prompt}```",
    "Read the signature and the docstring, then give the complete function.\n\n```python\n{prompt}```",
    "Please implement this function in Python:\n\n```python\n{prompt}```",
)


@gin.configurable
def instructions(
    out: epath.Path,
    *,
    documents: epath.Path = epath.Path("split"),
    max_stage1: int = 20_000,
    max_stage2: int = 5_000,
    max_chars: int = 3_000,
    buckets: int = 16,
    engine: Engine = LocalEngine(),
) -> dict:
    """Writes distinct examples made from the training documents in Python to out/stage1 and out/stage2.

    Args:
      out: directory to write; part-*.parquet with `SCHEMA` in its stage1 and stage2.
      documents: documents with column `split`.
      max_stage1: most examples of stage 1; where there are more, those with the smallest hashes stay.
      max_stage2: the same for stage 2.
      max_chars: longest example, question and answer together.
      buckets: number of parts of each stage; the examples of one must fit in memory.

    Returns:
      {"stage1": {kind: examples}, "stage2": {kind: examples}}
    """
    scratch = out / "_scratch"
    made, distinct = scratch / "made", scratch / "distinct"
    for directory in (made, distinct, out / "stage1", out / "stage2"):
        directory.mkdir(parents=True, exist_ok=True)
    make = ft.partial(_examples, max_chars=max_chars)
    engine.map(make, docs.parts(documents), made, label="instructions")
    engine.reduce(_distinct, docs.parts(made), distinct, key="id", buckets=buckets, label="distinct instructions")
    counts = {}
    for stage, limit in ((1, max_stage1), (2, max_stage2)):
        select = ft.partial(_select, stage=stage, last=_last_id(distinct, stage, limit))
        engine.map(select, docs.parts(distinct), out / f"stage{stage}", label=f"instructions, stage {stage}")
        kinds = pa.concat_tables(_read(part, ["kind"]) for part in docs.parts(out / f"stage{stage}"))["kind"]
        counts[f"stage{stage}"] = {str(entry["values"]): entry["counts"].as_py() for entry in kinds.value_counts()}
    scratch.rmtree()
    return counts


def _examples(table: pa.Table, *, max_chars: int) -> pa.Table:
    """All examples of both stages that can be made from the documents; `SCHEMA` and column `stage`."""
    rows = []
    for row in docs.kept(table).select(["id", "text", "path", "language", "split"]).to_pylist():
        if row["split"] == "train" and row["language"] == "python":
            functions = [f for f in documented_functions(row["text"], row["path"]) if "```" not in f.source]
            for stage, kind, question, answer in _dialogues(functions):
                if len(question) + len(answer) <= max_chars:
                    rows.append(_example(kind, question, answer, row) | {"stage": stage})
    return pa.Table.from_pylist(rows, SCHEMA.append(pa.field("stage", pa.int8())))


def _example(kind: str, question: str, answer: str, document: dict[str, Any]) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    digest = hashlib.sha256(json.dumps(messages).encode()).hexdigest()
    return {
        "id": digest,
        "messages": messages,
        "kind": kind,
        "source_id": document["id"],
        "language": document["language"],
    }


def _dialogues(functions: Sequence[Function]) -> Iterator[tuple[int, str, str, str]]:
    """(stage, kind, question, answer) of everything the functions of one file give rise to."""
    for function in functions:
        if _is_described(function):
            code = f"```python\n{function.source}```"
            if _choice(function, 2) and not function.node.decorator_list:
                fields = {"signature": _signature(function), "description": function.docstring.strip()}
                yield 1, "write", _ask(WRITE, function, **fields), code
            else:
                yield 1, "complete", _ask(COMPLETE, function, header=function.header), code
            yield 1, "summarise", _ask(SUMMARISE, function, code=_without_docstring(function)), function.summary
        if _is_exemplary(function):
            prompt = function.document.removesuffix(function.body)
            yield 2, "implement", _ask(IMPLEMENT, function, prompt=prompt), f"```python\n{function.document}```"
    described = [function for function in functions if _is_described(function)]
    for start in range(0, len(described) - 2, 4):
        group = described[start : start + 4]
        wanted = group[_choice(group[0], len(group))]
        signatures = "\n".join(map(_signature, group))
        question = _ask(FIND, wanted, signatures=signatures, summary=wanted.summary)
        yield 1, "find", question, f"`{wanted.name}`: {wanted.summary}"


def _ask(templates: Sequence[str], function: Function, **fields: str) -> str:
    return templates[_choice(function, len(templates))].format(name=function.name, **fields)


def _choice(function: Function, n: int) -> int:
    """A number below `n` that depends on the text of the function and on `n`."""
    digest = hashlib.sha256(f"{n}\0{function.source}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % n


def _is_described(function: Function) -> bool:
    """Whether the docstring opens with one plain English sentence; tests have none worth asking for."""
    summary = function.summary
    sentence = re.fullmatch(r"[A-Z][ -~]{14,158}[.]", summary) and summary.count(" ") >= 3 and ">>>" not in summary
    return bool(sentence) and not function.name.startswith("test")


def _is_exemplary(function: Function) -> bool:
    """Whether the function may serve as a model answer: self-contained, short, and it returns what it is asked for."""
    first = ast.unparse(function.node.args).split(",")[0]
    return (
        _is_described(function)
        and first not in ("self", "cls")
        and not function.missing
        and not function.packages
        and not function.node.decorator_list
        and isinstance(function.node, ast.FunctionDef)
        and not re.search(r"deprecated|todo|fixme", function.source, re.IGNORECASE)
        and function.body.count("\n") <= 40
        and any(isinstance(node, ast.Return | ast.Yield) and node.value for node in ast.walk(function.node))
    )


def _signature(function: Function) -> str:
    returns = f" -> {ast.unparse(function.node.returns)}" if function.node.returns else ""
    return f"def {function.name}({ast.unparse(function.node.args)}){returns}"


def _without_docstring(function: Function) -> str:
    """The source of the function without its docstring, comments and layout kept."""
    first = function.node.body[0]
    assert first.end_lineno is not None
    lines = function.header.splitlines(keepends=True)
    return "".join(lines[: len(lines) - (first.end_lineno - first.lineno + 1)]) + function.body.lstrip("\n")


def _distinct(table: pa.Table) -> pa.Table:
    """One row for each id and stage, from the smallest source id, in the order of ids."""
    table = table.sort_by([("id", "ascending"), ("stage", "ascending"), ("source_id", "ascending")])
    keys = list(zip(table["id"].to_pylist(), table["stage"].to_pylist(), strict=True))
    return table.take(pa.array([i for i, key in enumerate(keys) if i == 0 or key != keys[i - 1]], pa.int64()))


def _last_id(distinct: epath.Path, stage: int, limit: int) -> str:
    """The largest id that is among the `limit` smallest of the stage."""
    table = pa.concat_tables(_read(part, ["id", "stage"]) for part in docs.parts(distinct))
    ids = np.sort(table["id"].filter(pc.equal(table["stage"], stage)).to_numpy().astype(str))[:limit]
    return str(ids[-1]) if len(ids) else ""


def _select(table: pa.Table, *, stage: int, last: str) -> pa.Table:
    rows = zip(table["stage"].to_pylist(), table["id"].to_pylist(), strict=True)
    return table.filter(pa.array([s == stage and i <= last for s, i in rows], pa.bool_())).select(SCHEMA.names)


def _read(part: epath.Path, columns: list[str]) -> pa.Table:
    with part.open("rb") as file:
        return pq.read_table(file, columns=columns)
