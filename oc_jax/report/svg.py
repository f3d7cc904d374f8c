"""Charts as inline SVG. Colours come from the page's style sheet through classes, so they follow light and dark."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

from oc_jax.report.text import esc

WIDTH = 1000  # user units; the page scales them to its column
LEFT, RIGHT = 62, 14  # margins of the curves


@dataclasses.dataclass(frozen=True)
class Bar:
    """label: what it is; parts: (length, class) drawn one after the other; note: text to the right."""

    label: str
    parts: Sequence[tuple[float, str]]
    note: str = ""
    title: str = ""


def bars(rows: Sequence[Bar], *, label_width: int = 170, note_width: int = 210, full: float | None = None) -> str:
    """Horizontal bars on one scale, one row each; `full` is the length that fills the width."""
    full = full or max((sum(n for n, _ in row.parts) for row in rows), default=1) or 1
    step, height, room = 26, 14, WIDTH - label_width - note_width - 20
    out = [f'<svg class="bars" viewBox="0 0 {WIDTH} {step * len(rows)}" role="img">']
    for i, row in enumerate(rows):
        y, x = i * step + 5, float(label_width + 10)
        out.append(f"<g><title>{esc(row.title or row.label)}</title>")
        out.append(_text("label", label_width, y + 11, _short(row.label, round(label_width / 6.5)), "end"))
        for length, kind in row.parts:
            width = room * length / full
            if length > 0:
                out.append(
                    f'<rect class="{kind}" x="{x:.1f}" y="{y}" width="{max(width, 1.5):.1f}" height="{height}" rx="2"/>'
                )
            x += width
        out.append(_text("note", x + 8, y + 11, row.note) + "</g>")
    return "".join([*out, "</svg>"])


@dataclasses.dataclass(frozen=True)
class Band:
    """A stage on the common x axis: `size` units long, with its points."""

    name: str
    size: float
    points: Sequence[tuple[float, float | None]]  # (x within the band, y); None leaves a gap


@dataclasses.dataclass(frozen=True)
class Axis:
    """The common x axis: each band is as wide as its size, but at least `minimum` of the whole, to be seen."""

    sizes: Sequence[float]
    minimum: float = 0.1

    def spans(self) -> list[tuple[float, float]]:
        """(left, right) of each band in user units."""
        total = sum(self.sizes) or 1
        shares = [max(size / total, self.minimum) for size in self.sizes]
        scale = (WIDTH - LEFT - RIGHT) / sum(shares)
        edges = [LEFT + scale * sum(shares[:i]) for i in range(len(shares) + 1)]
        return list(zip(edges, edges[1:], strict=False))


def panel(
    title: str,
    bands: Sequence[Band],
    *,
    log: bool,
    show: Callable[[float], str],
    smooth: bool = False,
    dots: bool = False,
    names: bool = False,
    ticks: Callable[[float], str] | None = None,
    height: int = 210,
) -> str:
    """One quantity over all bands.

    `smooth` adds a running mean, `dots` a dot at each point, `ticks` x labels, `names` those of the bands.
    """
    top, bottom = (44 if names else 26), height - (26 if ticks else 8)
    values = [y for band in bands for _, y in band.points if y is not None and (y > 0 or not log)]
    if not values:
        return ""
    low, high = _limits(min(values), max(values), log)

    def place(y: float) -> float:
        f = (math.log(max(y, low) / low) / math.log(high / low)) if log else (y - low) / (high - low)
        return bottom - f * (bottom - top)

    spans = Axis([band.size for band in bands]).spans()
    out = [f'<svg class="panel" viewBox="0 0 {WIDTH} {height}" data-top="{top}" data-bottom="{bottom}" role="img">']
    out.append(f"<title>{esc(title)}</title>")
    for i, ((left, right), band) in enumerate(zip(spans, bands, strict=True)):
        out.append(
            f'<rect class="band{i % 2}" x="{left:.1f}" y="{top}" width="{right - left:.1f}" height="{bottom - top}"/>'
        )
        if names:
            out.append(_text("bandname", (left + right) / 2, top - 8, band.name, "middle"))
    for value in _ticks(low, high, log):
        y = place(value)
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(_text("tick", LEFT - 7, y + 3.5, show(value), "end"))
    before = 0.0
    for (left, right), band in zip(spans, bands, strict=True):
        scale = (right - left) / (band.size or 1)
        points = [(left + x * scale, y) for x, y in band.points]
        if smooth:
            out.append(_path(points, place, "raw"))
            points = _smoothed(points)
        out.append(_path(points, place, "line"))
        if dots:
            out += [f'<circle class="dot" cx="{x:.1f}" cy="{place(y):.1f}" r="3"/>' for x, y in points if y is not None]
        before += band.size
        if ticks:
            out.append(_text("tick", right, bottom + 16, ticks(before), "end"))
    out.append(_text("paneltitle", LEFT, 14, title))
    return "".join([*out, "</svg>"])


def _text(kind: str, x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{esc(text)}</text>'


def _path(points: Sequence[tuple[float, float | None]], place: Callable[[float], float], kind: str) -> str:
    steps, pen = [], "M"
    for x, y in points:
        if y is None:
            pen = "M"
            continue
        steps.append(f"{pen}{x:.1f} {place(y):.1f}")
        pen = "L"
    return f'<path class="{kind}" d="{"".join(steps)}"/>' if steps else ""


def _smoothed(points: Sequence[tuple[float, float | None]]) -> list[tuple[float, float | None]]:
    """Means over a window around each point, a thirtieth of the whole; smaller at the ends, so that nothing lags."""
    known = [(x, y) for x, y in points if y is not None]
    sums = list(itertools.accumulate((y for _, y in known), initial=0.0))
    half, out = max(1, len(known) // 60), []
    for i, (x, _) in enumerate(known):
        h = min(half, i, len(known) - 1 - i)
        out.append((x, (sums[i + h + 1] - sums[i - h]) / (2 * h + 1)))
    return out


def _limits(low: float, high: float, log: bool) -> tuple[float, float]:
    if log:
        return max(low, high / 1e3) / 1.1, high * 1.1
    return 0.0, high * 1.12 or 1.0


def _ticks(low: float, high: float, log: bool) -> list[float]:
    """Round numbers between the limits: about four on a linear axis, 1-2-5 or powers of ten on a logarithmic one."""
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        steps = (1, 1.5, 2, 3, 4, 6, 8) if high / low < 12 else (1, 2, 5) if high / low < 60 else (1,)
        return [m * 10.0**e for e in decades for m in steps if low <= m * 10.0**e <= high]
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= 5)
    return [low + i * step for i in range(int((high - low) / step) + 1)]


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def strip(values: dict[str, float], full: float) -> str:
    """Marks on a line from 0 to `full`, one for each class of `values`, to compare a few numbers in a table's row."""
    out = ['<svg class="strip" viewBox="0 0 200 16"><line class="grid" x1="0" x2="200" y1="8" y2="8"/>']
    for kind, value in values.items():
        x = 4 + 192 * value / full
        if kind == "model":
            out.append(f'<circle class="model" cx="{x:.1f}" cy="8" r="5"/>')
        else:
            out.append(f'<rect class="{kind}" x="{x - 1.5:.1f}" y="2" width="3" height="12"/>')
    return "".join([*out, "</svg>"])
