"""LiveCodeBench (arXiv 2403.07974), code generation for chat models: programs read standard input, or define a method.

The file is that of its data set (code_generation_lite): hidden tests may be base64 of zlib of a pickle, which is read
without running anything. Each test gets a process of its own with a real pipe.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import zlib
from typing import Any

from etils import epath

from oc_jax.evals import extraction
from oc_jax.evals.benchmark import Benchmark, Problem, data_files, read_rows
from oc_jax.evals.execution import Filter, Judged, Limits, Program
from oc_jax.evals.leetcode import CALL, IMPORTS

REQUEST = """You will be given a question (problem specification) and will generate a correct Python program that \
matches the specification and passes all tests.

### Question:
{question}

### Format: {form}
```python
{starter}
```

### Answer: (use the provided format with backticks)

"""
WITH_STARTER = "You will use the following starter code to write the solution to the problem and enclose your code \
within delimiters."
WITHOUT_STARTER = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on \
the sample inputs). Enclose your code within delimiters as follows. Ensure that when the python program runs, it reads \
the inputs, runs the algorithm and writes output to STDOUT."
)


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"the tests contain {module}.{name}")


def load(path: epath.Path | None) -> list[Problem]:
    rows = [row for file in data_files(path, "LiveCodeBench's test.jsonl") for row in read_rows(file)]
    return [Problem(row["question_id"], "", _request(row), row) for row in rows]


def _request(row: dict[str, Any]) -> str:
    starter = row.get("starter_code", "")
    form = WITH_STARTER if starter else WITHOUT_STARTER
    return REQUEST.format(question=row["question_content"], form=form, starter=starter or "# YOUR CODE HERE")


def read_tests(text: str) -> list[dict[str, str]]:
    """The tests, as JSON or as base64 of zlib of a pickled JSON text."""
    try:
        return json.loads(text)
    except ValueError:
        return json.loads(_Plain(io.BytesIO(zlib.decompress(base64.b64decode(text)))).load())


def extract(problem: Problem, completion: str) -> str:
    """The last code block, as the harness does."""
    return (extraction.fenced(completion) or [""])[-1]


def program(problem: Problem, solution: str) -> Judged:
    row = problem.row
    tests = [test for name in ("public_test_cases", "private_test_cases") for test in read_tests(row.get(name) or "[]")]
    name = json.loads(row.get("metadata") or "{}").get("func_name")
    if not name:
        return Filter(f"{IMPORTS}\n{solution}", tuple((test["input"], test["output"]) for test in tests))
    cases = [([json.loads(line) for line in t["input"].split("\n") if line], json.loads(t["output"])) for t in tests]
    # JSON has no tuples: they count as lists
    check = f"""
def listed(value):
    return [listed(item) for item in value] if isinstance(value, (list, tuple)) else value
for args, expected in {cases!r}:
    assert listed(candidate({name!r}, args, {{}})) == expected
"""
    return Program(f"{IMPORTS}\n{solution}\n{CALL}", check, "_call")


LIVECODEBENCH = Benchmark("livecodebench", load, extract, program, max_new_tokens=2000, limits=Limits(cpu_seconds=6))
