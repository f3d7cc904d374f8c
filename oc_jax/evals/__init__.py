"""Evaluation: the stage that runs tasks on a checkpoint, and the tasks.

A task is a configurable function from a `Subject` to a `Result` (task.py): bits_per_byte, samples, and every benchmark
of registry.py under its name, e.g. @humaneval. A new one is imported here, or entered there, for run files to name it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import gin
from etils import epath

from oc_jax.evals.benchmark import make_task
from oc_jax.evals.bits_per_byte import bits_per_byte
from oc_jax.evals.registry import REGISTRY
from oc_jax.evals.samples import samples
from oc_jax.evals.task import Generator, Result, Subject, Task

__all__ = [
    "BENCHMARKS",
    "Generator",
    "Result",
    "Subject",
    "Task",
    "bits_per_byte",
    "evaluate",
    "follow",
    "load_engine",
    "samples",
]

BENCHMARKS = {name: gin.configurable(name, module="oc_jax.evals")(make_task(b)) for name, b in REGISTRY.items()}

_LOG = logging.getLogger(__name__)


def load_engine(
    checkpoint: epath.Path, tokenizer: epath.Path, *, step: int | None = None, slots: int = 32
) -> Generator:
    from oc_jax.decode import Engine  # late: judging programs needs no JAX

    return Engine.load(checkpoint, tokenizer, step=step, slots=slots)


@gin.configurable
def evaluate(
    out: epath.Path,
    *,
    checkpoint: epath.Path = gin.REQUIRED,
    tokenizer: epath.Path = epath.Path("tokenizer"),
    heldout: epath.Path = epath.Path("data/heldout"),
    tasks: dict[str, Task] = gin.REQUIRED,
    slots: int = 32,
) -> dict[str, Any]:
    """Runs each task on `checkpoint`; writes results.json and samples.json after each, so that a kill loses one task.

    Args:
      checkpoint: a train stage.
      tokenizer: the tokenizer it was trained with.
      heldout: a dataset directory of kind text.
      tasks: name in results.json → task, e.g. {"humaneval": @humaneval, "humaneval_chat": @chat/humaneval}.
      slots: sequences that are decoded at a time.

    Returns:
      task → its headline number, for tasks that have one.
    """
    load = lambda: Subject(load_engine(checkpoint, tokenizer, slots=slots), heldout)
    return run_tasks(out, {"checkpoint": checkpoint.name}, tasks, load)


def run_tasks(
    out: epath.Path, about: dict[str, Any], tasks: dict[str, Task], load: Callable[[], Subject]
) -> dict[str, Any]:
    """Runs those of `tasks` whose results are not in `out` yet; `about` begins its results.json. Returns headlines."""
    results = _read_json(out / "results.json", {**about, "headlines": {}})
    written = _read_json(out / "samples.json", [])
    left = {name: task for name, task in tasks.items() if name not in results}
    subject = load() if left else None
    for name, task in left.items():
        assert subject
        _LOG.info("%s starts", name)
        started = time.monotonic()
        result = task(subject)
        _LOG.info("%s: %s in %.0f s", name, result.headline, time.monotonic() - started)
        # A task whose samples were written but not its results runs again.
        written = [s for s in written if s["task"] != name] + [s | {"task": name} for s in result.samples]
        _write_json(out / "samples.json", written)
        results[name] = result.numbers
        results["headlines"][name] = result.headline
        _write_json(out / "results.json", results)
    return {name: value for name, value in results["headlines"].items() if value is not None}


@gin.configurable
def follow(
    workdir: epath.Path,
    stages: Sequence[str],
    *,
    tasks: dict[str, Task] = gin.REQUIRED,
    every: dict[str, int] = gin.REQUIRED,
    tokenizer: epath.Path = epath.Path("tokenizer"),
    heldout: epath.Path = epath.Path("data/heldout"),
    slots: int = 32,
    poll_seconds: float = 20.0,
) -> None:
    """Evaluates the checkpoints of train stages while they are written, in a process of its own: training never waits.

    Writes workdir/scores/<stage>/<step>/results.json, and goes on behind what is there. Of the checkpoints that come
    while it is busy it takes the newest. Returns once all `stages` are finished and their last checkpoints evaluated.

    Args:
      stages: names of train stages, in order.
      tasks: as of `evaluate`.
      every: task → steps, at least, between the checkpoints it runs on; it also runs on a stage's last one.
      poll_seconds: between two looks.
    """
    from oc_jax import checkpoint  # late, as above

    for stage in stages:
        finished = False
        while not finished:
            finished = (workdir / stage / "DONE.json").exists()  # looked for first: nothing is saved after it
            step = checkpoint.latest(workdir / stage / "checkpoints")
            out = workdir / "scores" / stage / str(step)
            due = [] if step is None else _due(out, every, last=finished)
            if not due:
                time.sleep(0 if finished else poll_seconds)
                continue
            out.mkdir(parents=True, exist_ok=True)
            chosen, about = {name: tasks[name] for name in due}, {"checkpoint": stage, "step": step}
            try:
                engine = load_engine(workdir / stage, workdir / tokenizer, step=step, slots=slots)
            except Exception:  # Orbax raises whatever its parts raise
                if checkpoint.latest(workdir / stage / "checkpoints") == step:
                    raise
                continue  # training has removed it meanwhile
            run_tasks(out, about, chosen, lambda engine=engine: Subject(engine, workdir / heldout))


def _due(out: epath.Path, every: dict[str, int], *, last: bool) -> list[str]:
    """The tasks to run on step `out.name`, given what lies beside `out` about earlier ones."""
    step, behind = int(out.name), {}
    for other in out.parent.glob("*/results.json"):
        for name in _read_json(other, {})["headlines"]:
            behind[name] = max(behind.get(name, 0), int(other.parent.name))
    return [name for name, gap in every.items() if step - behind.get(name, 0) >= (1 if last else gap)]


def _read_json(path: epath.Path, default: Any) -> Any:
    return json.loads(path.read_text()) if path.exists() else default


def _write_json(path: epath.Path, value: Any) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    temporary.replace(path)
