"""Signals of Python files, from the syntax tree of the standard library's parser."""

from __future__ import annotations

import ast
import dataclasses
import warnings
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from data_prep.quality.group import Group, Value, fraction
from data_prep.quality.view import View

SIGNALS = Group()

MAX_CHARACTERS = 2_000_000  # of a file to parse; a tree takes several hundred times the memory of its text

Function = ast.FunctionDef | ast.AsyncFunctionDef


def syntax_tree(view: View) -> ast.Module | None:
    """None where the file does not parse; nesting too deep for the parser and null bytes count as that."""
    return parse(view.within_budget("Python syntax tree", MAX_CHARACTERS))


@lru_cache(maxsize=1)
def parse(text: str) -> ast.Module | None:
    """The tree of `text`, kept until that of another is wanted; None where it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


_BLOCKS: dict[type, tuple[str, ...]] = {
    ast.Module: ("body",),
    ast.FunctionDef: ("body",),
    ast.AsyncFunctionDef: ("body",),
    ast.ClassDef: ("body",),
    ast.If: ("body", "orelse"),
    ast.For: ("body", "orelse"),
    ast.AsyncFor: ("body", "orelse"),
    ast.While: ("body", "orelse"),
    ast.With: ("body",),
    ast.AsyncWith: ("body",),
    ast.Try: ("body", "handlers", "orelse", "finalbody"),
    ast.TryStar: ("body", "handlers", "orelse", "finalbody"),
    ast.ExceptHandler: ("body",),
    ast.Match: ("cases",),
    ast.match_case: ("body",),
}


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """All statements, except handlers and match cases below `tree`; expressions, most of any tree, are not entered."""
    pending = [tree]
    while pending:
        below = children(pending.pop())
        pending += [node for node in below if type(node) in _BLOCKS]
        yield from below


def children(node: ast.AST) -> list[ast.AST]:
    """The statements, handlers and match cases directly below `node`."""
    return [child for block in _BLOCKS.get(type(node), ()) for child in getattr(node, block)]


@dataclasses.dataclass(frozen=True)
class Facts:
    """What one walk over the statements counts."""

    functions: int
    simple_functions: int  # an optional docstring and a simple return
    classes: int
    class_variables: int
    imports: int
    passes: int
    prints: int
    simple_returns: int  # of nothing, a constant, a name or an attribute
    variables: int  # statements and parameters that bind a name; walrus and comprehensions are left out


def facts(view: View) -> Facts | None:
    """None where the file does not parse."""
    tree = view.once(syntax_tree)
    if tree is None:
        return None
    nodes: defaultdict[type, list[Any]] = defaultdict(list)
    for node in statements(tree):
        nodes[type(node)].append(node)
    functions = nodes[ast.FunctionDef] + nodes[ast.AsyncFunctionDef]
    variables = sum(len(nodes[kind]) for kind in (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.For, ast.AsyncFor))
    variables += sum(_parameters(function.args) for function in functions)
    variables += sum(
        item.optional_vars is not None for node in nodes[ast.With] + nodes[ast.AsyncWith] for item in node.items
    )
    variables += sum(handler.name is not None for handler in nodes[ast.ExceptHandler])
    members = (member for node in nodes[ast.ClassDef] for member in node.body)
    return Facts(
        functions=len(functions),
        simple_functions=sum(map(_only_returns, functions)),
        classes=len(nodes[ast.ClassDef]),
        class_variables=sum(isinstance(member, (ast.Assign, ast.AnnAssign)) for member in members),
        imports=len(nodes[ast.Import]) + len(nodes[ast.ImportFrom]),
        passes=len(nodes[ast.Pass]),
        prints=sum(map(_prints, nodes[ast.Expr])),
        simple_returns=sum(_is_simple(node.value) for node in nodes[ast.Return]),
        variables=variables,
    )


def _prints(node: ast.Expr) -> bool:
    call = node.value
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "print"


def _only_returns(node: Function) -> bool:
    body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
    return len(body) == 1 and isinstance(body[0], ast.Return) and _is_simple(body[0].value)


def _is_simple(value: ast.expr | None) -> bool:
    while isinstance(value, ast.Attribute):
        value = value.value
    return value is None or isinstance(value, (ast.Constant, ast.Name))


def _parameters(args: ast.arguments) -> int:
    return len(args.posonlyargs) + len(args.args) + len(args.kwonlyargs) + bool(args.vararg) + bool(args.kwarg)


def _per_code_line(view: View, field: str) -> Value:
    found = view.once(facts)
    return None if found is None else fraction(getattr(found, field), view.num_code_lines)


@SIGNALS.signal
def cate_ast(view: View) -> Value:
    """1 where the file parses."""
    return float(view.once(syntax_tree) is not None)


@SIGNALS.signal
def frac_lines_func_ratio(view: View) -> Value:
    """Functions, methods and nested ones included, per line of code."""
    return _per_code_line(view, "functions")


@SIGNALS.signal
def cate_var_zero(view: View) -> Value:
    """1 where no name is bound: by assignment, loop, with, except or as a parameter."""
    found = view.once(facts)
    return None if found is None else float(found.variables == 0)


@SIGNALS.signal
def frac_lines_pass(view: View) -> Value:
    """Pass statements per line of code."""
    return _per_code_line(view, "passes")


@SIGNALS.signal
def frac_lines_import(view: View) -> Value:
    """Import statements per line of code."""
    return _per_code_line(view, "imports")


@SIGNALS.signal
def frac_lines_simplefunc(view: View) -> Value:
    """Functions that only return nothing, a constant, a name or an attribute, per line of code."""
    return _per_code_line(view, "simple_functions")


@SIGNALS.signal
def score_lines_no_logic(view: View) -> Value:
    """Functions, imports, classes, class variables and simple returns per line of code."""
    found = view.once(facts)
    if found is None:
        return None
    without_logic = found.functions + found.imports + found.classes + found.class_variables + found.simple_returns
    return fraction(without_logic, view.num_code_lines)


@SIGNALS.signal
def frac_lines_print(view: View) -> Value:
    """Statements that call print, per line of code."""
    return _per_code_line(view, "prints")
