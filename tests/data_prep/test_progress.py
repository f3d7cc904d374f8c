from __future__ import annotations

import io
import logging

import pytest

from data_prep import progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def work(clock: Clock, steps: int, seconds: float) -> None:
    with progress.Progress("hash", 10 * steps, unit="files") as shown:
        for _ in range(steps):
            clock.now += seconds
            shown.update(10, note="kept 93 %")


def test_log_file_gets_a_line_every_ten_seconds_and_one_at_the_end(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "data_prep")
    work(clock, steps=20, seconds=1.5)
    assert caplog.messages == [
        "hash: 70/200 (35 %) files  7/s  19.5 s left  kept 93 %",
        "hash: 140/200 (70 %) files  7/s  9.0 s left  kept 93 %",
        "hash: 200/200 (100 %) files  7/s  done in 30.0 s  kept 93 %",
    ]


def test_terminal_line_is_rewritten_at_most_five_times_a_second(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    work(clock, steps=100, seconds=0.01)
    text = terminal.getvalue()
    assert text.endswith("done in 1.0 s  kept 93 %\n") and text.count("\n") == 1
    assert 4 <= text.count("\r") <= 7


@pytest.mark.parametrize("seconds, text", [(4.23, "4.2 s"), (187, "3:07"), (7387, "2:03:07"), (59.99, "60.0 s")])
def test_clock(seconds: float, text: str) -> None:
    assert progress.clock(seconds) == text
