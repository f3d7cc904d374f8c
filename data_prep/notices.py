"""Removal of copyright and licence notices from the leading comment of a source file.

More than 15 % of code files open with one (arXiv 2411.04905, section 2.1.1). The leading comment is everything before
the first line of code: comments, blank lines, and declarations that have to stay on top (shebang, encoding, ``<?php``,
``<?xml …?>``, doctype). In it, each paragraph is cut from the line on which the wording of a notice begins; other
paragraphs, such as a description of the file, stay. A comment of which nothing is left goes as a whole.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import re
from collections.abc import Iterator

_BLOCKS = {
    "/*": "*/",
    "<!--": "-->",
    "<%--": "--%>",
    "--[[": "]]",
    "{-": "-}",
    "{#": "#}",
    "(*": "*)",
    "#|": "|#",
    "<#": "#>",
}
_LINE_COMMENT = re.compile(r"[ \t]*(?://|[#;%]|--)")
_SLASH_COMMENT = re.compile(r"[ \t]*//")
# Languages whose files may begin with code that looks like a comment of another language: `#id {…}`, `;(function…`.
_SLASH_ONLY = frozenset(
    """astro c cpp csharp css cuda dart go groovy html java javascript json kotlin less metal objective-c objective-c++
    opencl rust sass scala scss solidity svelte swift tsx typescript vue xml""".split()
)
_OWN_COMMENT = {
    language: re.compile(rf"[ \t]*(?:{marker})")
    for marker, languages in {
        r"'|[Rr][Ee][Mm]\b": ("vba", "vbscript", "visual basic .net", "visual basic 6.0"),
        r"::|@?[Rr][Ee][Mm]\b": ("batchfile",),
        r"!|(?<![ \t])[Cc*](?!\S)": ("fortran",),
        r"!": ("fortran free form",),
        r"#": ("gettext catalog",),
        r"dnl\b|#": ("m4", "m4sugar"),
        r"%": ("tex", "sweave"),
        r"@c\b": ("texinfo",),
        r'"': ("vim script",),
    }.items()
    for language in languages
}

_DECLARATION = re.compile(
    r"""[ \t]*(?: (?:\#! | \#.{0,40}?coding[:=] | <\?(?:php|xml|hh)\b | <!doctype\b | @echo\ off | \#pragma\ once)[^\n]*
      | \#[ ]?(?:ifndef|define)[ ]\w{1,128}\s*$ )""",
    re.VERBOSE | re.IGNORECASE,
)
_DIRECTIVE = re.compile(r"[ \t]*#(?:\[|include|define|undef|if|ifdef|ifndef|elif|else|endif|error|line|import)\b")
_NOTICE = re.compile(
    r"""
    \bcopyright(?:ed|s)?\W{0,3}(?:\(c\)|\d{4}|:|by\b|the\b|held|holders?|owners?|owned|status)
    | \b(?-i:Copyright|COPYRIGHT)\ (?-i:[A-Z])
    | [@\\](?:copyright|licen[cs]e)\b
    | ©|&copy;|\(c\)\W{0,3}(?:copyright|\d{4})
    | \bSPDX-[a-z-]+:
    | \ball\ rights\ (?:are\ )?reserved
    | ^licen[cs]e$ | \b(?:begin|end)\ licen[cs]e | \blicen[cs]es?\ ?: | \blicen[cs]ed\ (?:to|under|by|according)\b
    | \b(?:under|to|of|with)\ the\ (?:same\ |following\ )?(?:terms|conditions|licen[cs]e|apache|mit|bsd|gnu|mozilla)\b
    | \bpermission\ (?:is\ hereby|is\ granted|to\ use|is\ given)
    | \bredistributions?\ (?:of|in|and)\b | \bredistribute\ it\b
    | \bhope\ that\ it\ will\ be\ useful | \bwarrant(?:y|ies)\b
    | \bgeneral\ public\ licen[cs]e | \b(?:apache|public|mit|bsd|isc|boost)[ -](?:style\ )?licen[cs]e
    | \bgoverned\ by\ (?:an?|the)\ .{0,30}licen[cs]e
    | \b(?:see|in|read)\ (?:the\ )?(?:\w+\ )?(?:file\ )?["'`]?(?-i:LICEN[CS]E|COPYING|COPYRIGHT|NOTICE)
    | \babove\ copyright\ notice | \bcopy\ of\ (?:the|this)\ .{0,40}licen[cs]e | \bnot\ use\ this\ file\ except
    | \brequired\ by\ applicable\ law | \bneither\ the\ names?\ of | \bin\ no\ event\ (?:shall|will)
    | \b(?:in|into|to)\ the\ public\ domain
    | \b(?:apache\.org/licenses|opensource\.org/licenses|gnu\.org/licenses|mozilla\.org/MPL|creativecommons\.org)
    """,
    re.VERBOSE | re.IGNORECASE,
)
_LONGEST = 1 << 18  # characters; a longer leading comment is data or commented-out code, not a header
_FRAME = " \t\r\n*#/=-_~+|;!%<>.:'\""  # a comment line of nothing else separates paragraphs


@dataclasses.dataclass(frozen=True)
class _Piece:
    """Consecutive lines of the leading part of a file, with their line ends."""

    kind: str  # "blank", "declaration", "lines" (a run of line comments) or "block" (one block comment)
    lines: list[str]
    bodies: list[str] = dataclasses.field(default_factory=list)  # what comments say: "" separates paragraphs
    opening: str = ""  # of a block


def remove_notice(text: str, language: str = "unknown", doc_type: str = "code") -> str:
    """`text` without the copyright and licence notice of its leading comment; equal to `text` if there is none.

    Args:
      text: a whole file.
      language: name as in `languages`, which decides what a line comment is.
      doc_type: in prose (``text``), ``#`` is a heading: only the language's own line comments count.
    """
    comment = _OWN_COMMENT.get(language, _SLASH_COMMENT if language in _SLASH_ONLY else _LINE_COMMENT)
    if doc_type == "text" and language not in _OWN_COMMENT:
        comment = None
    kept: list[str] = []
    position, before = 0, "start"
    for piece in _leading(text, comment):
        position += sum(map(len, piece.lines))
        if position > _LONGEST:
            return text
        if before == "removed" and piece.kind == "blank":
            continue  # the blank lines below a removed comment go with it
        lines = _without_notice(piece)
        if lines:
            before = piece.kind
        else:
            lines = ["\n"] if before in ("lines", "block") else []  # its neighbours stay two comments
            before = "removed"
        kept += lines
    return "".join(kept) + text[position:]


def _leading(text: str, comment: re.Pattern[str] | None) -> Iterator[_Piece]:
    """The pieces before the first line of code; not much more than `_LONGEST` characters of them."""
    run = _Piece("lines", [])  # of line comments so far
    position = 0
    while (line := _line(text, position)) and position <= _LONGEST:
        start = line.lstrip(" \t")
        declared = _DECLARATION.match(line)
        opening = next((o for o in _BLOCKS if start.startswith(o)), "")
        block = _block(text, position, opening) if opening and not declared else []
        if comment and comment.match(line) and not (declared or block or _DIRECTIVE.match(line)):
            run.lines.append(line)
            run.bodies.append(_said(comment.sub("", line, count=1)))
            position += len(line)
            continue
        if run.lines:
            yield run
            run = _Piece("lines", [])
        if declared:
            piece = _Piece("declaration", [line])
        elif not start.strip():
            piece = _Piece("blank", [line])
        elif block:
            bodies = [block[0].lstrip(" \t").removeprefix(opening), *block[1:]]
            bodies[-1] = bodies[-1].rstrip().removesuffix(_BLOCKS[opening])
            piece = _Piece("block", block, [_said(body) for body in bodies], opening)
        else:
            return
        yield piece
        position += sum(map(len, piece.lines))
    if run.lines:
        yield run


def _said(line: str) -> str:
    """What a line of a comment says, without margins, frames and repeated blanks."""
    return " ".join(line.strip(_FRAME).split())


def _line(text: str, position: int) -> str:
    return text[position : text.find("\n", position) + 1 or len(text)]


def _block(text: str, position: int, opening: str) -> list[str]:
    """The lines of the block comment that opens at `position`; none if it never closes or code stands behind it."""
    closing = _BLOCKS[opening]
    close = text.find(closing, text.index(opening, position) + len(opening))
    behind = _line(text, close + len(closing))
    if close < 0 or behind.strip():
        return []
    return re.findall(r"[^\n]*\n|[^\n]+", text[position : close + len(closing)] + behind)


def _without_notice(piece: _Piece) -> list[str]:
    """The lines of a piece that stay: all without a notice, none if the rest says nothing."""
    gone = _notice_lines(piece.bodies)
    if not gone:
        return piece.lines
    told = [i for i, body in enumerate(piece.bodies) if body and i not in gone]
    if not told:
        return []
    stay = set(told)
    for a, b in itertools.pairwise(told):
        separators = [i for i in range(a + 1, b) if i not in gone]
        stay.update(separators if len(separators) == b - a - 1 else separators[:1])
    lines = dict(enumerate(piece.lines))
    if piece.kind == "block":
        last = len(piece.lines) - 1
        stay |= {0, last}
        if 0 in gone:
            lines[0] = _opening_line(piece)
        if last in gone:
            lines[last] = _closing_line(piece)
    return [lines[i] for i in sorted(stay)]


def _notice_lines(bodies: list[str]) -> set[int]:
    """Indices of the lines that belong to a notice: in each paragraph, from the first such wording to the end."""
    gone = set[int]()
    start = 0
    for end in range(len(bodies) + 1):
        if end == len(bodies) or not bodies[end]:
            paragraph = bodies[start:end]
            if match := _NOTICE.search(" ".join(paragraph)):
                ends = list(itertools.accumulate(len(body) + 1 for body in paragraph))
                gone.update(range(start + bisect.bisect_right(ends, match.start()), end))
            start = end + 1
    return gone


def _opening_line(piece: _Piece) -> str:
    """The first line of a block without what it says."""
    line = piece.lines[0]
    return line[: line.index(piece.opening)] + piece.opening + ("\r\n" if line.endswith("\r\n") else "\n")


def _closing_line(piece: _Piece) -> str:
    """The last line of a block without what it says."""
    line = piece.lines[-1]
    return line[: len(line) - len(line.lstrip(" \t"))] + line[line.rindex(_BLOCKS[piece.opening]) :]
