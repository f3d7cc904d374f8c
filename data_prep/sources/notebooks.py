"""Jupyter notebooks as StarCoder's "jupyter-structured" text (paper §2.1, appendix A.3).

    <jupyter_start><jupyter_text>markdown<jupyter_code>code
    <jupyter_output>result<jupyter_text> …

Neighbouring cells of one kind are merged, and of merged code cells only the last one's result is kept, as StarCoder
does it; `<empty_output>` stands for no result. Unlike StarCoder, the Markdown stays Markdown (StarCoder 2 does the
same), text after the last code cell is kept, and so are notebooks in languages other than Python.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

LANGUAGE = "jupyter notebook"
MAX_OUTPUT = 1000  # characters of a result; StarCoder's limit

_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")


def convert(notebook: str) -> str:
    """Structured text of a notebook (JSON of nbformat 3 or 4); empty if it has no cell with content.

    Raises:
      ValueError: the text is not a notebook.
    """
    try:
        content = json.loads(notebook)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except ValueError as error:
        raise ValueError("not JSON") from error
    pieces = ["<jupyter_start>"]
    for is_code, group in itertools.groupby(_cells(content), key=lambda cell: cell[0]):
        _, sources, outputs = zip(*group, strict=True)
        if is_code:
            code, output = "\n".join(sources), outputs[-1] or "<empty_output>"
            pieces.append(f"<jupyter_code>{code}\n<jupyter_output>{output}")
        else:
            pieces.append("<jupyter_text>" + "\n\n".join(sources))
    text = "".join(pieces) if len(pieces) > 1 else ""
    return _SURROGATES.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def _cells(content: Any) -> Iterator[tuple[bool, str, str]]:
    """Yields (is code, source, result) of each Markdown or code cell that is not blank."""
    if isinstance(content, dict) and isinstance(content.get("worksheets"), list):  # nbformat 3
        lists = [sheet.get("cells") if isinstance(sheet, dict) else None for sheet in content["worksheets"]]
    else:
        lists = [content.get("cells") if isinstance(content, dict) else None]
    for cells in lists:
        if not isinstance(cells, list):
            raise ValueError("no list of cells")
        for cell in cells:
            if not isinstance(cell, dict):
                raise ValueError("a cell is not an object")
            kind = cell.get("cell_type")
            source = _joined(cell.get("source", cell.get("input", ""))).strip()
            if not source or kind not in ("code", "markdown", "heading"):
                continue
            if kind == "heading":
                level = cell.get("level")
                source = f"{'#' * (level if isinstance(level, int) and 0 < level < 7 else 1)} {source}"
            yield kind == "code", source, _output(cell.get("outputs") or []) if kind == "code" else ""


def _output(outputs: Any) -> str:
    """The textual results of a cell, without terminal colours, cut to `MAX_OUTPUT`."""
    if not isinstance(outputs, list):
        raise ValueError("outputs is not a list")
    pieces = []
    for output in outputs:
        if not isinstance(output, dict):
            raise ValueError("an output is not an object")
        data = output.get("data")
        if "ename" in output:
            pieces.append(f"{output['ename']}: {output.get('evalue', '')}\n")
        elif isinstance(data, dict):
            pieces.append(_joined(data.get("text/plain", "")) + "\n")
        else:
            pieces.append(_joined(output.get("text", "")))
    text = _ANSI.sub("", "".join(pieces)).strip()
    return text if len(text) <= MAX_OUTPUT else text[:MAX_OUTPUT] + "[...]"


def _joined(source: Any) -> str:
    if isinstance(source, str):
        return source
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        return "".join(source)
    raise ValueError("text that is neither a string nor a list of strings")
