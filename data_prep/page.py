"""HTML pages to look at data: tables, histograms, files with marked parts, two texts side by side.

A page is one file that loads nothing. Every function takes plain values and returns `Html`; whatever is not `Html` is
escaped where it is put on the page, since paths and texts are strangers'. Without JavaScript everything is there, only
unsorted and unpaged.
"""

from __future__ import annotations

import difflib
import html
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from data_prep.files import atomic

_HERE = Path(__file__).parent
# Control characters are errors in HTML, and those that turn the direction of text can make code look like other code.
_UNSHOWN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff\ud800-\udfff]")
_TOKEN = re.compile(r"\w+|\s+|.", re.DOTALL)
_BINS = 48
_DIFF_LINES = 3000  # of a text to compare; the time grows with their product
_LINE = 240  # characters of a line to show

Span = tuple[int, int]  # start and end of a part of a text, in characters


class Html(str):
    """Text that is HTML already."""


def esc(value: Any, limit: int | None = None) -> Html:
    """`value` as HTML text or attribute value, at most `limit` characters of it; `Html` stays as it is."""
    if isinstance(value, Html):
        return value
    shown = str(value)
    if limit is not None and len(shown) > limit:
        shown = shown[:limit] + " …"
    return Html(html.escape(_UNSHOWN.sub("\ufffd", shown)))


def tag(name: str, *content: Any, **attributes: Any) -> Html:
    """An element; attributes with the value None are left out, an underscore in their names is a hyphen."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{esc(v)}"' for key, v in attributes.items() if v is not None
    )
    return Html(f"<{name}{given}>{''.join(map(esc, content))}</{name}>")


def join(*parts: Any, between: str = "") -> Html:
    """All parts, those that are not `Html` escaped."""
    return Html(between.join(map(esc, parts)))


def size(n: float) -> str:
    """Bytes for people: ``1.2 MB``."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n >= factor:
            return f"{n / factor:.{0 if n >= 100 * factor else 1}f} {unit}"
    return f"{n:.0f} B"


def percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def number(value: float) -> str:
    """At most four digits: ``1,234``, ``0.1235``."""
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.4g}"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, strong: int | None = None) -> Html:
    """A table that sorts itself on a click; numbers are right-aligned, None is a dash. strong: a row to point out.

    A pair (number, text) is shown as the text and sorted by the number.
    """
    lines = [list(row) for row in rows]
    numeric = [any(isinstance(row[i], (int, float, tuple)) for row in lines) for i in range(len(head))]
    kinds = ["n" if numeric_column else None for numeric_column in numeric]
    header = (
        tag("th", tag("button", name, type="button"), class_=k, scope="col") if name else tag("th", class_=k)
        for name, k in zip(head, kinds, strict=True)
    )
    body = (tag("tr", *map(_cell, row, kinds), class_="now" if i == strong else None) for i, row in enumerate(lines))
    return tag("div", tag("table", tag("thead", tag("tr", *header)), tag("tbody", *body)), class_="scroll")


def _cell(value: Any, kind: str | None) -> Html:
    if value is None:
        return tag("td", "–", class_=kind, data_v=-math.inf if kind else None)
    if isinstance(value, tuple):
        return tag("td", value[1], class_=kind, data_v=value[0])
    if isinstance(value, (int, float)):
        return tag("td", number(value), class_=kind, data_v=value)
    return tag("td", value, class_=kind)


def fold(summary: Any, *body: Any, aside: Any = "", anchor: str | None = None, open: bool = False) -> Html:
    """A part that opens on a click or the Enter key. The `summary` is what the filter of a `listing` looks at."""
    right = tag("span", aside, class_="aside") if aside else ""
    mark = Html(" open") if open else ""
    named = Html(f' id="{esc(anchor)}"') if anchor else ""
    return Html(f"<details{named}{mark}>{tag('summary', tag('span', summary), right)}{tag('div', *body)}</details>")


def line(summary: Any, aside: Any = "") -> Html:
    """An item of a `listing` that has nothing to unfold."""
    return tag("div", tag("span", summary), tag("span", aside, class_="aside"), class_="line")


def listing(items: Iterable[Html], *, per_page: int = 20) -> Html:
    """Elements below one another, `per_page` of them at a time, with a filter where they are many."""
    return tag("div", *items, class_="list", data_page=per_page)


