"""A family of signals: name → function of a `View`."""

from __future__ import annotations

from collections.abc import Callable

from data_prep.quality.view import View

Value = float | None
Signal = Callable[[View], Value]


class Group(dict[str, Signal]):
    """Signals by name. The first sentence of a signal's docstring is its documentation."""

    def signal(self, function: Signal) -> Signal:
        """Decorator: files `function` under its own name."""
        self[function.__name__] = function
        return function


def fraction(part: float, whole: float) -> Value:
    """`part` / `whole` to eight decimals; None, which no rule drops, where there is nothing to take a part of."""
    return round(part / whole, 8) if whole else None
