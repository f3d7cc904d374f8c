"""Tells where a run hangs."""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback

LOGGER = logging.getLogger("oc_jax.watchdog")


class Watchdog:
    """Within the block, logs the stack of every thread when nothing was `alive` for `minutes`, and again each time.

    It never ends the run: whether to wait or to kill is for whoever reads the log.
    """

    def __init__(self, what: str, *, minutes: float):
        self._what, self._seconds = what, 60 * minutes
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self.alive("the start")
        self._thread.start()
        return self

    def alive(self, where: str) -> None:
        self._where, self._at = where, time.monotonic()

    def _watch(self) -> None:
        reported = 0.0
        while not self._over.wait(min(1.0, self._seconds / 4)):
            since = max(self._at, reported)
            if time.monotonic() - since < self._seconds:
                continue
            reported = time.monotonic()
            minutes = (reported - self._at) / 60
            LOGGER.error(
                f"{self._what}: nothing since {self._where}, {minutes:.1f} minutes ago; all threads:\n{_stacks()}"
            )

    def __exit__(self, *exception) -> None:
        self._over.set()
        self._thread.join()


def _stacks() -> str:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"{names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    )