def source(text: str, marks: Sequence[Span] = (), *, lines: int = 40) -> Html:
    """A text with line numbers, parts of it marked; of a long one about `lines` lines, those around the marks first."""
    rows = text.removesuffix("\n").split("\n")
    starts = np.concatenate(([0], np.cumsum([len(row) + 1 for row in rows])))
    marks = merged(marks)
    shown = _lines_to_show(len(rows), [int(np.searchsorted(starts, s, "right")) - 1 for s, _ in marks], lines)
    by_line: dict[int, list[Span]] = {}
    for start, end in marks:
        for i in range(int(np.searchsorted(starts, start, "right")) - 1, len(rows)):
            if starts[i] >= end:
                break
            by_line.setdefault(i, []).append((max(start - int(starts[i]), 0), min(end - int(starts[i]), len(rows[i]))))
    out, before = [], -1
    for i in shown:
        out += _gap(i - before - 1)
        out.append(tag("span", _marked_line(rows[i], by_line.get(i, [])), data_n=i + 1))
        before = i
    out += _gap(len(rows) - before - 1)
    return tag("pre", *out, class_="source", tabindex=0)


def _gap(count: int) -> list[Html]:
    return [tag("span", tag("i", f"⋯ {count:,} line{'s' if count > 1 else ''}"), data_n="")] if count > 0 else []


def merged(spans: Iterable[Span]) -> list[Span]:
    """The spans in order, those that touch or overlap as one, empty ones left out."""
    out: list[Span] = []
    for start, end in sorted(spans):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        elif start < end:
            out.append((start, end))
    return out


def _lines_to_show(count: int, marked: Sequence[int], most: int) -> list[int]:
    if count <= most:
        return list(range(count))
    shown = set(range(3))
    for line in marked:
        if len(shown) >= most - 5:
            break
        shown.update(range(max(line - 2, 0), min(line + 3, count)))
    for line in range(count):
        if len(shown) >= most:
            break
        shown.add(line)
    return sorted(shown)


def _marked_line(line: str, spans: Sequence[Span]) -> Html:
    first = max(spans[0][0] - 40, 0) if spans and spans[0][1] > _LINE else 0
    last = min(len(line), first + _LINE)
    pieces: list[Any] = [tag("i", f"{first:,} … ")] if first else []
    at = first
    for start, end in spans:
        if start >= last:
            break
        pieces += [line[at:start], tag("mark", line[start : min(end, last)])]
        at = min(end, last)
    pieces.append(line[at:last])
    if last < len(line):
        pieces.append(tag("i", f" … {len(line) - last:,} more"))
    return join(*pieces)


def diff(left: str, right: str, names: tuple[Any, Any], *, rows: int = 150) -> Html:
    """Two texts side by side, where they differ and three lines around; changed words are marked."""
    a, b = left.split("\n")[:_DIFF_LINES], right.split("\n")[:_DIFF_LINES]
    out = [tag("div", *(tag("span", name, data_n="") for name in names), class_="names")]
    done = 0
    for group in difflib.SequenceMatcher(None, a, b, autojunk=False).get_grouped_opcodes(3):
        skipped = group[0][1] - done
        lines = [line for opcode in group for line in _diff_rows(a, b, *opcode)]
        out += _diff_gap(skipped, "equal line") + lines[: max(rows - len(out), 0)]
        done = group[-1][2]
        if len(out) >= rows:
            out.append(tag("div", tag("i", "⋯ more differences follow"), class_="gap"))
            return tag("div", *out, class_="diff", tabindex=0)
    out += _diff_gap(len(a) - done, "equal line")
    return tag("div", *out, class_="diff", tabindex=0)


def _diff_gap(count: int, what: str) -> list[Html]:
    shown = tag("i", f"⋯ {count:,} {what}{'s' if count > 1 else ''}", class_="gap")
    return [tag("div", shown)] if count > 0 else []


def _diff_rows(a: list[str], b: list[str], kind: str, i: int, i_end: int, j: int, j_end: int) -> Iterator[Html]:
    if kind == "equal":
        for k in range(i_end - i):
            yield tag("div", _diff_cell("same", i + k, a[i + k]), _diff_cell("same", j + k, b[j + k]))
        return
    for x, y in itertools.zip_longest(range(i, i_end), range(j, j_end)):
        old, new = "" if x is None else a[x], "" if y is None else b[y]
        marks = _changed(old, new) if x is not None and y is not None else ([], [])
        yield tag(
            "div",
            tag("span", data_n="") if x is None else _diff_cell("less", x, old, marks[0]),
            tag("span", data_n="") if y is None else _diff_cell("more", y, new, marks[1]),
        )


def _diff_cell(kind: str, line: int, text: str, marks: Sequence[Span] = ()) -> Html:
    return tag("span", _marked_line(text, marks), class_=kind, data_n=line + 1)


def _changed(old: str, new: str) -> tuple[list[Span], list[Span]]:
    """The words of two lines that differ; none where the lines have little in common or are long."""
    if max(len(old), len(new)) > 4 * _LINE:
        return [], []
    a, b = _TOKEN.findall(old), _TOKEN.findall(new)
    matcher = difflib.SequenceMatcher(None, a, b, autojunk=False)
    if matcher.ratio() < 0.4:
        return [], []
    ends_a, ends_b = ([0, *itertools.accumulate(map(len, tokens))] for tokens in (a, b))
    changed = [opcode for opcode in matcher.get_opcodes() if opcode[0] != "equal"]
    return (
        merged((ends_a[i], ends_a[i_end]) for _, i, i_end, _, _ in changed),
        merged((ends_b[j], ends_b[j_end]) for _, _, _, j, j_end in changed),
    )


