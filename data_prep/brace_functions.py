"""Documented functions of languages with braces, cut out with the comment above them (arXiv 2411.04905, section 2.2).

No grammar is needed, and no time but linear: comments and literals are told from code as the quality rules do it
(`lexical_split`), brackets are matched, and what lies between a comment and a brace has to look like the head of a
function. Where a file confuses this (text blocks, conditional compilation, brackets that do not match), the functions
concerned are not taken; a doubtful one is no loss.
"""

from __future__ import annotations

import dataclasses
import re
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data_prep.quality.lexical_split import FAMILIES, Span, spans

LANGUAGES = tomllib.loads((Path(__file__).parent / "tables" / "brace_languages.toml").read_text("utf-8"))

_LONGEST_HEAD = 1000  # characters between a comment and the brace
_DEEPEST = 256  # characters in front of a comment on its line
_LINE_END = re.compile(r"[ \t]*(?:\n|\Z)")
_STATEMENTS = frozenset(
    """await break case catch continue defer do echo elif else finally for foreach from go goto if in instanceof is not
    of return select sizeof switch throw try typeof until using while yield""".split()
)
_KEYWORDS = _STATEMENTS | frozenset(
    """bool char const double false float fn func function int let long mut new nil null short signed true undefined
    unsigned val var void""".split()
)
_SELF = frozenset(["this", "$this", "self", "Self", "super"])

_ATTRIBUTES = re.compile(r"(?:\s*(?:@[\w.]++(?:\([^()]*\))?|#?\[[^\[\]]*\]|template\s*<[^<>]*>))*\s*")
_RESULT_AND_NAME = re.compile(r"[\w\s*&<>,:\[\]?.]*")
_NO_RESULT = frozenset(
    "__attribute__ __declspec class delegate enum function interface let namespace operator record typedef var".split()
) | (_STATEMENTS - {"from", "select"})
_SCRIPT = re.compile(
    r"(?:export\s+)?(?:default\s+)?(?:(?:async\s+)?function\s*\*?\s*([A-Za-z_$][\w$]*)\s*[(<]"
    r"|(?:const|let|var)\s+([A-Za-z_$][\w$]*)\s*(?::[^=]*)?=\s*(?:async\s*)?(?:function\b|\())"
)

_STRUCTURE = re.compile(r"[;{}(\[]")
_MARGIN = re.compile(r"^[ \t]*(?:/\*+!?(?!/)|\*+(?!/)|//[/!]?)?[ \t]?", re.MULTILINE)
_TAG = re.compile(r"[@\\<]\w")  # what opens a line about a parameter, the result, …
_CONDITIONAL = re.compile(r"^[ \t]*#[ \t]*(?:if|el|endif)", re.MULTILINE)
_WORD = re.compile(r"(?<![\w$.])[A-Za-z_$][\w$]*+(?=\s*(!?\(|<[^<>;(){}]{0,80}>\(|[?!]?\.(?!\.)|::|->)?)")
_METHOD = re.compile(r"\s*func\s*\(|[^()]*\([^()]*\)\s*const\b")  # of Go, of C++
_DECLARED = re.compile(r"\b(\w++)[\s*&>\[\]?]*[\s*&]([A-Za-z_$][\w$]*+)(?=\s*(?:[=;,:)\[]|in\b|of\b))")
_ITERATED = re.compile(r"\bfor(?:each)?\s*\(?[^;:()]{1,80}?(?::|\bof\b|\bin\b)\s*([A-Za-z_]\w*)")
_BOUND = re.compile(
    r"""(?<![\w$,\s])[\w$,\s]++(?=:=)  # a, b := …
    | \b[\w$]++(?=\s*=>) | \([^()]*\)\s*=> | \|[\w\s,&]*\| | \{[\w\s,]*->  # lambdas
    | \b(?:function|func|fn)\b[^(){}]{0,80}\([^()]*\)
    | \b(?:let|const|var|val)\s*[({\[][^(){}\[\]]*  # destructuring""",
    re.VERBOSE,
)


