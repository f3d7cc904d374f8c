"""Questions and answers about documented functions and about files, from templates (arXiv 2411.04905, section 4)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from data_prep import brace_functions, python_functions

Function = python_functions.Function | brace_functions.Function


class Dialogue(NamedTuple):
    stage: int  # 1: breadth, 2: quality, 0: breadth, where functions give too little of it
    kind: str
    question: str
    answer: str


# One of the templates of a kind is chosen by a hash of what fills it.
WRITE = (
    "Write a {language} function `{name}` that does the following:\n\n{description}",
    "Implement `{signature}` in {language}.\n\n{description}",
    "I need a {language} function called `{name}`. Its documentation reads:\n\n{description}\n\nPlease write it.",
    "This is the {comment_kind} of the {language} function `{signature}`:\n\n{description}\n\nWrite the function.",
)
COMPLETE = (
    "Complete this function:\n\n```{fence}\n{header}```",
    "Fill in the body of `{name}`:\n\n```{fence}\n{header}```",
    "The body of this {language} function is missing. Write the whole function.\n\n```{fence}\n{header}```",
)
SUMMARISE = (
    "What does this function do?\n\n```{fence}\n{code}```",
    "Summarise the following {language} function in one sentence.\n\n```{fence}\n{code}```",
    "Write the first line of a {comment_kind} for this function:\n\n```{fence}\n{code}```",
    "Explain briefly what `{name}` does.\n\n```{fence}\n{code}```",
)
FIND = (
    "A module has these functions:\n\n```{fence}\n{signatures}\n```\n\nWhich of them fits this description? {summary}",
    "Which of the following functions is described by this sentence: “{summary}”\n\n```{fence}\n{signatures}\n```",
    "Given the functions\n\n```{fence}\n{signatures}\n```\n\nname the one that does this: {summary}",
)
IMPLEMENT = (
    "Complete the following {language} function.\n\n```{fence}\n{prompt}```",
    "Write a self-contained solution for this function, with the imports it needs.\n\n```{fence}\n{prompt}```",
    "Read the signature and the {comment_kind}, then give the complete function.\n\n```{fence}\n{prompt}```",
    "Please implement this function in {language}:\n\n```{fence}\n{prompt}```",
)
CONTINUE = (
    "Continue this {language} file:\n\n```{fence}\n{beginning}```",
    "These are the first lines of `{name}`, a {language} file. What comes next?\n\n```{fence}\n{beginning}```",
    "A {language} file begins like this. Write the lines that follow.\n\n```{fence}\n{beginning}```",
)
CONTINUED_BYTES = 400  # of the beginning, and of what follows
_ACRONYMS = frozenset("css html json sql svg toml xml yaml".split())


def documented_functions(document: dict[str, Any]) -> Sequence[Function]:
    """The functions of a document (columns text, path, language) in a language they can be found in; else none."""
    if document["language"] == "python":
        return python_functions.documented_functions(document["text"], document["path"])
    return brace_functions.documented_functions(document["text"], document["language"])


def about_functions(functions: Sequence[Function]) -> Iterator[Dialogue]:
    """Everything the functions of one file give rise to, of stages 1 and 2."""
    functions = [function for function in functions if "```" not in function.source]
    for function in functions:
        if _is_described(function):
            code = f"```{function.fence}\n{function.source}```"
            if _choice(function.source, 2) and function.can_be_asked_for:
                fields = {"signature": function.signature, "description": function.docstring.strip()}
                yield Dialogue(1, "write", _ask(WRITE, function, **fields), code)
            else:
                yield Dialogue(1, "complete", _ask(COMPLETE, function, header=function.header), code)
            yield Dialogue(1, "summarise", _ask(SUMMARISE, function, code=function.undocumented), function.summary)
        if _is_exemplary(function):
            prompt = function.document.removesuffix(function.body)
            answer = f"```{function.fence}\n{function.document}```"
            yield Dialogue(2, "implement", _ask(IMPLEMENT, function, prompt=prompt), answer)
    described = [function for function in functions if _is_described(function)]
    for start in range(0, len(described) - 2, 4):
        group = described[start : start + 4]
        wanted = group[_choice(group[0].source, len(group))]
        signatures = "\n".join(function.signature for function in group)
        question = _ask(FIND, wanted, signatures=signatures, summary=wanted.summary)
        yield Dialogue(1, "find", question, f"`{wanted.name}`: {wanted.summary}")


def about_file(document: dict[str, Any]) -> Iterator[Dialogue]:
    """The lines behind the first ones of a file in any language: of stage 0; none for a short file."""
    lines = re.findall(r"[^\n]*\n", document["text"][: 4 * CONTINUED_BYTES])
    beginning = _fitting(lines)
    following = _fitting(lines[len(beginning) :])
    if "```" in "".join(lines) or min(len(beginning), len(following)) < 2 or not "".join(following).strip():
        return
    template = CONTINUE[_choice("".join(beginning), len(CONTINUE))]
    name = document["path"].rpartition("/")[2]
    title, fence = _title_and_fence(document["language"])
    question = template.format(language=title, fence=fence, name=name, beginning="".join(beginning))
    yield Dialogue(0, "continue", question, f"```{fence}\n{''.join(following)}```")


def _title_and_fence(language: str) -> tuple[str, str]:
    """A language's name in a sentence and in a Markdown fence."""
    if language in brace_functions.LANGUAGES:
        return brace_functions.LANGUAGES[language]["title"], brace_functions.LANGUAGES[language]["fence"]
    return language.upper() if language in _ACRONYMS else language.title(), language.replace(" ", "-")


def _fitting(lines: Sequence[str]) -> Sequence[str]:
    """The first lines, as many as `CONTINUED_BYTES` holds."""
    size = 0
    for number, line in enumerate(lines):
        size += len(line.encode())
        if size > CONTINUED_BYTES:
            return lines[:number]
    return lines


def _ask(templates: Sequence[str], function: Function, **fields: str) -> str:
    template = templates[_choice(function.source, len(templates))]
    common = {"language": function.language, "fence": function.fence, "comment_kind": function.comment_kind}
    return template.format(name=function.name, **common, **fields)


def _choice(text: str, n: int) -> int:
    """A number below `n` that depends on `text` and on `n`."""
    digest = hashlib.sha256(f"{n}\0{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % n


def _is_described(function: Function) -> bool:
    """Whether the documentation opens with one plain English sentence; tests have none worth asking for."""
    summary = function.summary
    sentence = re.fullmatch(r"[A-Z][ -~]{14,158}[.]", summary) and summary.count(" ") >= 3 and ">>>" not in summary
    return bool(sentence) and not function.name.startswith("test")


def _is_exemplary(function: Function) -> bool:
    """Whether the function may serve as a model answer: self-contained, short, and it returns what it is asked for."""
    return (
        _is_described(function)
        and function.stands_alone
        and not re.search(r"deprecated|todo|fixme", function.source, re.IGNORECASE)
        and function.body.count("\n") <= 40
    )
