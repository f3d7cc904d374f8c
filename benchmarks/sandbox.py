"""What a sandboxed program costs: its start on each rung of the ladder, and HumanEval's own solutions as a whole.

    python benchmarks/sandbox.py [--repeats 30]

Wall time depends on what else the machine does. CPU time is that of the processes which ended by themselves: bubblewrap
is killed at the end, with what it started.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from oc_jax.evals import benchmark as lib
from oc_jax.evals import sandbox
from oc_jax.evals.registry import REGISTRY


def cost(action: Callable[[], object]) -> tuple[float, float]:
    """(wall, CPU) seconds of `action`, its children's CPU time included."""
    before = [resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)]
    started = time.monotonic()
    action()
    wall = time.monotonic() - started
    after = [resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)]
    return wall, sum(a.ru_utime + a.ru_stime - b.ru_utime - b.ru_stime for a, b in zip(after, before, strict=True))


def show(name: str, costs: list[tuple[float, float]], scale: float, unit: str) -> None:
    wall, cpu = ([value[i] * scale for value in costs] for i in (0, 1))
    print(
        f"{name:44} {min(wall):8.1f} {statistics.median(wall):8.1f} {statistics.median(cpu):8.1f}  {unit}", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()
    about = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"
    print(f"{platform.machine()}, {about}")
    print(f"{'':44} {'best':>8} {'median':>8} {'CPU':>8}")
    limits = {"wall_seconds": 30.0, "memory_bytes": 1 << 30}
    step = sandbox.Step(("/bin/true",), 5)
    rungs = [r for r in ("bwrap", "namespaces", "none") if r != "bwrap" or sandbox.rung() == "bwrap"]
    actions = {}
    for rung in rungs:
        actions[f"{rung}: a Python function and its check"] = (
            rung,
            lambda: sandbox.run(
                "def f(): return 1", check="assert candidate() == 1", entry_point="f", cpu_seconds=5, **limits
            ),
        )
        actions[f"{rung}: a command"] = rung, lambda: sandbox.run_commands([step], files={}, **limits)
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in actions}
    found = sandbox.rung
    for _ in range(args.repeats):  # interleaved, so that all see the same machine
        for name, (rung, action) in actions.items():
            sandbox.rung = lambda commands=False, rung=rung: rung
            costs[name].append(cost(action))
    for name, values in costs.items():
        show(name, values, 1000, "ms")
    sandbox.rung = found
    benchmark = REGISTRY["humaneval"]
    problems = lib.load(benchmark, None)
    passed: list[int] = []
    runs = [
        cost(lambda: passed.append(sum(lib.ground_truth(benchmark, problems, benchmark.limits).values())))
        for _ in range(3)
    ]
    show(f"HumanEval's own solutions ({passed[0]} of 164 pass)", runs, 1, "s")


if __name__ == "__main__":
    main()
