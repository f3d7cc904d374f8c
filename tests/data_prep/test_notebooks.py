from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.sources import notebooks


def code(source: Any, *outputs: dict[str, Any]) -> dict[str, Any]:
    return {"cell_type": "code", "source": source, "outputs": list(outputs), "metadata": {}, "execution_count": 1}


def markdown(source: Any) -> dict[str, Any]:
    return {"cell_type": "markdown", "source": source, "metadata": {}}


def convert(*cells: dict[str, Any]) -> str:
    return notebooks.convert(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": list(cells)}))


def test_triplets() -> None:
    stream = {"output_type": "stream", "name": "stdout", "text": ["1\n", "2\n"]}
    assert convert(markdown("# Title"), code(["print(1)\n", "print(2)"], stream), markdown(["so"]), code("x = 1")) == (
        "<jupyter_start><jupyter_text># Title<jupyter_code>print(1)\nprint(2)\n<jupyter_output>1\n2"
        "<jupyter_text>so<jupyter_code>x = 1\n<jupyter_output><empty_output>"
    )


def test_neighbours_are_merged_and_the_last_result_counts() -> None:
    result = {"output_type": "execute_result", "data": {"text/plain": ["7"], "image/png": "iVBO"}}
    stream = {"output_type": "stream", "text": "lost"}
    merged = convert(code("a = 3", stream), {"cell_type": "raw", "source": "-"}, code("a + 4", result), markdown("end"))
    assert merged == "<jupyter_start><jupyter_code>a = 3\na + 4\n<jupyter_output>7<jupyter_text>end"


def test_errors_and_colours() -> None:
    error = {"output_type": "error", "ename": "ValueError", "evalue": "\x1b[31mbad\x1b[0m", "traceback": ["long"]}
    assert convert(code("f()", error)).endswith("<jupyter_output>ValueError: bad")


def test_long_results_are_cut() -> None:
    text = convert(code("f()", {"output_type": "stream", "text": "y" * 5000}))
    assert text.endswith("<jupyter_output>" + "y" * 1000 + "[...]")


def test_format_3() -> None:
    cells = [
        {"cell_type": "heading", "level": 2, "source": "Part"},
        {"cell_type": "code", "input": ["1 + 1"], "outputs": [{"output_type": "pyout", "text": ["2"]}]},
    ]
    notebook = json.dumps({"nbformat": 3, "metadata": {}, "worksheets": [{"cells": cells}]})
    expected = "<jupyter_start><jupyter_text>## Part<jupyter_code>1 + 1\n<jupyter_output>2"
    assert notebooks.convert(notebook) == expected


def test_a_notebook_without_content_is_empty() -> None:
    assert convert() == convert(code(""), markdown(" \n")) == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "[" * 100_000,
        '{"cells": 3}',
        '{"cells": [3]}',
        '{"cells": [{"cell_type": "code", "source": {"a": 1}}]}',
        '{"cells": [{"cell_type": "code", "source": "1", "outputs": "x"}]}',
        '{"worksheets": [1]}',
    ],
)
def test_malformed(text: str) -> None:
    with pytest.raises(ValueError):
        notebooks.convert(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["cells", "worksheets", "cell_type", "source", "outputs", "text", "data", "level"]), inner
        )
    ),
)


@given(JSON)
def test_no_json_raises_anything_else(value: Any) -> None:
    try:
        text = notebooks.convert(json.dumps(value))
    except ValueError:
        return
    assert text == "" or text.startswith("<jupyter_start>")


LINES = st.text(st.characters(exclude_characters="<\r", exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(st.lists(st.tuples(st.booleans(), LINES.filter(str.strip))))
def test_every_source_is_kept_in_order(cells: list[tuple[bool, str]]) -> None:
    text = convert(*[code(source) if is_code else markdown([source]) for is_code, source in cells])
    position = 0
    for _, source in cells:
        position = text.index(source.strip(), position) + len(source.strip())
    runs = [is_code for i, (is_code, _) in enumerate(cells) if i == 0 or cells[i - 1][0] != is_code]
    assert (text.count("<jupyter_code>"), text.count("<jupyter_text>")) == (runs.count(True), runs.count(False))
    assert text.count("<jupyter_output><empty_output>") == runs.count(True)


def test_half_surrogates_become_encodable() -> None:
    assert convert(code("x = '\ud800'")).encode("utf-8").count("\ufffd".encode()) == 1
