"""Evaluation: the stage that runs tasks on a checkpoint, and the tasks.

A task is a configurable function from a `Subject` to a `Result` (task.py): bits_per_byte, samples, and every benchmark
of registry.py under its name, e.g. @humaneval. A new one is imported here, or entered there, for run files to name it.
"""

from __future__ import annotations

import json
import logging
import time
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
    "load_engine",
    "samples",
]

BENCHMARKS = {name: gin.configurable(name, module="oc_jax.evals")(make_task(b)) for name, b in REGISTRY.items()}

_LOG = logging.getLogger(__name__)


def load_engine(checkpoint: epath.Path, tokenizer: epath.Path) -> Generator:
    from oc_jax.decode import Engine  # late: judging programs needs no JAX

    return Engine.load(checkpoint, tokenizer)


@gin.configurable
def evaluate(
    out: epath.Path,
    *,
    checkpoint: epath.Path = gin.REQUIRED,
    tokenizer: epath.Path = epath.Path("tokenizer"),
    heldout: epath.Path = epath.Path("data/heldout"),
    tasks: dict[str, Task] = gin.REQUIRED,
) -> dict[str, Any]:
    """Runs each task on `checkpoint`; writes results.json and samples.json after each, so that a kill loses one task.

    Args:
      checkpoint: a train stage.
      tokenizer: the tokenizer it was trained with.
      heldout: a dataset directory of kind text.
      tasks: name in results.json → task, e.g. {"humaneval": @humaneval, "humaneval_chat": @chat/humaneval}.

    Returns:
      task → its headline number, for tasks that have one.
    """
    results = _read_json(out / "results.json", {"checkpoint": checkpoint.name, "headlines": {}})
    written = _read_json(out / "samples.json", [])
    left = {name: task for name, task in tasks.items() if name not in results}
    subject = Subject(load_engine(checkpoint, tokenizer), heldout) if left else None
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


def _read_json(path: epath.Path, default: Any) -> Any:
    return json.loads(path.read_text()) if path.exists() else default


def _write_json(path: epath.Path, value: Any) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    temporary.replace(path)
