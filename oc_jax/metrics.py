"""What a training run tells about itself: metrics.jsonl and TensorBoard always, Weights & Biases if WANDB_PROJECT is
set, a profile on request, one progress line."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import psutil
from etils import epath

from oc_jax import flops

LOGGER = logging.getLogger("oc_jax.progress")  # a console that shows the line in place leaves this logger out
MAX_NONFINITE = 16  # steps in a row that an optimizer may skip because their loss or gradient is not finite


class MetricsWriter:
    """Writes one JSON object per logged step; on a resume, drops what was logged after the restored step.

    Local files are appended to. Object stores cannot append, so there the whole file is written again, at most every
    `REMOTE_SECONDS`, and at the end.
    """

    REMOTE_SECONDS = 60.0

    def __init__(self, directory: epath.Path, *, resume_step: int):
        from tensorboardX import SummaryWriter  # light writer: no TensorFlow

        self._path = epath.Path(directory) / "metrics.jsonl"
        kept = [row for row in read(self._path) if row["step"] <= resume_step]
        self.last: dict[str, Any] = kept[-1] if kept else {}
        self._lines = [json.dumps(row) + "\n" for row in kept]
        self._rewrite()
        self._file = None if "://" in os.fspath(self._path) else self._path.open("a")
        self._events = SummaryWriter(os.fspath(epath.Path(directory) / "tensorboard"), purge_step=resume_step + 1)
        self._wandb = _start_wandb(epath.Path(directory)) if os.environ.get("WANDB_PROJECT") else None

    def _rewrite(self) -> None:
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text("".join(self._lines))
        temporary.replace(self._path)
        self._written = time.monotonic()

    def write(self, row: dict[str, Any]) -> None:
        line = json.dumps(row) + "\n"
        if self._file:
            self._file.write(line)
            self._file.flush()
        else:
            self._lines.append(line)
            if time.monotonic() - self._written > self.REMOTE_SECONDS:
                self._rewrite()
        scalars = {name: value for name, value in _flat(row).items() if isinstance(value, float) and name != "time"}
        for name, value in scalars.items():
            self._events.add_scalar(name, value, row["step"])
        if self._wandb:
            self._wandb.log(scalars, step=row["step"])

    def close(self) -> None:
        if self._file:
            self._file.close()
        else:
            self._rewrite()
        self._events.close()
        if self._wandb:
            self._wandb.finish()


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """{"a": {"b": 1}} → {"a/b": 1}"""
    flat = {}
    for name, value in row.items():
        flat |= {f"{name}/{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _start_wandb(directory: epath.Path):
    """A Weights & Biases run that a resume continues. Raises ImportError when WANDB_PROJECT is set without wandb."""
    import wandb  # pyright: ignore[reportMissingImports]

    identity = hashlib.sha256(os.fspath(directory).encode()).hexdigest()[:16]
    return wandb.init(name=f"{directory.parent.name}/{directory.name}", id=identity, resume="allow")


def read(path: epath.Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a last line that a kill cut short is left out."""
    rows = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows


def host_rss_gb() -> float:
    return psutil.Process().memory_info().rss / 2**30


