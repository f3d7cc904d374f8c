"""The default splitter: one compiled loop for all families of languages, in linear time.

It knows comments, string literals and what else may hold their delimiters (`syntax.toml`), and nothing of the grammar.
Unlike full lexers it treats related languages alike, whether or not anyone wrote a lexer for them, and no input takes
it more than linear time.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep.quality import lexical_scan as scan
from data_prep.quality.split import Literals, Split
from data_prep.quality.tokens import KINDS, code_points, gather, text_of

_SYNTAX = tomllib.loads((Path(__file__).parent / "syntax.toml").read_text("utf-8"))
FAMILIES = {language: family for family, rules in _SYNTAX.items() for language in rules["languages"]}
_OPENS = {
    "line": scan.LINE,
    "spaced": scan.LINE,
    "first": scan.FIRST,
    "docstrings": scan.TRIPLE,
    "strings": scan.STRING,
    "long": scan.LONG,
    "raw": scan.RAW,
}
_NAMES = {
    scan.COMMENT: "comment",
    scan.DOCSTRING: "docstring",
    scan.TEXT: "string",
    scan.TRIPLE_TEXT: "triple",
    scan.CHARACTER: "char",
    scan.PATTERN: "regex",
}


class Span(NamedTuple):
    """A comment or a literal: text[start:end]."""

    kind: str  # comment | docstring | string | triple | char | regex
    start: int
    end: int


def lexical_split(text: str, language: str) -> Split:
    """Code, comments and literals of `text`.

    A comment that has its lines to itself takes them whole, indentation and line end included; other comments leave
    the rest of the line to the code. In `Split.comment` each comment starts a line.
    """
    family = FAMILIES.get(language)
    if family is None:
        return Split(text, "", None)
    points = code_points(text)
    found = scan.scan(points, KINDS, *_openers(family))
    what, starts, lasts = found[:, 0], found[:, 1], found[:, 4]
    of_comment, of_docstring = what == scan.COMMENT, what == scan.DOCSTRING
    written = int((lasts - starts)[of_comment].sum())
    written += sum(_written(text[start:end]) for _, start, _, _, end in found[of_docstring].tolist())
    comments = found[of_comment | of_docstring, 3:]
    between = np.concatenate(((0,), comments.ravel(), (len(points),)), dtype=np.int32).reshape(-1, 2)
    strings = found[((what == scan.TEXT) | (what == scan.TRIPLE_TEXT)) & (found[:, 3] < lasts), 3:]
    literals = Literals(text_of(gather(points, strings, True)), int((strings[:, 1] - strings[:, 0]).sum()))
    code, comment = gather(points, between, False), gather(points, comments, True)
    return Split(text_of(code), text_of(comment), written, literals)


def spans(text: str, family: str) -> list[Span]:
    """Every comment and literal, in order and without overlaps."""
    found = scan.scan(code_points(text), KINDS, *_openers(family))
    return [Span(_NAMES[what], start, end) for what, start, end, _, _ in found.tolist()]


def _written(docstring: str) -> int:
    """Characters without the indentation, which belongs to the code around it."""
    return sum(len(line.lstrip()) for line in docstring.splitlines(keepends=True))


class _Openers(NamedTuple):
    """What opens comments and literals in a family, as `lexical_scan.scan` takes it."""

    candidates: np.ndarray
    openers: np.ndarray
    lengths: np.ndarray
    opens: np.ndarray
    guards: np.ndarray
    closers: np.ndarray
    closer_lengths: np.ndarray
    line_openers: np.ndarray


@cache
def _openers(family: str) -> _Openers:
    rules = _SYNTAX[family]
    line = tuple(rules.get("line", ()))
    comments = [
        (opener, "", _OPENS[key], _guard(opener, key))
        for key in ("line", "spaced", "first")
        for opener in rules.get(key, ())
    ]
    comments += [(opener, closer, scan.BLOCK, _guard(opener, "block")) for opener, closer in rules.get("block", ())]
    comments += [(opener, "\n" + closer, scan.POD, scan.LINE_END) for opener, closer in rules.get("pod", ())]
    comments.sort(key=lambda comment: -len(comment[0]))
    literals = [
        (q, q, _OPENS[key], scan.ANYTHING)
        for key in ("docstrings", "strings", "long", "raw")
        for q in rules.get(key, ())
    ]
    literals += [("'", "", scan.CHAR, scan.ANYTHING)] if "chars" in rules else []
    literals += [("/", "", scan.REGEX, scan.ANYTHING)] if "regex" in rules else []
    openers, closers, opens, guards = zip(*comments, *literals, strict=True)
    return _Openers(
        scan.flags("".join(opener[0] for opener in openers)),
        _table(openers),
        np.array([len(opener) for opener in openers]),
        np.array(opens),
        np.array(guards),
        _table(closers),
        np.array([len(closer) for closer in closers]),
        np.array([opener.startswith(line) for opener in openers]),
    )


def _guard(opener: str, key: str) -> int:
    if opener == "//":
        return scan.NO_COLON  # the slashes of a URL
    return scan.SEPARATOR if key == "spaced" else scan.ANYTHING


def _table(literals: Sequence[str]) -> np.ndarray:
    """Code points, filled up with zeros: uint32 [literals, longest]."""
    table = np.zeros((len(literals), max(1, *map(len, literals))), np.uint32)
    for row, literal in zip(table, literals, strict=True):
        row[: len(literal)] = [ord(character) for character in literal]
    return table
