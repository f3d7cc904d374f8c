"""From what a model wrote to the Python it meant: fences and stop strings off, the broken tail off, the needed kept.

Only the model's own text is searched: a prompt with worked examples in front of it would offer wrong answers as code.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

_CODE_LINE = re.compile(r"^(?:import |from |def |class |async |@)", re.MULTILINE)
_FENCED = re.compile(r"```[^\n`]*\n(.*?)(?:\n```|\Z)", re.DOTALL)


def truncate(text: str, stops: Iterable[str]) -> str:
    """`text` up to the first stop string."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


def fenced(text: str) -> list[str]:
    """The contents of Markdown's code blocks; the last one may lack its end."""
    return _FENCED.findall(text)


def solution(prompt: str, completion: str, entry_point: str) -> str:
    """The module that defines `entry_point`: a rewrite of the whole function in `completion`, else prompt + completion.

    Fenced blocks come first, then the bare text. Where nothing parses into a definition, prompt + completion comes back
    as it is, so that the failure shows up in running it.
    """
    completion = completion.replace("\r\n", "\n").replace("\r", "\n")  # line numbers count them the same
    blocks = [*fenced(completion), completion.partition("\n```")[0]]
    for block in blocks:
        code = longest_valid(block)
        if not code and (start := _CODE_LINE.search(block)) and not block[:1].isspace():  # prose in front
            code = longest_valid(block[start.start() :])
        if entry_point in _defined(code):
            return needed(code, entry_point)
    for block in blocks:
        code = longest_valid(prompt + block)
        # the prompt alone, with its docstring for a body, is valid too: something must have been added
        if len(code.rstrip()) > len(prompt.rstrip()) and entry_point in _defined(code):
            return needed(code, entry_point)
    return prompt + completion


def longest_valid(code: str) -> str:
    """The longest run of leading lines that is a valid module, with "" as the shortest."""
    lines = re.findall(r"[^\n]*\n|[^\n]+", code)  # not splitlines: a form feed ends no line of Python
    while lines:
        try:
            ast.parse("".join(lines))
            return "".join(lines)
        except SyntaxError as error:
            # no run that holds the faulty line is valid, so go on in front of it
            del lines[min((error.lineno or len(lines)), len(lines)) - 1 :]
        except (ValueError, RecursionError, MemoryError):  # NUL bytes, nesting beyond the parser
            lines.pop()
    return ""


def needed(code: str, entry_point: str) -> str:
    """Top-level statements of `code` that `entry_point` reaches through names, imports, and calls into imports.

    Left out are a model's own asserts, prints, examples and ``if __name__`` blocks, which may fail or read input; kept
    are calls such as ``sys.setrecursionlimit(…)``.
    """
    body = ast.parse(code).body
    wanted, imported, keep = {entry_point}, set[str](), set[int]()
    for index, statement in enumerate(body):
        if isinstance(statement, ast.Import | ast.ImportFrom):
            keep.add(index)
            imported |= _bound(statement)
    for index, statement in enumerate(body):
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            root = statement.value.func
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in imported and root is not statement.value.func:
                keep.add(index)
                wanted |= _loaded(statement)
    grown = True
    while grown:
        grown = False
        for index, statement in enumerate(body):
            if index not in keep and not _is_main_guard(statement) and _bound(statement) & wanted:
                keep.add(index)
                wanted |= _loaded(statement)
                grown = True
    lines = code.split("\n")
    return "\n".join("\n".join(lines[_first_line(body[i]) - 1 : body[i].end_lineno]) for i in sorted(keep)) + "\n"


def _first_line(statement: ast.stmt) -> int:
    return min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", []))])


def _defined(code: str) -> set[str]:
    body = ast.parse(code).body
    return {n.name for n in body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}


def _bound(statement: ast.stmt) -> set[str]:
    """Names that a top-level statement binds, in nested blocks too but not inside functions and classes."""
    names: set[str] = set()
    queue: list[ast.AST] = [statement]
    while queue:
        node = queue.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        else:
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            queue.extend(ast.iter_child_nodes(node))
    return names


def _loaded(statement: ast.stmt) -> set[str]:
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}


def _is_main_guard(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and any(
        isinstance(n, ast.Name) and n.id == "__name__" for n in ast.walk(statement.test)
    )