class RunLog:
    """Metrics, progress and profile of one train stage; a context manager. Only the first process writes.

    Rates and step times leave the first step of a process out: it is compilation. Goodput is the share of all time
    since the stage first began, pauses and lost steps included, that went into steps which count.

    Args:
      out: the stage's directory; holds metrics.jsonl, tensorboard/ and profile/.
      step, last_step: the global step it stands at, and will end at.
      tokens: positions per step; flops_per_token: of the model, forward and backward.
      sources: names of the data sets, as counted by `after_step`.
      profile_steps: (first, last) step of a window to trace with JAX's profiler into profile/.
    """

    def __init__(
        self,
        out: epath.Path,
        step: int,
        last_step: int,
        *,
        log_every: int,
        tokens: int,
        flops_per_token: float,
        sources: Sequence[str],
        profile_steps: Sequence[int] | None = None,
    ):
        self._out, self._last_step, self._log_every = out, last_step, log_every
        self._tokens, self._flops_per_token = tokens, flops_per_token
        self._sources = sources
        self._profile = tuple(profile_steps or ())
        self._writer = MetricsWriter(out, resume_step=step) if jax.process_index() == 0 else None
        last = self._writer.last if self._writer else {}
        self.last_loss: float | None = last.get("loss")
        self._productive = last.get("goodput", 0.0) * last.get("wall_seconds", 0.0)
        self._began = last["time"] - last.get("wall_seconds", 0.0) if last else time.time()
        self._progress = ProgressLine(out.name, last_step)
        self._before: dict[str, jax.Array] | None = None  # metrics of the step that may still be running
        self._tick: float | None = None  # when the step before was complete
        self._seconds: list[float] = []
        self._drawn = np.zeros(len(sources), np.int64)

    def __enter__(self) -> RunLog:
        return self

    def after_step(self, step: int, metrics: dict[str, jax.Array], drawn: np.ndarray) -> None:
        """Call when step `step` has been dispatched; waits for the one before, so the devices always have work.

        drawn: the tokens that it read of each source. Raises FloatingPointError at a logged step that broke.
        """
        self._drawn += drawn
        self._wait(self._before)
        self._before = metrics
        if step in self._profile:
            (jax.profiler.start_trace if step == self._profile[0] else _stop_trace)(os.fspath(self._out / "profile"))
        first = self._tick is None and not self._seconds
        if first or step % self._log_every == 0 or step == self._last_step:
            self._wait(metrics)
            self._before = None
            self._write(step, {name: float(value) for name, value in metrics.items()})

    def _wait(self, metrics: dict[str, jax.Array] | None) -> None:
        if metrics is None:
            return
        jax.block_until_ready(metrics)
        now = time.monotonic()
        if self._tick is not None:
            self._seconds.append(now - self._tick)
        self._tick = now

    def _write(self, step: int, values: dict[str, float]) -> None:
        self.require_finite(step, values)
        self.last_loss = values["loss"]
        if not self._writer:
            return
        row = {"step": step, "stage": self._out.name, **values, **self._rates()}
        shares = (self._drawn / self._drawn.sum()).round(4).tolist()
        row |= {"sources": dict(zip(self._sources, shares, strict=True)), "host_rss_gb": round(host_rss_gb(), 3)}
        self._writer.write({**row, "time": time.time()})
        note = f"loss {values['loss']:.4f}  lr {values['learning_rate']:.2e}"
        note += f"  {row['tokens_per_second']:,.0f} tokens/s" if row["tokens_per_second"] else "  compiled"
        self._progress.update(
            step, row["step_seconds"]["mean"], note + (f"  MFU {row['mfu']:.1%}" if row["mfu"] else "")
        )
        self._drawn[:] = 0
        self._seconds = []

    def _rates(self) -> dict[str, Any]:
        seconds = self._seconds
        mean = sum(seconds) / len(seconds) if seconds else None
        peak = flops.peak_flops(jax.devices()[0].device_kind)
        self._productive += sum(seconds)
        wall = time.time() - self._began
        return {
            "tokens_per_second": self._tokens / mean if mean else None,
            "mfu": self._tokens * self._flops_per_token / (mean * peak * jax.device_count()) if mean and peak else None,
            "step_seconds": {"mean": mean, **{f"p{p}": _percentile(seconds, p) for p in (50, 90, 99)}},
            "goodput": self._productive / wall if wall else 0.0,
            "wall_seconds": wall,
        }

    def require_finite(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Raises FloatingPointError before a broken state is saved; an optimizer that skips such steps may do so."""
        loss, norm = float(metrics["loss"]), float(metrics["grad_norm"])
        finite = math.isfinite(loss) and math.isfinite(norm)
        if int(metrics.get("nonfinite", MAX_NONFINITE + (not finite))) > MAX_NONFINITE:
            raise FloatingPointError(
                f"{self._out.name}: loss {loss}, gradient norm {norm} at step {step}: lower the learning rate and pass "
                "--allow_config_change to go on from the last checkpoint"
            )

    def __exit__(self, *exception: object) -> None:
        if self._writer:
            self._writer.close()


def _stop_trace(directory: str) -> None:
    jax.profiler.stop_trace()
    LOGGER.info(f"profile written: tensorboard --logdir {directory}")


def _percentile(values: Sequence[float], percent: int) -> float | None:
    return float(np.percentile(values, percent)) if values else None


class ProgressLine:
    """One line in place on a terminal, and plain log lines every `interval` seconds."""

    def __init__(self, label: str, total: int, *, unit: str = "step", interval: float = 10.0):
        self.label, self.total, self.unit, self.interval = label, total, unit, interval
        self._terminal = sys.stderr.isatty()
        self._last_logged = float("-inf")

    def update(self, done: int, seconds_each: float | None, note: str = "") -> None:
        """`done` units are finished and the next ones will take `seconds_each`, if that is known."""
        left = "" if seconds_each is None else f"  ETA {_clock((self.total - done) * seconds_each)}"
        line = f"{self.label}: {self.unit} {done}/{self.total}  {note}{left}"
        if self._terminal:
            print(f"\r\033[K{line}", end="\n" if done >= self.total else "", file=sys.stderr, flush=True)
        if time.monotonic() - self._last_logged >= self.interval or done >= self.total:
            self._last_logged = time.monotonic()
            LOGGER.info(line)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{seconds:02}s"
