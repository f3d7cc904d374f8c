"""Progress of long work: one line rewritten in place on a terminal, plain log lines in a file."""

from __future__ import annotations

import logging
import sys
import time

LOGGER = logging.getLogger("data_prep.progress")  # a console that shows the line in place leaves this logger out
TERMINAL_SECONDS = 0.2
LOG_SECONDS = 10.0


class Progress:
    """Counts work and shows count, rate and expected time left.

    On a terminal the line is rewritten at most five times a second. A plain line also goes to the logger
    `data_prep.progress` about every ten seconds and once at the end, for log files and for output that is no terminal.

    Args:
      label: what is being done, in one or two words.
      total: how many `unit`s there are, or None if that is not known.
      unit: plural noun of what is counted.
    """

    def __init__(self, label: str, total: int | None, unit: str = "files") -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done, self.note = 0, ""
        self._terminal = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        self._start = time.monotonic()
        self._next_shown, self._next_logged = self._start, self._start + LOG_SECONDS
        return self

    def update(self, n: int = 1, note: str = "") -> None:
        """Adds `n` finished units; `note` (if any) stands at the end of the line from now on."""
        self.done += n
        self.note = note or self.note
        now = time.monotonic()
        if self._terminal and now >= self._next_shown:
            self._next_shown = now + TERMINAL_SECONDS
            sys.stderr.write(f"\r\x1b[2K{self._line(now)}")
            sys.stderr.flush()
        if now >= self._next_logged:
            self._next_logged = now + LOG_SECONDS
            LOGGER.info(self._line(now))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        line = self._line(time.monotonic(), finished=kind is None)
        if self._terminal:
            sys.stderr.write(f"\r\x1b[2K{line}\n")
        LOGGER.info(line)

    def _line(self, now: float, finished: bool = False) -> str:
        elapsed = max(now - self._start, 1e-9)
        rate = self.done / elapsed
        share = f"/{self.total:,} ({100 * self.done / self.total:.0f} %)" if self.total else ""
        fields = [f"{self.label}: {self.done:,}{share} {self.unit}", f"{rate:,.0f}/s"]
        if finished:
            fields.append(f"done in {clock(elapsed)}")
        elif self.total and self.done:
            fields.append(f"{clock(max(self.total - self.done, 0) / rate)} left")
        return "  ".join([*fields, self.note] if self.note else fields)


def clock(seconds: float) -> str:
    """`seconds` as 4.2 s, 3:07 or 2:03:07."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
