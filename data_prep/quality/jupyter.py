"""Jupyter notebooks as the rules see them: their code is Python, and what stands between it is comment."""

from __future__ import annotations

import re
from collections.abc import Callable

from data_prep.quality.lexical_split import lexical_split
from data_prep.quality.split import Literals, Split

_MARKER = re.compile(r"<jupyter_(start|text|code|output)>")
_NO_OUTPUT = "<empty_output>"


def without_markers(text: str) -> tuple[str, Callable[[str, str], Split]]:
    """A converted notebook (`sources.notebooks`) without its markers, and what splits that.

    The markers would count as words and as repetitions. Code cells are split as Python, whose lexical rules serve R
    and Julia as well; Markdown and results are comments.
    """
    lines: list[str] = []
    code: list[Split] = []
    others: list[str] = []
    pieces = ["text", *_MARKER.split(text)]
    for kind, piece in zip(pieces[::2], pieces[1::2], strict=True):
        piece = piece.strip("\n")
        if not piece or piece == _NO_OUTPUT:
            continue
        lines.append(piece)
        if kind == "code":
            code.append(lexical_split(piece + "\n", "python"))
        else:
            others.append(piece)
    split = Split(
        "".join(part.code for part in code),
        "\n".join([*others, *(part.comment for part in code)]),
        sum(map(len, others)) + sum(part.comment_characters or 0 for part in code),
        Literals("".join(part.strings.text for part in code), sum(part.strings.characters for part in code)),
    )
    return "\n".join(lines) + "\n", lambda text, language: split
