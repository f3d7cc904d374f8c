"""What an answer has to look like: one small grammar per prompt. What doesn't follow it raises `Rejected`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

_HEADER = re.compile(r"\[([A-Z][A-Za-z ]*)\][ \t]*")
_FENCE = re.compile(r"(`{3,})[ \t]*([\w+#.-]*)[ \t]*")


class Rejected(Exception):
    """An answer, or a row, that is not used. The text is the reason as it stands in `reasons`."""


def sections(text: str, names: Sequence[str]) -> list[str]:
    """The texts below the lines ``[Name]``, each once, in this order, none empty; lines inside of fences don't count.

    What stands above the first is ignored: teachers like to say hello.
    """
    found: list[tuple[str, list[str]]] = []
    for line, place in _places(text):
        header = _HEADER.fullmatch(line) if place == "text" else None
        if header and header[1] in names:
            found.append((header[1], []))
        elif found:
            found[-1][1].append(line)
    given = [name for name, _ in found]
    if given != list(names):
        missing = [name for name in names if name not in given]
        raise Rejected(f"malformed: {f'no [{missing[0]}]' if missing else 'sections out of order'}")
    bodies = ["\n".join(lines).strip() for _, lines in found]
    if "" in bodies:
        raise Rejected(f"malformed: [{names[bodies.index('')]}] is empty")
    return bodies


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, code) of all fenced blocks. Raises Rejected for a fence that is never closed."""
    found: list[tuple[str, list[str]]] = []
    place = "text"
    for line, place in _places(text):
        if place == "open":
            found.append((line.strip("` \t").lower(), []))
        elif place == "code":
            found[-1][1].append(line)
    if place in ("open", "code"):
        raise Rejected("malformed: a fence is not closed")
    return [(language, "\n".join(lines) + "\n") for language, lines in found]


def only_block(text: str, languages: Sequence[str], where: str) -> str:
    """The code of a text that is one fenced block in one of `languages` and nothing else."""
    found = blocks(text)
    if len(found) != 1 or not text.startswith("```") or not text.endswith("```"):
        raise Rejected(f"malformed: {where} is not one code block")
    return code_in(text, languages, where)


def code_in(text: str, languages: Sequence[str], where: str) -> str:
    """The code of the one fenced block in one of `languages` that a text holds."""
    found = [code for language, code in blocks(text) if language in languages]
    if len(found) != 1:
        raise Rejected(f"malformed: {len(found)} blocks of {languages[0]} in {where}")
    if not found[0].strip():
        raise Rejected(f"malformed: {where} holds no code")
    return found[0]


def yes_or_no(text: str) -> bool:
    """The first line says YES or NO, with or without a full stop."""
    first = text.strip().split("\n")[0].strip().rstrip(".")
    if first not in ("YES", "NO"):
        raise Rejected("malformed: neither YES nor NO")
    return first == "YES"


def score(text: str) -> int:
    """The last line says ``Score: N`` with N from 1 to 10."""
    found = re.fullmatch(r"Score: (\d+)", text.strip().split("\n")[-1].strip())
    if not found or not 1 <= int(found[1]) <= 10:
        raise Rejected("malformed: no last line 'Score: N'")
    return int(found[1])


def python(code: str, where: str) -> ast.Module:
    """The syntax tree of `code`."""
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Rejected(f"no_python: {where}") from error


def _places(text: str) -> Iterator[tuple[str, str]]:
    """Lines, and what each is: "text", or of a fenced block "open", "code" or "close"."""
    opened = ""
    for line in text.split("\n"):
        fence = _FENCE.fullmatch(line)
        if opened:
            place = "close" if line.rstrip() == opened else "code"
        else:
            place = "open" if fence else "text"
        if place != "code":
            opened = fence[1] if fence and place == "open" else ""
        yield line, place
