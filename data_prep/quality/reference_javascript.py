"""Signals of JavaScript as the released filter computes them.

Its parser, esprima, knows the language of 2017 and is slow. Only the profile ``reference`` needs it:
requirements-reference.txt.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Iterator
from typing import Any

from data_prep.quality import code
from data_prep.quality.group import Group, Value, fraction
from data_prep.quality.view import View

SIGNALS = Group()

MAX_CHARACTERS = 2_000_000

_VARIABLE_NAME = re.compile(r"[a-z$][a-zA-Z0-9]*")
_FUNCTION_NAME = re.compile(r"[a-zA-Z$][a-zA-Z0-9]*")
_CLASS_NAME = re.compile(r"[A-Z][a-zA-Z0-9]*")
_SIMPLE = ("Literal", "Identifier", "UnaryExpression")
_FUNCTIONS = ("FunctionExpression", "ArrowFunctionExpression")


def javascript_tree(view: View) -> Any:
    """None where the file does not parse. Raises RecursionError where it is nested too deeply."""
    import esprima

    from data_prep.quality import reference_esprima

    text = view.within_budget("JavaScript syntax tree", MAX_CHARACTERS)
    module = "import" in text or "export" in text
    for as_module in (True, False) if module else (False,):
        try:
            with warnings.catch_warnings():  # about regular expressions in the file
                warnings.simplefilter("ignore")
                return reference_esprima.parse(text, as_module)
        except esprima.Error:
            continue
    return None


def _walk(tree: Any) -> Iterator[Any]:
    node_type = type(tree).__mro__[1]
    pending = [tree]
    while pending:
        node = pending.pop()
        yield node
        for value in vars(node).values():
            if isinstance(value, node_type):
                pending.append(value)
            elif isinstance(value, list):
                pending += [child for child in value if isinstance(child, node_type)]


@dataclasses.dataclass
class Facts:
    """What one walk over the tree finds."""

    variables: list[str] = dataclasses.field(default_factory=list)
    functions: list[str] = dataclasses.field(default_factory=list)
    classes: list[str] = dataclasses.field(default_factory=list)
    imports: int = 0
    simple_variables: int = 0
    simple_returns: int = 0


def facts(view: View) -> Facts | None:
    """None where the file does not parse."""
    tree = view.once(javascript_tree)
    if tree is None:
        return None
    found = Facts()
    for node in _walk(tree):
        match node.type:
            case "VariableDeclaration":
                for declarator in node.declarations:
                    _declare(declarator, found)
            case "FunctionDeclaration" if node.id:
                found.functions.append(node.id.name)
            case "ClassDeclaration" if node.id:
                found.classes.append(node.id.name)
            case "AssignmentExpression":
                _assign(node, found)
            case "ImportDeclaration":
                found.imports += 1
            case "ReturnStatement":
                found.simple_returns += node.argument is None or node.argument.type in _SIMPLE
    return found


def _declare(node: Any, found: Facts) -> None:
    if node.id.type == "Identifier":
        is_function = node.init and node.init.type == "FunctionExpression" and not node.init.isAsync
        (found.functions if is_function else found.variables).append(node.id.name)
    found.simple_variables += node.init is None or node.init.type in _SIMPLE


def _assign(node: Any, found: Facts) -> None:
    """Only assignments to members of module.exports count."""
    left = node.left
    if left.type != "MemberExpression" or left.object.type != "MemberExpression" or left.property.type != "Identifier":
        return
    if (getattr(left.object.object, "name", None), getattr(left.object.property, "name", None)) != (
        "module",
        "exports",
    ):
        return
    (found.functions if node.right.type in _FUNCTIONS else found.variables).append(left.property.name)
    found.simple_variables += node.right.type in _SIMPLE


def _share(pattern: re.Pattern[str], names: list[str]) -> Value:
    return fraction(sum(pattern.fullmatch(name) is not None for name in names), len(names))


@SIGNALS.signal
def cate_ast(view: View) -> Value:
    """1 where esprima parses the file, as a module or as a script."""
    return float(view.once(javascript_tree) is not None)


@SIGNALS.signal
def cate_var_zero(view: View) -> Value:
    """Looks only at declared names and members of module.exports."""
    found = view.once(facts)
    return None if found is None else float(not found.variables)


@SIGNALS.signal
def frac_lines_func_ratio(view: View) -> Value:
    """Without methods and arrow functions."""
    found = view.once(facts)
    return None if found is None else fraction(len(found.functions), view.num_code_lines)


@SIGNALS.signal
def num_statement_line(view: View) -> Value:
    """Statements at top level per line of code."""
    tree = view.once(javascript_tree)
    return None if tree is None else fraction(len(tree.body), view.num_code_lines)


@SIGNALS.signal
def score_lines_no_logic(view: View) -> Value:
    """Functions, imports, classes, simple variables and simple returns per line of code."""
    found = view.once(facts)
    if found is None:
        return None
    declared = len(found.functions) + len(found.classes) + found.imports
    return fraction(declared + found.simple_variables + found.simple_returns, view.num_code_lines)


@SIGNALS.signal
def frac_words_legal_var_name(view: View) -> Value:
    """Variables in camel case."""
    found = view.once(facts)
    return None if found is None else _share(_VARIABLE_NAME, found.variables)


@SIGNALS.signal
def frac_words_legal_func_name(view: View) -> Value:
    """Functions named without underscores."""
    found = view.once(facts)
    return None if found is None else _share(_FUNCTION_NAME, found.functions)


@SIGNALS.signal
def frac_words_legal_class_name(view: View) -> Value:
    """Classes in Pascal case."""
    found = view.once(facts)
    return None if found is None else _share(_CLASS_NAME, found.classes)


@SIGNALS.signal
def frac_lines_print(view: View) -> Value:
    """Lines that contain "console.log"."""
    return fraction(code.lines_with(("console.log",), view.split.code), view.num_code_lines)
