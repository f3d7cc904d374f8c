"""Numbers and strangers' text, made fit for a page."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

# Control characters are errors in HTML, and those that turn the direction of text can make code look like other code.
_UNSHOWN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff\ud800-\udfff]")


def esc(value: Any, limit: int | None = None) -> str:
    """`value` as HTML text or attribute value, at most `limit` characters of it."""
    shown = str(value)
    if limit is not None and len(shown) > limit:
        shown = shown[:limit] + " …"
    return html.escape(_UNSHOWN.sub("\ufffd", shown))


def count(value: float) -> str:
    return f"{value:,.0f}"


def si(value: float) -> str:
    """1234567 → "1.23 M"."""
    for factor, unit in ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"


def size(n: float) -> str:
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n >= factor:
            return f"{n / factor:.{0 if n >= 100 * factor else 1}f} {unit}"
    return f"{n:.0f} B"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s" if seconds < 10 else f"{rest} s"


def percent(part: float, whole: float, digits: int = 1) -> str:
    return f"{100 * part / whole:.{digits}f} %" if whole else "–"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numeric: str = "", total: bool = False) -> str:
    """A table of HTML cells. numeric: one letter per column, "n" for right-aligned; total: the last row is a sum."""
    kinds = [' class="n"' if kind == "n" else "" for kind in numeric.ljust(len(head))]
    lines = ["".join(f"<td{k}>{cell}</td>" for k, cell in zip(kinds, row, strict=True)) for row in rows]
    marks = [' class="total"' if total and i == len(lines) - 1 else "" for i in range(len(lines))]
    header = "".join(f"<th{k}>{cell}</th>" for k, cell in zip(kinds, head, strict=True))
    body = "".join(f"<tr{mark}>{line}</tr>" for mark, line in zip(marks, lines, strict=True))
    return f'<div class="scroll"><table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table></div>'


def folded(summary: str, body: str, aside: str = "", anchor: str = "") -> str:
    """A part that opens on a click; all arguments are HTML."""
    mark = f' id="{anchor}"' if anchor else ""
    right = f'<span class="count">{aside}</span>' if aside else ""
    return f"<details{mark}><summary><span>{summary}</span>{right}</summary><div>{body}</div></details>"


def key(**kinds: str) -> str:
    """The legend of a chart: class → meaning."""
    return '<div class="key">' + "".join(f'<i class="{k}"></i>{esc(v)}' for k, v in kinds.items()) + "</div>"


def missing(what: str) -> str:
    return f'<p class="missing">{esc(what)}</p>'
