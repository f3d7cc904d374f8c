"""The default splitter: one regular expression per family of languages, in linear time.

It knows comments, string literals and what else may hold their delimiters (`syntax.toml`), and nothing of the grammar.
Unlike full lexers it treats related languages alike, whether or not anyone wrote a lexer for them, and no input takes
it more than linear time.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from data_prep.quality.split import Split

_SYNTAX = tomllib.loads((Path(__file__).parent / "syntax.toml").read_text("utf-8"))
FAMILIES = {language: family for family, rules in _SYNTAX.items() for language in rules["languages"]}

_INDENTATION = 256  # characters before something that must be the first thing on its line; a bound on the work
_BLANK = " \t\f\v"
_DOCSTRING_PREFIX = _BLANK + "rRbBuUfF"

# What follows the first character of each kind of opener; Q is the quote. Possessive: nothing is ever tried twice.
_SHORT = r"[^Q\\\n]*+(?:\\.[^Q\\\n]*+)*+Q?+"
_LONG = r"[^Q\\]*+(?:\\.?[^Q\\]*+)*+(?:Q|\Z)"
_RAW = r"[^Q]*+(?:Q|\Z)"
_TRIPLE = r"QQ[^Q\\]*+(?:(?:\\.?|Q(?!QQ))[^Q\\]*+)*+(?:QQQ|\Z)"
_CHAR = r"(?:\\[^\n][^'\n]{0,9}|[^'\\\n]{1,4})'"
_BEFORE_REGEX = r"[(,=:\[!&|?{};+]"
_REGEX = (
    rf"(?:(?<={_BEFORE_REGEX}/)|(?<={_BEFORE_REGEX}\s/))(?![*/])"
    r"(?:[^\\/\[\n]|\\.|\[(?:[^\]\\\n]|\\.){0,99}+\]){1,199}+/"
)


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
    code: list[str] = []
    comments: list[str] = []
    literals: list[str] = []
    done = characters = 0
    for span in spans(text, family):
        kind = span[0]
        if kind == "string" or kind == "triple":
            literals.append(_content(text, span))
            continue
        if kind != "comment" and kind != "docstring":
            continue
        start, end = _whole_lines(text, span, done)
        code.append(text[done:start])
        comments.append(text[start:end] if text[end - 1] == "\n" else text[start:end] + "\n")
        characters += _written(text, span, end)
        done = end
    code.append(text[done:])
    return Split("".join(code), "".join(comments), characters, tuple(filter(None, literals)))


def spans(text: str, family: str) -> Iterator[Span]:
    """Every comment and literal, in order and without overlaps."""
    openers = _openers(family)
    missing: set[str] = set()  # closers that do not occur any more
    position = 0
    while match := openers.pattern.search(text, position):
        start, position = match.span()
        kind = openers.kinds[match.lastindex or 0]
        if kind == "line" or (kind == "first" and _starts_line(text, start)):
            position = _end_of_line(text, position)
            yield Span("comment", start, position)
        elif kind == "block":
            closer = openers.closers[match[0]]
            end = -1 if closer in missing else text.find(closer, position)
            if end >= 0:
                position = end + len(closer)
                yield Span("comment", start, position)
            else:
                missing.add(closer)
                if match[0].startswith(openers.line):
                    position = _end_of_line(text, position)
                    yield Span("comment", start, position)
        elif kind == "pod":
            end = text.find(openers.closers[match[0]], position)
            position = len(text) if end < 0 else _end_of_line(text, end + 1)
            yield Span("comment", start, position)
        elif kind == "triple":
            yield Span("docstring" if _starts_line(text, start, _DOCSTRING_PREFIX) else "triple", start, position)
        elif kind in ("string", "char", "regex"):
            yield Span(kind, start, position)


def _starts_line(text: str, start: int, blank: str = _BLANK) -> bool:
    before = text[max(start - _INDENTATION, 0) : start]
    line_start = before.rfind("\n") + 1
    return (line_start > 0 or start < _INDENTATION) and not before[line_start:].strip(blank)


def _end_of_line(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end


def _whole_lines(text: str, span: Span, done: int) -> tuple[int, int]:
    """The span, widened to whole lines where nothing else stands on them; `done` ends what is taken already."""
    line_start = text.rfind("\n", done, span.start) + 1 or done
    alone_before = not text[line_start : span.start].strip(_DOCSTRING_PREFIX if span.kind == "docstring" else _BLANK)
    at_line_start = line_start == 0 or text[line_start - 1] == "\n"
    if alone_before and at_line_start and text[span.end : span.end + 1] in ("\n", ""):
        return line_start, min(span.end + 1, len(text))
    return span.start, span.end


def _written(text: str, span: Span, end: int) -> int:
    """Characters of a comment without the indentation in front, which belongs to the code around it."""
    if span.kind != "docstring":
        return end - span.start
    return sum(len(line.lstrip()) for line in text[span.start : end].splitlines(keepends=True))


def _content(text: str, span: Span) -> str:
    marks = 3 if span.kind == "triple" else 1
    return text[span.start + marks : span.end].removesuffix(text[span.start : span.start + marks])


class _Openers(NamedTuple):
    pattern: re.Pattern[str]
    kinds: tuple[str, ...]  # by group number: what the alternative that matched opens
    closers: dict[str, str]  # of block comments, by opener
    line: tuple[str, ...]  # openers of line comments


@cache
def _openers(family: str) -> _Openers:
    """The expression that finds the next opener of a family.

    It consumes one character out of those that any opener starts with and goes on from there, because `re` skips
    quickly to a character of a set and slowly to one of several alternatives.
    """
    rules = _SYNTAX[family]
    comments = [(opener, kind) for kind in ("line", "spaced", "first") for opener in rules.get(kind, ())]
    comments += [(opener, kind) for kind in ("block", "pod") for opener, _ in rules.get(kind, ())]
    comments.sort(key=lambda comment: -len(comment[0]))
    alternatives = [(opener[0], kind, _guard(opener, kind) + re.escape(opener[1:])) for opener, kind in comments]
    literals = (("docstrings", _TRIPLE), ("strings", _SHORT), ("long", _LONG), ("raw", _RAW))
    for key, body in literals:
        kind = "triple" if key == "docstrings" else "string"
        alternatives += [(quote[0], kind, body.replace("Q", quote[0])) for quote in rules.get(key, ())]
    alternatives += [("'", "char", _CHAR)] if "chars" in rules else []
    alternatives += [("/", "regex", _REGEX)] if "regex" in rules else []

    first = "".join(re.escape(character) for character in sorted({character for character, _, _ in alternatives}))
    bodies = "|".join(f"((?<={re.escape(character)}){body})" for character, _, body in alternatives)
    return _Openers(
        pattern=re.compile(f"[{first}](?:{bodies})", re.DOTALL),
        kinds=("", *("line" if kind == "spaced" else kind for _, kind, _ in alternatives)),
        closers={**dict(rules.get("block", ())), **{opener: "\n" + closer for opener, closer in rules.get("pod", ())}},
        line=tuple(rules.get("line", ())),
    )


def _guard(opener: str, kind: str) -> str:
    """What must stand around the first character of a comment's opener."""
    first = re.escape(opener[0])
    if opener == "//":
        return "(?<!:/)"  # the slashes of a URL
    return {"spaced": rf"(?<![^\s;()&|]{first})", "pod": rf"(?<![^\n]{first})"}.get(kind, "")
