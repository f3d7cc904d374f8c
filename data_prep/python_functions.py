"""Documented top-level functions of a Python file, cut out with the imports they need."""

from __future__ import annotations

import ast
import builtins
import dataclasses
import io
import symtable
import sys
import warnings
from collections.abc import Iterator
from typing import NamedTuple

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
BUILTINS = frozenset(dir(builtins))


@dataclasses.dataclass(frozen=True)
class Function:
    """One function as it stands in its file.

    Attributes:
      name: the function's name.
      line: its first line in the file, decorators included, counted from 1.
      header: decorators, signature and docstring, as source text ending with a line end.
      body: the lines after the docstring, ending with a line end.
      docstring: the docstring without its indentation.
      imports: the import statements it needs, one per name, in the order of the file.
      packages: the packages outside the standard library that it imports, in alphabetical order.
      missing: names it takes from elsewhere in its file or package, in alphabetical order; empty if self-contained.
      node: its syntax tree.
    """

    name: str
    line: int
    header: str
    body: str
    docstring: str
    imports: tuple[str, ...]
    packages: tuple[str, ...]
    missing: tuple[str, ...]
    node: FunctionNode = dataclasses.field(repr=False, compare=False)

    language = "Python"
    fence = "python"
    comment_kind = "docstring"

    @property
    def source(self) -> str:
        return self.header + self.body

    @property
    def document(self) -> str:
        """The imports and the function: a small file of its own."""
        return "".join(f"{line}\n" for line in self.imports) + ("\n\n" if self.imports else "") + self.source

    @property
    def summary(self) -> str:
        """The first paragraph of the docstring as one line."""
        return " ".join(self.docstring.split("\n\n", 1)[0].split())

    @property
    def signature(self) -> str:
        returns = f" -> {ast.unparse(self.node.returns)}" if self.node.returns else ""
        return f"def {self.name}({ast.unparse(self.node.args)}){returns}"

    @property
    def undocumented(self) -> str:
        """The source without the docstring, comments and layout kept."""
        first = self.node.body[0]
        assert first.end_lineno is not None
        lines = self.header.splitlines(keepends=True)
        return "".join(lines[: len(lines) - (first.end_lineno - first.lineno + 1)]) + self.body.lstrip("\n")

    @property
    def can_be_asked_for(self) -> bool:
        """Whether the signature says all that a caller has to know."""
        return not self.node.decorator_list

    @property
    def stands_alone(self) -> bool:
        """Whether it is a plain function that runs with the standard library alone and returns what it is asked for."""
        first = ast.unparse(self.node.args).split(",")[0]
        return (
            first not in ("self", "cls")
            and not self.missing
            and not self.packages
            and not self.node.decorator_list
            and isinstance(self.node, ast.FunctionDef)
            and any(isinstance(node, ast.Return | ast.Yield) and node.value for node in ast.walk(self.node))
        )


def parse(text: str) -> ast.Module | None:
    """The syntax tree of a Python file, or None if this interpreter cannot parse it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SyntaxWarning and DeprecationWarning about what the file says
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


class Import(NamedTuple):
    """One imported name: `statement` binds `name` and nothing else; `package` is "." for a relative import."""

    name: str
    package: str
    statement: str


def imports_of(node: ast.AST) -> Iterator[Import]:
    """The names that an import statement binds; none for any other node."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            package = alias.name.split(".")[0]
            yield Import(alias.asname or package, package, ast.unparse(ast.Import([alias])))
    elif isinstance(node, ast.ImportFrom):
        package = "." if node.level else (node.module or ".").split(".")[0]
        for alias in node.names:
            single = ast.ImportFrom(node.module, [alias], node.level)
            yield Import(alias.asname or alias.name, package, ast.unparse(single))


def own_packages(path: str) -> set[str]:
    """What `Import.package` may be for an import of the package that the file at `path` belongs to."""
    return {".", *path.removesuffix(".py").split("/")}


def documented_functions(text: str, path: str) -> list[Function]:
    """The functions at the top level of a Python file that have a docstring and a body worth the name.

    Not taken: what does not compile, stubs (`pass`, `...`, one `raise`), and functions on a single line.

    Args:
      text: the file.
      path: where it lies; what it imports of its own package counts as missing.
    """
    text = io.StringIO(text, newline=None).read()  # line ends as the parser counts them
    tree = parse(text)
    if tree is None:
        return []
    lines = text.split("\n")
    own = own_packages(path)
    imports = [entry for statement in tree.body for entry in imports_of(statement)]
    functions = []
    for node in tree.body:
        if isinstance(node, FunctionNode) and ast.get_docstring(node) and not _is_stub(node):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            middle, last = node.body[0].end_lineno, node.end_lineno
            assert middle is not None and last is not None
            if node.body[1].lineno > middle > node.lineno:
                header, body = ("\n".join(lines[a:b]) + "\n" for a, b in ((first - 1, middle), (middle, last)))
                free = _free_names(header + body)
                if free is not None:
                    functions.append(_function(node, first, header, body, free - {node.name}, imports, own))
    return functions


def _function(
    node: FunctionNode, line: int, header: str, body: str, needed: set[str], imports: list[Import], own: set[str]
) -> Function:
    used = [entry for entry in imports if entry.name in needed]
    inner = [entry for statement in ast.walk(node) for entry in imports_of(statement)]
    missing = needed - {entry.name for entry in used} - BUILTINS
    missing |= {entry.name for entry in used + inner if entry.package in own}
    packages = {entry.package for entry in used + inner} - own - sys.stdlib_module_names
    return Function(
        name=node.name,
        line=line,
        header=header,
        body=body,
        docstring=ast.get_docstring(node) or "",
        imports=tuple(dict.fromkeys(entry.statement for entry in used)),
        packages=tuple(sorted(packages)),
        missing=tuple(sorted(missing)),
        node=node,
    )


def _free_names(source: str) -> set[str] | None:
    """Names that `source`, a function at the top level, takes from its module or builtins; None if it is in error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            table = symtable.symtable(source, "<function>", "exec")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
    names = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced() and not symbol.is_assigned()}
    scopes = table.get_children()
    while scopes:
        scope = scopes.pop()
        names |= {symbol.get_name() for symbol in scope.get_symbols() if symbol.is_global()}
        scopes += scope.get_children()
    return names


def _is_stub(node: FunctionNode) -> bool:
    """Whether nothing follows the docstring but one statement that does nothing."""
    if len(node.body) == 1:
        return True
    only = node.body[1]
    return len(node.body) == 2 and (
        isinstance(only, ast.Pass | ast.Raise) or (isinstance(only, ast.Expr) and isinstance(only.value, ast.Constant))
    )
