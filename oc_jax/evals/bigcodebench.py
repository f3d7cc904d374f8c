"""BigCodeBench (arXiv 2406.15877), full and hard: functions that use libraries, judged by unittest. Paper §5.

A base model completes the function ("complete"), a chat model is given the instruction ("instruct"). The solution and
its tests share a process, as the tests patch and inspect what the solution does. So a solution that brings what makes
any test succeed is not run: equality of its own, or parts of unittest. One that takes apart the runner in ways that its
text doesn't show can still pass.
"""

from __future__ import annotations

import ast

from etils import epath

from oc_jax.evals import extraction
from oc_jax.evals.benchmark import Benchmark, Problem, data_files, read_rows
from oc_jax.evals.execution import Limits, Source
from oc_jax.evals.humaneval import ANSWER_PREFIX, BASE_STOPS, STOPS
from oc_jax.evals.sandbox import SENTINEL

REQUEST = (
    "Please provide a self-contained Python script that solves the following problem in a markdown code block:\n{}\n"
)
FORBIDDEN = {"__eq__", "__ne__", "unittest", "mock"}
RUNNER = f'''
import os, sys, types, unittest
os.environ.update(MPLBACKEND="agg", TQDM_DISABLE="1")
sentinel = "{SENTINEL}"
def parts():
    return {{(c, n): v for c in (unittest.TestCase, unittest.TestResult, unittest.TestSuite, unittest.TestLoader)
            for n, v in list(vars(c).items()) if not n.startswith("_class") and n != "_previousTestClass"}}
text = open("program.txt").read()
for name in ("program.txt", "main.py"):
    os.unlink(name)
run, parts_before = unittest.TestSuite.run, parts()
sys.modules["__test__"] = module = types.ModuleType("__test__")
module.__dict__.update(__builtins__=__builtins__, __file__="__test__.py")
exec(compile(text, "__test__.py", "exec"), module.__dict__)
suite = unittest.TestLoader().loadTestsFromTestCase(module.TestCases)
expected = suite.countTestCases()
result = unittest.TestResult()
changed = parts() != parts_before
run(suite, result)
for _, trace in result.failures + result.errors:
    print(trace[-300:], file=sys.stderr)
if changed or parts() != parts_before:
    print("unittest was changed", file=sys.stderr)
elif expected and result.testsRun == expected and not result.failures + result.errors + result.unexpectedSuccesses:
    sys.stdout.flush()
    os.write(1, sentinel.encode())
os._exit(0)
'''


def load(path: epath.Path | None) -> list[Problem]:
    rows = read_rows(data_files(path, "BigCodeBench-hf.jsonl.gz or BigCodeBench_Hard.jsonl")[0])
    if any("complete_prompt" not in row for row in rows):
        raise ValueError(f"{path} is not the edition of BigCodeBench with complete_prompt and instruct_prompt")
    return [
        Problem(r["task_id"], r["complete_prompt"].strip("\n") + "\n", REQUEST.format(r["instruct_prompt"].strip()), r)
        for r in rows
    ]


def extract(problem: Problem, completion: str) -> str:
    """EvalPlus's sanitiser, "calibrated": the signature in front gives the imports that a solution forgot."""
    text = extraction.truncate(completion, STOPS)
    solution = extraction.solution(problem.prompt, text, problem.row["entry_point"])
    return f"{problem.row['code_prompt']}\n    pass\n{solution}"


def forbidden(solution: str) -> set[str]:
    """What of FORBIDDEN the code, not its comments and documentation, names; nothing if it isn't Python."""
    try:
        nodes = list(ast.walk(ast.parse(solution)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    words: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            words.update(".".join([getattr(node, "module", "") or "", *(a.name for a in node.names)]).split("."))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            words.add(node.value)
        else:
            words.update(v for field in ("id", "attr", "name") if isinstance(v := getattr(node, field, None), str))
    return words & FORBIDDEN


def program(problem: Problem, solution: str) -> Source:
    if found := forbidden(solution):
        return Source("python", f"raise SystemExit('a solution may not use {', '.join(sorted(found))}')")
    return Source("python", RUNNER, (("program.txt", f"{solution}\n{problem.row['test']}\n"),))


def canonical(problem: Problem) -> str:
    return problem.row["complete_prompt"] + "\n" + problem.row["canonical_solution"]


_SHARED = {
    "load": load,
    "extract": extract,
    "program": program,
    "canonical": canonical,
    "stops": lambda problem: BASE_STOPS,
    "chat_stops": STOPS,
    "answer_prefix": lambda problem: ANSWER_PREFIX,
    "max_new_tokens": 1280,
    "limits": Limits(cpu_seconds=60, wall_seconds=240, memory_bytes=4 << 30),
}
BIGCODEBENCH = Benchmark("bigcodebench", **_SHARED)
BIGCODEBENCH_HARD = Benchmark("bigcodebench_hard", **_SHARED)
