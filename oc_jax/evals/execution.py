"""Verdicts on many programs at once: a pool of threads, each waiting on one sandbox."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import decimal
import functools
import itertools
import logging
import os
import time
from collections.abc import Iterable, Iterator

import gin

from oc_jax.evals import sandbox
from oc_jax.evals.languages import LANGUAGES

_LOG = logging.getLogger(__name__)
_WINDOW = 64  # programs between two looks for those to run again


@dataclasses.dataclass(frozen=True)
class Program:
    """A Python solution, and tests that call it as ``candidate`` from another process; see `sandbox.run`."""

    solution: str
    check: str
    entry_point: str


@dataclasses.dataclass(frozen=True)
class Source:
    """A program in any language, with its tests inside; the last of them prints `sandbox.SENTINEL`.

    language: key of LANGUAGES, or "python". files: what else lies in its working directory.
    """

    language: str
    solution: str
    files: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Filter:
    """A Python program that reads standard input: (input, expected output) of each test."""

    solution: str
    tests: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Choice:
    """An answer that is not run but compared."""

    solution: str
    expected: str


Judged = Program | Source | Filter | Choice


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Limits:
    """What one program may use. CPU time decides; the wall limit is there for those that sleep.

    workers: programs at a time, 0 for one per core. allow_unsandboxed: run them where the machine has no sandbox.
    libraries: directory of Python packages that programs with their tests inside may import, e.g. for BigCodeBench.
    """

    cpu_seconds: int = 5
    compile_cpu_seconds: int = 60
    wall_seconds: float = 60.0
    memory_bytes: int = 2 << 30
    workers: int = 0
    allow_unsandboxed: bool = False
    libraries: str | None = None


def judge(programs: Iterable[Judged], limits: Limits) -> Iterator[sandbox.Outcome]:
    """The outcome of each program, in order; those that ran into the wall limit are run once more, alone."""
    run = functools.partial(_run, limits=limits)
    programs, count = iter(programs), 0
    said = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(limits.workers or os.cpu_count() or 1) as pool:
        while window := list(itertools.islice(programs, _WINDOW)):
            outcomes = pool.map(run, window)
            for program in window:
                outcome = next(outcomes)
                if outcome.status == "timeout" and outcome.detail.startswith("wall"):
                    outcomes = iter(list(outcomes))  # the others end first
                    outcome = run(program)
                yield outcome
            count += len(window)
            if time.monotonic() - said > 10:
                said = time.monotonic()
                _LOG.info("judged %d programs", count)


_KEYS = {"javascript": "js", "lua": "lua_assert", "perl": "pl", "ruby": "rb_raise", "shell": "sh", "typescript": "ts"}


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Execute:
    """Runs solutions together with their tests, for stages that get it bound; see `sandbox` on its limits."""

    limits: Limits = Limits()

    def __call__(self, language: str, solution: str, tests: str) -> tuple[str, str]:
        """(status, detail) of `sandbox.Outcome`. The tests stand below the solution; language as data_prep names it."""
        key = _KEYS.get(language, language)
        finished = f"{tests}\nprint({sandbox.SENTINEL!r})\n" if key == "python" else ""
        if key in LANGUAGES:
            finished = LANGUAGES[key].finished(tests)
        head = "#include <cstdio>\n" if key == "cpp" else ""  # for what says that the end is reached
        (outcome,) = judge(
            [Source(key, f"{head}{solution}\n\n{finished}")], dataclasses.replace(self.limits, workers=1)
        )
        return outcome.status, outcome.detail


def _run(program: Judged, limits: Limits) -> sandbox.Outcome:
    match program:
        case Program():
            return sandbox.run(
                program.solution,
                check=program.check,
                entry_point=program.entry_point,
                cpu_seconds=limits.cpu_seconds,
                wall_seconds=limits.wall_seconds,
                memory_bytes=limits.memory_bytes,
                allow_unsandboxed=limits.allow_unsandboxed,
            )
        case Choice():
            right = program.solution == program.expected
            return sandbox.Outcome("ok" if right else "error", detail="" if right else f"expected {program.expected}")
        case Source():
            return _run_source(program, limits)
        case Filter():
            return _run_filter(program, limits)


def _run_source(program: Source, limits: Limits) -> sandbox.Outcome:
    files = {name: text.encode() for name, text in program.files}
    if program.language == "python":
        folders = {"libraries": limits.libraries} if limits.libraries else {}
        path = ["-c", _WITH_LIBRARIES] if folders else ["main.py"]
        steps = [sandbox.Step(("python", "-B", "-s", "-S", "-X", "utf8", *path), limits.cpu_seconds)]
        files["main.py"] = program.solution.encode()
    else:
        try:
            language = LANGUAGES[program.language]
            steps, folders = language.steps(program.solution, limits.cpu_seconds, limits.compile_cpu_seconds)
        except KeyError:
            return sandbox.Outcome("refused", detail=f"not run: there is no way to run {program.language} here")
        except FileNotFoundError as error:
            return sandbox.Outcome("refused", detail=f"not run: {error}")
        files[language.source] = program.solution.encode()
    outcome = _commands(steps, files, limits, folders)
    if outcome.status == "error" and (said := outcome.stderr.strip() or outcome.stdout.strip()):
        outcome = dataclasses.replace(outcome, detail=f"{outcome.detail}: {' '.join(said.split())[-300:]}")
    return outcome


_WITH_LIBRARIES = "import runpy, sys; sys.path[:0] = ['.', '{libraries}']; runpy.run_path('main.py', {}, '__main__')"


def _run_filter(program: Filter, limits: Limits) -> sandbox.Outcome:
    outcome = sandbox.Outcome("error", detail="there are no tests")
    for number, (given, expected) in enumerate(program.tests):
        step = sandbox.Step(("python", "-B", "-S", "-X", "utf8", "main.py"), limits.cpu_seconds, given.encode())
        outcome = _commands([step], {"main.py": program.solution.encode()}, limits, {})
        if outcome.status == "ok" and not same_output(outcome.stdout, expected):
            outcome = dataclasses.replace(outcome, status="error", detail=f"wrong output for test {number}")
        if outcome.status != "ok":
            break
    return outcome


def same_output(given: str, expected: str) -> bool:
    """Whether the lines agree, as text without space at the ends or word by word as decimal numbers."""
    ours, theirs = given.strip().split("\n"), expected.strip().split("\n")
    return len(ours) == len(theirs) and all(
        a.strip() == b.strip() or (_decimals(a) is not None and _decimals(a) == _decimals(b))
        for a, b in zip(ours, theirs, strict=True)
    )


def _decimals(line: str) -> list[decimal.Decimal] | None:
    try:
        return [decimal.Decimal(word) for word in line.split()]
    except decimal.InvalidOperation:
        return None


def _commands(steps, files, limits: Limits, folders) -> sandbox.Outcome:
    return sandbox.run_commands(
        steps,
        files=files,
        wall_seconds=limits.wall_seconds,
        memory_bytes=limits.memory_bytes,
        folders=folders,
        allow_unsandboxed=limits.allow_unsandboxed,
    )
