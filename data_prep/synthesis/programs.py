"""Tests that a teacher wrote, run in the sandbox: they must pass with its solution and fail without.

The sandbox is whatever `execute` is bound to: a function of (language, solution, tests) that returns (status, detail),
status being "ok", "refused" (there is no way to run it here) or what went wrong.
"""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import os
import re
from collections.abc import Callable

from data_prep.synthesis.grammar import Rejected, python
from data_prep.synthesis.store import Store, key_of
from data_prep.synthesis.teacher import Stopped

Execute = Callable[[str, str, str], tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Runnable:
    """A language whose tests can be run: its fences, and what a prompt says of the form that tests have."""

    title: str
    fences: tuple[str, ...]
    tests: str


_ASSERTS = "only assert statements at the top level that call the solution, and what these need"
RUNNABLE = {
    "python": Runnable("Python", ("python", "py", "python3"), _ASSERTS),
    "cpp": Runnable("C++", ("cpp", "c++"), "one function `int main()` that calls assert() and returns 0"),
    "javascript": Runnable(
        "JavaScript", ("javascript", "js"), "calls of `assert` from node's module assert, required there"
    ),
    "typescript": Runnable(
        "TypeScript", ("typescript", "ts"), "statements that throw an Error where a result is not as expected"
    ),
    "lua": Runnable("Lua", ("lua",), "calls of assert() at the top level"),
    "perl": Runnable("Perl", ("perl",), "statements of the form `EXPRESSION or die;`"),
    "ruby": Runnable("Ruby", ("ruby", "rb"), "statements of the form `raise unless EXPRESSION`"),
    "shell": Runnable("Bash", ("bash", "sh", "shell"), "statements of the form `[ … ] || exit 1`"),
}


class Judge:
    """Verdicts on programs. They are stored too: a program that barely makes its limit must not change the data set."""

    def __init__(self, execute: Execute | None, store: Store) -> None:
        self._execute, self._store = execute, store
        self._slots = asyncio.Semaphore(os.cpu_count() or 1)

    async def check(self, language: str, solution: str, tests: str) -> None:
        """Raises Rejected where the tests fail, or pass without the solution; Stopped where nothing can be run."""
        status, detail = await self._run(language, solution, tests)
        if status != "ok":
            raise Rejected(f"tests_failed: {status}: {detail}"[:300])
        if (await self._run(language, emptied(solution, language), tests))[0] == "ok":
            raise Rejected("tests_pass_without_solution")

    async def _run(self, language: str, solution: str, tests: str) -> tuple[str, str]:
        if (execute := self._execute) is None:
            raise Stopped("these answers come with tests: bind synthesis.execute, for instance to @Execute()")
        key = key_of(["verdict", repr(execute), language, solution, tests])

        async def judge() -> dict[str, str]:
            async with self._slots:
                status, detail = await asyncio.to_thread(execute, language, solution, tests)
            if status == "refused":
                raise Stopped(f"tests cannot be run: {detail}")
            # Addresses differ from run to run.
            verdict = {"status": status, "detail": re.sub(r"0x[0-9a-fA-F]{6,}", "0x…", detail)}
            await self._store.add(key, verdict)
            return verdict

        verdict = await self._store.once(key, judge)
        return verdict["status"], verdict["detail"]


def emptied(solution: str, language: str) -> str:
    """`solution` with nothing in its functions and classes; in languages other than Python, nothing at all."""
    if language != "python":
        return ""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    tree = python(solution, "solution")
    for node in ast.walk(tree):
        if isinstance(node, functions):
            node.body = [ast.Pass()]
        elif isinstance(node, ast.ClassDef):
            node.decorator_list = []  # they write methods, too
            node.body = [inner for inner in node.body if isinstance(inner, functions)] or [ast.Pass()]
    tree.body = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom, ast.ClassDef, *functions))]
    return ast.unparse(tree) + "\n"
