"""Several processes as one run: how they start, decide together, and stop together."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

TRY_AGAIN = 75  # EX_TEMPFAIL: what launchers start again


def start(how: str) -> None:
    """Joins the other processes. Call before anything else of JAX.

    Args:
      how: "auto" where JAX finds the others by itself (TPU pods, GKE, Slurm, MPI), else HOST:PORT,COUNT,INDEX: where
        the first process listens, how many there are, and which this is.

    Raises ValueError for anything else, RuntimeError when the others do not come within five minutes.
    """
    jax.config.update("jax_enable_preemption_service", True)
    if how == "auto":
        return jax.distributed.initialize()
    try:
        address, count, index = how.split(",")
        count, index = int(count), int(index)
    except ValueError:
        raise ValueError(f"--distributed={how}: give auto, or HOST:PORT,COUNT,INDEX") from None
    jax.distributed.initialize(address, count, index)


def leads() -> bool:
    """Whether this is the process that writes what is written once."""
    return jax.process_index() == 0


def from_leader(decide: Callable[[], Any]) -> Any:
    """The JSON value of `decide()`, which only the first process calls; where it raises ValueError, all do."""
    if jax.process_count() == 1:
        return decide()
    text = b""
    if leads():
        try:
            text = json.dumps({"value": decide()}).encode()
        except ValueError as error:
            text = json.dumps({"error": str(error)}).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.zeros(size, np.uint8)
    padded[: len(text)] = np.frombuffer(text, np.uint8)
    said = json.loads(bytes(multihost_utils.broadcast_one_to_all(padded)))
    if "error" in said:
        raise ValueError(said["error"])
    return said["value"]


def everywhere(value: bool) -> bool:
    """Whether `value` holds on all processes; each has to call this."""
    return value if jax.process_count() == 1 else bool(np.all(multihost_utils.process_allgather(np.bool_(value))))


def sum_of_parts(counts: np.ndarray, part: int, parts: int) -> np.ndarray:
    """Sum of `counts` over the `parts` that processes read; several may read the same. Each has to call this."""
    if jax.process_count() == 1:
        return counts
    mine = np.append(part, counts).astype(np.int64)
    every = np.asarray(multihost_utils.process_allgather(mine.view(np.uint8))).view(np.int64)  # JAX cuts 64 bits to 32
    return np.sum([next(row[1:] for row in every if row[0] == number) for number in range(parts)], axis=0)


def stop(error: BaseException, text: str, code: int) -> NoReturn:
    """Says `text` and ends this process at once, so that the others notice; an orderly exit would wait for them."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        code = TRY_AGAIN
        text = f"another process of this run is gone ({text[:200]}): run the same command everywhere to continue"
    print(f"run.py: {text}", file=sys.stderr, flush=True)
    os._exit(code)


def cache_compilations(directory: epath.Path) -> None:
    """Keeps compiled programs for the next start, where compiling takes long: not on CPUs."""
    if jax.default_backend() != "cpu" and not jax.config.jax_compilation_cache_dir:  # pyright: ignore
        jax.config.update("jax_compilation_cache_dir", os.fspath(directory))


class Preemption:
    """Within the block, SIGTERM does not end the process; `reached` tells all processes to stop after the same step.

    Several processes use JAX's preemption service, which takes a SIGTERM on any of them: that is also how a TPU's
    maintenance and a node's eviction announce themselves.
    """

    _calls = itertools.count()  # the service wants a number that only grows, over all stages

    def __enter__(self) -> Preemption:
        self._received = False
        if jax.process_count() == 1:
            self._previous = signal.signal(signal.SIGTERM, self._receive)
        return self

    def _receive(self, signum, frame) -> None:
        self._received = True

    def reached(self) -> bool:
        """Call once after every step."""
        if jax.process_count() == 1:
            return self._received
        return multihost_utils.reached_preemption_sync_point(next(self._calls))

    def __exit__(self, *exception) -> None:
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._previous)
