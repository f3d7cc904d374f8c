from __future__ import annotations

import difflib
import html.parser
import pathlib
import re

import numpy as np
import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from data_prep import page

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)> \x00\u202e \"q\" & 'q'\n"


class Reader(html.parser.HTMLParser):
    """Checks nesting and collects text, tags and what the page refers to."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []
        self.marked: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text += data
        if "mark" in self.open:
            self.marked.append(data)


def test_a_page_is_well_formed_loads_nothing_and_escapes_what_is_strange(tmp_path: pathlib.Path) -> None:
    values = np.array([0.1, 0.5, 0.9, np.nan])
    sections = {
        HOSTILE: page.table([HOSTILE, "n"], [(HOSTILE, 3), (page.tag("b", HOSTILE), (2.0, "two"))], strong=0),
        "two": page.listing([page.fold(HOSTILE, page.source(HOSTILE * 80, [(5, 9)]), aside=HOSTILE, anchor=HOSTILE)]),
        "three": page.diff(HOSTILE, HOSTILE.replace("q", "p"), (HOSTILE, HOSTILE)),
        "four": page.histogram({HOSTILE: (values, values > 0.4)}, lines=[0.4]),
    }
    page.write(epath.Path(tmp_path / "p.html"), HOSTILE, HOSTILE, sections)
    read = Reader((tmp_path / "p.html").read_text())
    assert "img" not in read.tags and read.tags.count("script") == 1
    assert all(reference.startswith("#") for reference in read.references)
    assert "\x00" not in read.text and "\u202e" not in read.text


@given(st.text("ab\n", max_size=300), st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=5))
def test_marked_parts_are_the_spans(text: str, spans: list[tuple[int, int]]) -> None:
    spans = [(start, min(end, len(text))) for start, end in spans]
    read = Reader(page.source(text, spans, lines=10_000))
    covered = {i for start, end in spans for i in range(start, end)}
    assert "".join(read.marked) == "".join(c for i, c in enumerate(text) if i in covered and c != "\n")
    assert read.text == text.replace("\n", "")


def test_long_files_show_the_lines_around_the_marks() -> None:
    text = "".join(f"line {i}\n" for i in range(1000))
    at = text.index("line 700\n")
    shown = Reader(page.source(text, [(at, at + 8)], lines=20)).text
    assert "line 698" in shown and "line 702" in shown and "line 300" not in shown
    hidden = sum(int(n.replace(",", "")) for n in re.findall(r"⋯ ([\d,]+) line", shown))
    assert hidden + len(re.findall(r"line \d", shown)) == 1000


def test_the_mark_far_inside_a_long_line_is_shown() -> None:
    shown = Reader(page.source("x" * 5000 + "HERE" + "y" * 5000, [(5000, 5004)]))
    assert shown.marked == ["HERE"] and len(shown.text) < 400


@given(
    st.lists(st.sampled_from(["a", "b c", "d"]), max_size=12), st.lists(st.sampled_from(["a", "b d", "d"]), max_size=12)
)
def test_a_diff_holds_every_line_that_differs(left: list[str], right: list[str]) -> None:
    shown = page.diff("\n".join(left), "\n".join(right), ("one", "two"))
    expected = list(difflib.ndiff("\n".join(left).split("\n"), "\n".join(right).split("\n")))
    changed = left != right and any(line[0] in "+-" for line in expected)
    assert changed == ('class="less"' in shown or 'class="more"' in shown)


def test_a_diff_marks_the_changed_words_and_stays_short() -> None:
    left = "\n".join(f"value = {i}" for i in range(2000))
    shown = page.diff(left, left.replace("value = 1000\n", "value = none\n"), ("one", "two"))
    assert Reader(shown).marked == ["1000", "none"]
    assert "⋯ 997 equal lines" in shown and len(shown) < 5000


@pytest.mark.parametrize("log", [False, True])
def test_a_histogram_counts_every_value_once(log: bool) -> None:
    values = np.array([1.0] * 5 + [10.0] * 3 + [1000.0] * 2)
    shown = page.histogram({"all": (values, values > 500)}, lines=[500], log=log)
    heights = {kind: re.findall(rf'class="{kind}".*?height="([\d.]+)"', shown) for kind in ("kept", "dropped")}
    assert len(heights["dropped"]) == 1 and "10 files · 20.0 %" in shown
    assert max(map(float, heights["kept"])) == 30.0
    assert shown.count("<line") == 1


def test_numbers_for_people() -> None:
    assert [page.size(n) for n in (12, 1200, 3_400_000, 250e9)] == ["12 B", "1.2 kB", "3.4 MB", "250 GB"]
    assert [page.number(n) for n in (3, 1234567, 0.12345678, 1234.5)] == ["3", "1,234,567", "0.1235", "1,234"]
