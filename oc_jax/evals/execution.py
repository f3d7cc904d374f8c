"""Verdicts on many programs at once: a pool of threads, each waiting on one sandbox."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import logging
import os
import time
from collections.abc import Sequence

import gin

from oc_jax.evals import sandbox

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Program:
    """A solution, and the tests that call it as ``candidate``; see `sandbox.run`."""

    solution: str
    check: str
    entry_point: str


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Limits:
    """What one program may use. CPU time decides; the wall limit is there for those that sleep.

    workers: programs at a time, 0 for one per core. allow_unsandboxed: run them where the machine has no sandbox.
    """

    cpu_seconds: int = 5
    wall_seconds: float = 60.0
    memory_bytes: int = 2 << 30
    workers: int = 0
    allow_unsandboxed: bool = False


def judge(programs: Sequence[Program], limits: Limits) -> list[sandbox.Outcome]:
    """The outcome of each program, in order; those that ran into the wall limit are run once more, alone."""

    def run(program: Program) -> sandbox.Outcome:
        return sandbox.run(
            program.solution,
            check=program.check,
            entry_point=program.entry_point,
            cpu_seconds=limits.cpu_seconds,
            wall_seconds=limits.wall_seconds,
            memory_bytes=limits.memory_bytes,
            allow_unsandboxed=limits.allow_unsandboxed,
        )

    outcomes: list[sandbox.Outcome] = []
    said = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(limits.workers or os.cpu_count() or 1) as pool:
        for outcome in pool.map(run, programs):
            outcomes.append(outcome)
            if time.monotonic() - said > 10:
                said = time.monotonic()
                _LOG.info("judged %d of %d programs", len(outcomes), len(programs))
    return [
        run(program) if outcome.status == "timeout" and outcome.detail.startswith("wall") else outcome
        for program, outcome in zip(programs, outcomes, strict=True)
    ]
