"""What a training run tells about itself: metrics.jsonl, TensorBoard events, one progress line."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import Any

import psutil
from etils import epath

LOGGER = logging.getLogger("oc_jax.progress")  # a console that shows the line in place leaves this logger out


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
        for name, value in row.items():
            if isinstance(value, float) and name != "time":
                self._events.add_scalar(name, value, row["step"])

    def close(self) -> None:
        if self._file:
            self._file.close()
        else:
            self._rewrite()
        self._events.close()


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