def histogram(
    rows: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    lines: Sequence[float] = (),
    limits: tuple[float, float] | None = None,
    log: bool = False,
    unit: str = "files",
) -> Html:
    """Histograms below one another on a common axis.

    Args:
      rows: label → (values, bool of the same shape: which of them to point out). NaN is left out.
      lines: places to draw a vertical line at.
      limits: of the axis; values beyond them are counted at its ends. By default those of all values.
      log: a logarithmic axis, for values from 0 on; 0 stands at its left end.
      unit: what is counted.
    """
    every = np.concatenate([values[np.isfinite(values)] for values, _ in rows.values()] or [np.zeros(0)])
    if not len(every):
        return tag("p", "There are no values.")
    low, high = limits or (float(every.min()), float(every.max()))
    low, high = (max(low, 1.0), max(high, 10.0)) if log else (low, high if high > low else low + 1)

    def place(value: Any) -> Any:
        """0 … 1 along the axis."""
        value = np.clip(value, low, high)
        return np.log(value / low) / np.log(high / low) if log else (value - low) / (high - low)

    marks = [100 * float(place(line)) for line in lines if low <= line <= high]
    drawn = "".join(f'<line x1="{x:.2f}" x2="{x:.2f}" y1="-3" y2="30"/>' for x in marks)
    out = []
    for label, (values, chosen) in rows.items():
        known = np.isfinite(values)
        bars = _bars(place(values[known]), chosen[known])
        named = f'role="img" aria-label="{esc(label)}"'
        svg = f'<svg viewBox="0 0 100 30" preserveAspectRatio="none" {named}>{bars}{drawn}</svg>'
        part, whole = int(chosen[known].sum()), int(known.sum())
        note = f"{whole:,} {unit}" + (f" · {percent(part, whole)}" if 0 < part < whole else "")
        out += [tag("span", label), Html(svg), tag("span", note, class_="note")]
    ticks = _ticks(low, high, log)
    axis = (tag("span", number(t), style=f"left:{100 * float(place(t)):.2f}%") for t in ticks)
    return tag("div", *out, tag("div", *axis, class_="axis"), class_="hist")


def _bars(places: np.ndarray, chosen: np.ndarray) -> str:
    bins = np.minimum((places * _BINS).astype(int), _BINS - 1)
    total = np.bincount(bins, minlength=_BINS)
    part = np.bincount(bins[chosen], minlength=_BINS)
    # The tails are what a threshold is about, so heights are logarithmic.
    scale = 30 / math.log1p(max(int(total.max(initial=1)), 1))
    out = []
    for i in np.flatnonzero(total):
        height = scale * math.log1p(total[i])
        top = height * part[i] / total[i]
        x, width = 100 * i / _BINS, 100 / _BINS - 0.25
        for kind, y, h in (("kept", 30 - height + top, height - top), ("dropped", 30 - height, top)):
            if h > 0:
                out.append(f'<rect class="{kind}" x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{h:.2f}"/>')
    return "".join(out)


def _ticks(low: float, high: float, log: bool) -> list[float]:
    if log:
        decades = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
        return [10.0**e for e in decades]
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= 5)
    first = math.ceil(low / step)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def key(**kinds: str) -> Html:
    """The legend of histograms: ``kept`` and ``dropped`` with what they mean."""
    return tag("p", *(tag("span", tag("i", class_=kind), text) for kind, text in kinds.items()), class_="key")


def write(target: epath.Path, title: str, lead: Any, sections: Mapping[str, Any]) -> None:
    """Writes a page: a title, a paragraph, and sections by their names, with links to them where they are many."""
    anchors = {name: re.sub(r"\W+", "-", name.lower()) for name in sections}
    links = (tag("a", name, href=f"#{anchor}") for name, anchor in anchors.items())
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{esc(title)}</title><style>{(_HERE / 'page.css').read_text('utf-8')}</style>"
    )
    body = join(
        tag("header", tag("h1", title), tag("p", lead)),
        tag("nav", tag("div", *links)) if len(anchors) > 1 else "",
        tag("main", *(tag("section", tag("h2", name), part, id=anchors[name]) for name, part in sections.items())),
    )
    script = (_HERE / "page.js").read_text("utf-8")
    page = f'<!doctype html><html lang="en"><head>{head}</head><body>{body}<script>{script}</script></body></html>\n'
    with atomic(target) as file:
        file.write(page.encode("utf-8", "replace"))