@dataclasses.dataclass(frozen=True)
class Function:
    """One function as it stands in its file, less the indentation of its first line.

    Attributes:
      language: name of the language in a sentence.
      fence: its name in a Markdown fence.
      name: the function's name.
      line: the first line of its comment in the file, counted from 1.
      comment: the comment above it, as source text ending with a line end.
      head: from behind the comment to the opening brace, ending with a line end.
      body: the lines behind the opening brace, the closing one included.
      docstring: what the comment says, without its marks.
      missing: names it seems to take from elsewhere, in alphabetical order. Judged by what stands in the function
        alone: names that are called, iterated over, all capitals, or that a member is taken of, and that are neither
        declared in it nor known to every file of the language. Types and other variables are not looked at.
      returns: whether it returns a value.
    """

    language: str
    fence: str
    name: str
    line: int
    comment: str
    head: str
    body: str
    docstring: str
    missing: tuple[str, ...]
    returns: bool

    comment_kind = "comment"

    @property
    def header(self) -> str:
        return self.comment + self.head

    @property
    def source(self) -> str:
        return self.comment + self.head + self.body

    @property
    def document(self) -> str:
        return self.source

    @property
    def signature(self) -> str:
        """The head on one line, without attributes and brace."""
        head = self.head[_matched(_ATTRIBUTES, self.head) :].rstrip().removesuffix("{")
        return " ".join(head.split()).removesuffix("=>").rstrip()

    @property
    def undocumented(self) -> str:
        return self.head + self.body

    @property
    def summary(self) -> str:
        """The first sentence of the comment, with the full stop that many leave out."""
        lines = re.sub(r"^[@\\](?:brief|short)\s+", "", self.docstring).split("\n")
        end = next((i for i, line in enumerate(lines) if not line.strip() or _TAG.match(line.lstrip())), len(lines))
        paragraph = " ".join(" ".join(lines[:end]).split())
        paragraph = re.sub(r"\{@\w+ ([^{}]*)\}|</?(?:b|code|em|i|p|tt)>|[@\\][apc] (?=\w)", r"\1", paragraph)
        sentence = re.split(r"(?<=[.!?])\s+(?=[A-Z])", paragraph, maxsplit=1)[0]
        return sentence + "." if sentence and sentence[-1].isalnum() else sentence

    @property
    def can_be_asked_for(self) -> bool:
        """Whether the signature says all that a caller has to know."""
        return "\n" not in self.head.strip()

    @property
    def stands_alone(self) -> bool:
        """Whether it seems to need nothing else of its file, turns parameters into a value and takes two lines."""
        has_parameters = not re.search(r"\(\s*(?:void)?\s*\)", self.signature)
        return self.returns and has_parameters and not self.missing and self.body.count("\n") > 2


class _Comment(NamedTuple):
    start: int  # of its first line
    end: int  # behind its last line


def documented_functions(text: str, language: str) -> list[Function]:
    """The functions with a comment directly above and a body on lines of its own; none for a language not in LANGUAGES.

    Methods are taken without their class, functions inside of functions are not. Not taken either: bodies without a
    statement, with conditional compilation, with text blocks, or with lines indented less than the first.
    """
    if language not in LANGUAGES:
        return []
    text = text.replace("\r\n", "\n")
    found = list(spans(text, FAMILIES[language]))
    code = _masked(text, found)
    closes = _brackets(code)
    starts = [span.start for span in found if span.kind == "comment"]
    functions: list[Function] = []
    done = line = line_at = upcoming = 0
    for comment in _comments(text, found):
        while upcoming < len(starts) and starts[upcoming] < comment.end:
            upcoming += 1
        limit = min(comment.end + _LONGEST_HEAD, starts[upcoming] if upcoming < len(starts) else len(text))
        brace = _opening_brace(code, comment.end, limit, closes)
        if comment.start < done or brace is None:
            continue
        name = _name(code[comment.end : brace], language)
        if name is None:
            continue
        done = closes[brace]
        end = text.find("\n", done) + 1 or len(text)
        line, line_at = line + text.count("\n", line_at, comment.start), comment.start
        cut = _cut(text, code, comment, brace, done, end)
        if cut is not None:
            functions.append(
                _function(name, language, line + 1, cut, code[comment.end : brace + 1], code[brace + 1 : done])
            )
    return functions


def _masked(text: str, found: list[Span]) -> str:
    """`text` with blanks for comments and quotes for literals, at the same places and on the same lines."""
    pieces, position = [], 0
    for span in found:
        fill = " " if span.kind == "comment" else '"'
        pieces += [text[position : span.start], re.sub(r"[^\n]", fill, text[span.start : span.end])]
        position = span.end
    return "".join([*pieces, text[position:]])


def _brackets(code: str) -> dict[int, int]:
    """Position of each opening bracket → position of its closing one; where brackets do not match, all start anew."""
    closes: dict[int, int] = {}
    stack: list[int] = []
    for match in re.finditer(r"[(){}\[\]]", code):
        bracket = match[0]
        if bracket in "({[":
            stack.append(match.start())
        elif stack and code[stack[-1]] + bracket in ("()", "{}", "[]"):
            closes[stack.pop()] = match.start()
        else:
            stack.clear()
    return closes


def _comments(text: str, found: list[Span]) -> Iterator[_Comment]:
    """Block comments, and runs of line comments, that have their lines to themselves."""
    run: _Comment | None = None
    for span in found:
        start = text.rfind("\n", max(span.start - _DEEPEST, 0), span.start) + 1
        behind = _LINE_END.match(text, span.end)
        at_line_start = start > 0 or span.start < _DEEPEST
        if span.kind != "comment" or behind is None or not at_line_start or text[start : span.start].strip(" \t"):
            continue
        is_block = text.startswith("/*", span.start)
        if run is not None and not is_block and run.end == start:
            run = _Comment(run.start, behind.end())
            continue
        if run is not None:
            yield run
        run = _Comment(start, behind.end())
        if is_block:
            yield run
            run = None
    if run is not None:
        yield run


