"""McEval (arXiv 2406.07436): functions to write, and MdEval (arXiv 2411.02310): functions to repair, in many languages.

MdEval's other questions have their answer in the data: which kind of bug it is (ident), which lines hold it (loc), and
which of two versions is right (review). Languages that there is no way to run here are reported as not run.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from etils import epath

from oc_jax.evals import extraction
from oc_jax.evals.benchmark import Benchmark, Problem, data_files, read_rows
from oc_jax.evals.execution import Choice, Judged, Limits, Program, Source
from oc_jax.evals.languages import LANGUAGES
from oc_jax.evals.sandbox import SENTINEL

KEYS = {
    "C": "c",
    "CPP": "cpp",
    "C#": "cs",
    "Go": "go",
    "Java": "java_file",
    "JavaScript": "js",
    "Lua": "lua_assert",
    "PHP": "php_assert",
    "Perl": "pl",
    "Python": "python",
    "R": "r",
    "Ruby": "rb_raise",
    "Rust": "rs_test",
    "Scala": "scala_solution",
    "Shell": "sh",
    "Tcl": "tcl",
    "TypeScript": "ts",
}
_THROW = "console.assert = (ok: any, ...rest: any[]) => { if (!ok) throw new Error('assertion failed'); };\n"
_CS_CHECK = """
static class Tests {
    public static void Assert(bool ok, string why = null) { if (!ok) System.Environment.Exit(1); }
}
"""


def load(path: epath.Path | None) -> list[Problem]:
    """A file Language.jsonl or a directory of them. Raises FileNotFoundError."""
    rows = [row for file in data_files(path, "McEval's Language.jsonl") for row in read_rows(file)]
    return [_problem(row["task_id"], row["prompt"], row) for row in rows if "canonical_solution" in row]


def load_repairs(path: epath.Path | None) -> list[Problem]:
    """A file of MdEval or a directory of them, of one kind: bug, ident, loc or review."""
    rows = [row for file in data_files(path, "MdEval's bug/Language.jsonl.gz") for row in read_rows(file)]
    return [_problem(row["question_id"], row["instruction"], row) for row in rows]


def _problem(task_id: str, prompt: str, row: dict[str, Any]) -> Problem:
    return Problem(task_id, prompt.rstrip() + "\n", row["instruction"], row, task_id.rpartition("/")[0])


def extract(problem: Problem, completion: str) -> str:
    name = problem.row["entry_point"]
    block = next((b for b in extraction.fenced(completion) if name in b), None)
    if problem.group == "Python":
        return extraction.solution(problem.prompt, completion, name)
    return f"{problem.prompt}{completion}" if block is None else block


def extract_repair(problem: Problem, completion: str) -> str:
    row, blocks = problem.row, extraction.fenced(completion)
    if "loc_answer" in row:
        return _letters(blocks[-1] if blocks else completion)
    if "choice_answer" in row:
        return "".join(re.findall(r"\b[AB]\b", completion)[:1])
    if _is_ident(row):
        return completion.strip().strip("'\"`.")
    return blocks[0] if blocks else completion


def _letters(text: str) -> str:
    found = re.search(r"\[[^\]]*\]", text)
    try:
        return ", ".join(sorted(map(str, ast.literal_eval(found[0])))) if found else ""
    except (SyntaxError, ValueError):
        return ""


def _is_ident(row: dict[str, Any]) -> bool:
    return "select the error type" in row["instruction"]


def program(problem: Problem, solution: str) -> Judged:
    row = problem.row
    if "loc_answer" in row:
        return Choice(solution, ", ".join(sorted(row["loc_answer"])))
    if "choice_answer" in row:
        return Choice(solution, row["choice_answer"])
    if "subtype" in row and _is_ident(row):
        return Choice(solution, row["subtype"])
    return joined(problem.group, row.get("entry_point", ""), solution, row.get("test", ""))


def joined(language: str, entry_point: str, solution: str, tests: str) -> Judged:
    """`solution` and `tests` that end in the sentinel; Python's are kept apart where the tests name one function."""
    if language == "Python":
        name = entry_point or next(iter(re.findall(r"^check\((\w+)\)", tests, re.MULTILINE)), "")
        if name:
            return Program(solution, f"{name} = candidate\n{tests}", name)
    key = KEYS.get(language, language)
    if key in ("js", "ts"):
        tests = (_THROW if key == "ts" else _THROW.replace(": any[]", "").replace(": any", "")) + tests
    if key == "cs":
        tests = tests.replace("Debug.Assert(", "Tests.Assert(")
    if key == "python":
        tests += f"\nprint('{SENTINEL}')\n"
    finished = LANGUAGES[key].finished(tests) if key in LANGUAGES else tests
    return Source(key, f"{solution}\n{finished}{_CS_CHECK if key == 'cs' else ''}")


def canonical(problem: Problem) -> str:
    return f"{problem.row['prompt']}\n{problem.row['canonical_solution']}"


def canonical_repair(problem: Problem) -> str | None:
    row = problem.row
    return None if isinstance(program(problem, ""), Choice) else row["canonical_solution"]


_LIMITS = Limits(cpu_seconds=15)
MCEVAL = Benchmark("mceval", load, extract, program, canonical, max_new_tokens=1024, limits=_LIMITS)
MDEVAL = Benchmark(
    "mdeval", load_repairs, extract_repair, program, canonical_repair, max_new_tokens=1024, limits=_LIMITS
)
