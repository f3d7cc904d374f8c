"""CRUXEval (arXiv 2401.03065): what a short function returns for an input, or an input it returns something for."""

from __future__ import annotations

import re

from etils import epath

from oc_jax.evals.benchmark import Benchmark, Problem, data_files, read_rows
from oc_jax.evals.execution import Program

OUTPUT_PROMPT = """You are given a Python function and an assertion containing an input to the function. Complete \
the assertion with a literal (no unsimplified expressions, no function calls) containing the output when executing the \
provided code on the given input, even if the function is incorrect or incomplete. Do NOT output any extra \
information. Provide the full assertion with the correct output in [ANSWER] and [/ANSWER] tags, following the examples.

[PYTHON]
def f(n):
    return n
assert f(17) == ??
[/PYTHON]
[ANSWER]
assert f(17) == 17
[/ANSWER]

[PYTHON]
def f(s):
    return s + "a"
assert f("x9j") == ??
[/PYTHON]
[ANSWER]
assert f("x9j") == "x9ja"
[/ANSWER]

[PYTHON]
{code}
assert f({input}) == ??
[/PYTHON]
[ANSWER]
"""
INPUT_PROMPT = """You will be given a function f and an output in the form f(??) == output. Find any input such that \
executing f on the input leads to the given output. There may be multiple answers, but you should only output one. \
In [ANSWER] and [/ANSWER] tags, complete the assertion with one such input that will produce the output when \
executing the function.

[PYTHON]
def f(my_list):
    count = 0
    for i in my_list:
        if len(i) % 2 == 0:
            count += 1
    return count
assert f(??) == 3
[/PYTHON]
[ANSWER]
assert f(["mq", "px", "zy"]) == 3
[/ANSWER]

[PYTHON]
def f(s1, s2):
    return s1 + s2
assert f(??) == "banana"
[/PYTHON]
[ANSWER]
assert f("ba", "nana") == "banana"
[/ANSWER]

[PYTHON]
{code}
assert f(??) == {output}
[/PYTHON]
[ANSWER]
"""
_MARK = "[ANSWER]\n"


def _load(path: epath.Path | None, form: str) -> list[Problem]:
    rows = read_rows(data_files(path, "cruxeval.jsonl")[0])
    prompts = [form.replace("{code}", r["code"]).replace("{input}", r["input"]).replace("{output}", r["output"])
               for r in rows]  # fmt: skip
    return [Problem(r["id"], p, p.removesuffix(_MARK), r) for r, p in zip(rows, prompts, strict=True)]


def _answer(completion: str) -> str:
    return completion.partition("[/ANSWER]")[0].rpartition("[ANSWER]")[2].strip()


def extract_output(problem: Problem, completion: str) -> str:
    return _answer(completion).rpartition("==" if "assert" in completion else "\0")[2].strip()


def extract_input(problem: Problem, completion: str) -> str:
    call = _answer(completion).removeprefix("assert").strip()
    call = call.removesuffix(problem.row["output"]).rstrip().removesuffix("==").strip()
    return re.sub(r"\Af\((.*)\)\Z", r"\1", call, flags=re.DOTALL)


def program_output(problem: Problem, solution: str) -> Program:
    """The prediction is evaluated alone, without the function; the comparison happens where it can't be seen."""
    return Program(
        f"def answer():\n    return {solution}\n", f"assert candidate() == {problem.row['output']}", "answer"
    )


def program_input(problem: Problem, solution: str) -> Program:
    # As a string: the arguments are evaluated where they can't redefine f, and f runs among the tests.
    source = f"def answer():\n    return (lambda *args, **kwargs: (args, kwargs))({solution})\n"
    check = f"{problem.row['code']}\nargs, kwargs = candidate()\nassert f(*args, **kwargs) == {problem.row['output']}"
    return Program(source, check, "answer")


_STOPS = ("[/ANSWER]",)
CRUXEVAL_I = Benchmark(
    "cruxeval_i", lambda path: _load(path, INPUT_PROMPT), extract_input, program_input, lambda p: p.row["input"],
    lambda p: _STOPS, _STOPS, lambda p: _MARK, max_new_tokens=256,
)  # fmt: skip
CRUXEVAL_O = Benchmark(
    "cruxeval_o", lambda path: _load(path, OUTPUT_PROMPT), extract_output, program_output, lambda p: p.row["output"],
    lambda p: _STOPS, _STOPS, lambda p: _MARK, max_new_tokens=256,
)  # fmt: skip
