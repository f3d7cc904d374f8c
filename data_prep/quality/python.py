"""Signals of Python files, from the syntax tree of the standard library's parser."""

from __future__ import annotations

import ast
import dataclasses
import warnings
from collections.abc import Iterator
from functools import lru_cache

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


@dataclasses.dataclass
class Facts:
    """What one walk over the statements counts."""

    functions: int = 0
    simple_functions: int = 0  # an optional docstring and a simple return
    classes: int = 0
    class_variables: int = 0
    imports: int = 0
    passes: int = 0
    prints: int = 0
    simple_returns: int = 0  # of nothing, a constant, a name or an attribute
    variables: int = 0  # statements and parameters that bind a name; walrus and comprehensions are left out


def facts(view: View) -> Facts | None:
    """None where the file does not parse."""
    tree = view.once(syntax_tree)
    if tree is None:
        return None
    found = Facts()
    for node in statements(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                found.functions += 1
                found.simple_functions += _only_returns(node)
                found.variables += _parameters(node.args)
            case ast.ClassDef():
                found.classes += 1
                found.class_variables += sum(isinstance(child, (ast.Assign, ast.AnnAssign)) for child in node.body)
            case ast.Assign() | ast.AugAssign() | ast.AnnAssign() | ast.For() | ast.AsyncFor():
                found.variables += 1
            case ast.With() | ast.AsyncWith():
                found.variables += sum(item.optional_vars is not None for item in node.items)
            case ast.ExceptHandler():
                found.variables += node.name is not None
            case ast.Import() | ast.ImportFrom():
                found.imports += 1
            case ast.Pass():
                found.passes += 1
            case ast.Return():
                found.simple_returns += _is_simple(node.value)
            case ast.Expr(ast.Call(ast.Name("print"))):
                found.prints += 1
    return found


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