def _opening_brace(code: str, start: int, limit: int, closes: dict[int, int]) -> int | None:
    """Where the body begins: the first brace outside of brackets, with its partner, at the end of its line."""
    position = start
    while match := _STRUCTURE.search(code, position, limit):
        at = match.start()
        if match[0] == "{":
            return at if at in closes and _LINE_END.match(code, at + 1) else None
        if match[0] in ";}" or at not in closes:
            return None
        position = closes[at] + 1
    return None


def _name(head: str, language: str) -> str | None:
    """The name of the function whose head this is; None if it is another thing."""
    if not head.split("\n", 1)[0].strip():
        return None  # a blank line: the comment is not about what follows
    head = head[_matched(_ATTRIBUTES, head) :]
    if keyword := LANGUAGES[language].get("keyword"):
        receiver = r"(?:\([^()]*\)\s*|<[^<>]*>\s*)?(?:[\w.?<>, *]+\.)?&?"
        match = re.match(rf'[\w()"\s]*?\b{keyword}\s+{receiver}([A-Za-z_]\w*)(?=\s*[(<\[])', head)
        return match[1] if match else None
    if language in ("javascript", "typescript", "tsx"):
        match = _SCRIPT.match(head)
        return match[1] or match[2] if match else None
    before, parenthesis, _ = head.partition("(")
    words = re.findall(r"[A-Za-z_]\w*", before)
    if not parenthesis or len(words) < 2 or words[-1] == words[-2] or not _RESULT_AND_NAME.fullmatch(before):
        return None
    return None if _NO_RESULT & set(words) or not before.rstrip().endswith(words[-1]) else words[-1]


def _matched(pattern: re.Pattern[str], text: str) -> int:
    match = pattern.match(text)
    return match.end() if match else 0


def _cut(text: str, code: str, comment: _Comment, brace: int, close: int, end: int) -> tuple[str, str, str] | None:
    """Comment, head and body of a function without their common indentation; None if it is not to be taken."""
    first = text[comment.end : brace]
    margin = first[: len(first) - len(first.lstrip(" \t"))]
    last = text.rfind("\n", 0, close) + 1
    inside = code[text.find("\n", brace) + 1 : last]
    if text[last:close] != margin or code[close + 1 : end].strip() not in ("", ";"):
        return None
    if not re.search(r"[^\s;]", inside) or '"""' in text[comment.end : end] or _CONDITIONAL.search(inside):
        return None
    open_end = text.find("\n", brace) + 1
    pieces = []
    for piece in (text[comment.start : comment.end], text[comment.end : open_end], text[open_end:end]):
        lines = piece.removesuffix("\n").split("\n")
        if any(line.strip() and not line.startswith(margin) for line in lines):
            return None
        pieces.append("".join(line.removeprefix(margin) + "\n" for line in lines))
    return pieces[0], pieces[1], pieces[2]


def _function(name: str, language: str, line: int, cut: tuple[str, str, str], head: str, body: str) -> Function:
    """`head` and `body` are the code of the function without comments and literals."""
    comment, _, _ = cut
    said = _MARGIN.sub("", comment).rstrip()
    said = said[:-1].rstrip("*") if said.endswith("*/") else said
    said = re.sub(r"</?(?:summary|remarks|para)>", "", said)
    return Function(
        LANGUAGES[language]["title"],
        LANGUAGES[language]["fence"],
        name,
        line,
        *cut,
        docstring=textwrap.dedent(said).strip(),
        missing=_missing(name, head, body, frozenset(LANGUAGES[language]["known"].split())),
        returns="->" in head or re.search(r"\breturn\b\s*[^;\s}]", body) is not None,
    )


def _missing(name: str, head: str, body: str, known: frozenset[str]) -> tuple[str, ...]:
    declared = {match[2] for match in _DECLARED.finditer(body) if match[1] not in _STATEMENTS}
    for match in _BOUND.finditer(body):
        declared |= set(re.findall(r"[\w$]+", match[0]))
    in_head = set(re.findall(r"[\w$]+", head))
    fine = known | _KEYWORDS | {name}
    missing = {match[1] for match in _ITERATED.finditer(body)} - in_head - declared - fine
    missing |= {"this"} if _METHOD.match(head) else set()
    for match in _WORD.finditer(body):
        word, before = match[0], body[max(match.start() - 12, 0) : match.start()].rstrip()
        if word in fine or before.endswith(("->", "::")) or (word[0] == "$" and word != "$this"):
            continue
        if re.fullmatch(r"[A-Z][A-Z0-9_]+", word):
            is_missing = word not in in_head
        else:
            used = match[1] or re.search(r"\bnew$", before)
            is_missing = word in _SELF or (used and word not in in_head | declared)
        if is_missing:
            missing.add(word)
    return tuple(sorted(missing))
