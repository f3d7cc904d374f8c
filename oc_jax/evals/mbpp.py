"""MBPP (arXiv 2108.07732) in three settings: EvalPlus's 378 problems with MBPP's tests or MBPP+'s, and 3-shot on 500.

The 3-shot prompt is OpenCodeEval's: tasks 1 to 3 as examples, tasks 10 to 509 as questions (the official test split is
11 to 510). Unlike there, only what the model wrote is searched for code: with the examples in front, the longest valid
piece of text is often an example.
"""

from __future__ import annotations

import ast
from typing import Any

from etils import epath

from oc_jax.evals import extraction
from oc_jax.evals.benchmark import Benchmark, Problem, data_files, read_rows
from oc_jax.evals.execution import Limits, Program
from oc_jax.evals.humaneval import ANSWER_PREFIX, BASE_STOPS, NUMPY, REQUEST, STOPS

SHOTS, QUESTIONS = (1, 2, 3), range(10, 510)
QUESTION = (
    "You are an expert Python programmer, and here is your task:\n{text}\n"
    "Your code should pass these tests:\n{tests}\n\n```python\n"
)
_ANY_ANSWER = "exp == (out is not None)"  # tests of what is returned where anything but None will do


def load_evalplus(path: epath.Path | None) -> list[Problem]:
    rows = read_rows(data_files(path, "MbppPlus-OriginFmt.jsonl.gz")[0])
    prompts = [f'"""\n{row["prompt"]}\n{row["test_list"][0]}\n"""\n' for row in rows]
    return [
        Problem(f"Mbpp/{row['task_id']}", prompt, REQUEST.format(prompt=prompt), row)
        for row, prompt in zip(rows, prompts, strict=True)
    ]


def load_3shot(path: epath.Path | None) -> list[Problem]:
    rows = {row["task_id"]: row for row in read_rows(data_files(path, "mbpp.jsonl")[0])}
    shots = "".join(f"{_question(rows[i])}{_code(rows[i])}\n```\n\n" for i in SHOTS)
    return [
        Problem(f"Mbpp/{i}", shots + _question(rows[i]), shots + _question(rows[i]), rows[i])
        for i in QUESTIONS
        if i in rows
    ]


def _question(row: dict[str, Any]) -> str:
    return QUESTION.format(text=row["text"], tests="\n".join(row["test_list"]))


def _code(row: dict[str, Any]) -> str:
    return row["code"].replace("\r\n", "\n").replace("\t", "    ").strip()


def entry_point(row: dict[str, Any]) -> str:
    """The function of the data's own solution that the tests call first."""
    defined = {node.name for node in ast.walk(ast.parse(row["code"])) if isinstance(node, ast.FunctionDef)}
    for test in row["test_list"]:
        for node in ast.walk(ast.parse(test)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in defined:
                return node.func.id
    raise ValueError(f"the tests of MBPP's task {row['task_id']} call no function of its solution")


def extract(problem: Problem, completion: str) -> str:
    return extraction.solution("", extraction.truncate(completion, STOPS), entry_point(problem.row))


def program(problem: Problem, solution: str) -> Program:
    row = problem.row
    setup = ["import sys", *row.get("test_imports", []), row.get("test_setup_code", "")]
    return _program(row, solution, "\n".join([*setup, *row["test_list"]]))


def program_plus(problem: Problem, solution: str) -> Program:
    return _program(problem.row, solution, problem.row["test"].replace("import numpy as np", NUMPY))


def _program(row: dict[str, Any], solution: str, tests: str) -> Program:
    name = entry_point(row)
    if _ANY_ANSWER in row.get("test", ""):  # a match object can't pass to the tests
        solution += f"\n_answer = {name}\ndef {name}(*args):\n"
        solution += "    out = _answer(*args)\n    return out if isinstance(out, bool) else out is not None\n"
    return Program(solution, f"{name} = candidate\n{tests}", name)


_SHARED = {
    "extract": extract,
    "canonical": lambda problem: problem.row["code"],
    "stops": lambda problem: (*BASE_STOPS, '\n"""'),
    "chat_stops": STOPS,
    "answer_prefix": lambda problem: ANSWER_PREFIX,
}
MBPP = Benchmark("mbpp", load_evalplus, program=program, **_SHARED)
MBPP_PLUS = Benchmark("mbpp_plus", load_evalplus, program=program_plus, **_SHARED, limits=Limits(cpu_seconds=30))
MBPP_3SHOT = Benchmark(
    "mbpp_3shot", load_3shot, program=program, **_SHARED | {"stops": lambda p: STOPS, "answer_prefix": lambda p: ""}
)
