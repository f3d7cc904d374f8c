"""Signals of JavaScript and TypeScript files, from the syntax tree of a current parser (tree-sitter)."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import tree_sitter_javascript
import tree_sitter_typescript
from tree_sitter import Language, Node, Parser, Query, QueryCursor, Tree

from data_prep.quality import code
from data_prep.quality.group import Group, Value, fraction
from data_prep.quality.view import OverBudgetError, View

SIGNALS = Group()

LANGUAGES = ("javascript", "typescript", "tsx")
# What a file to parse may have. A tree takes a hundred times the memory of its text, the parser's own stack overflows
# at a hundred thousand open brackets, and after a syntax error each step may take as long as the file is deep.
MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 10_000
_REPORTS = (200, 0.1)  # of the parser's progress: as many at first, and for each byte that it has come
_CHUNK = 1 << 16
_READ = bytearray()  # what the parser reads, always the same object, for the binding never lets go of one
_DEPTH = np.zeros(256, np.int8)
_DEPTH[list(b"([{")] = 1
_DEPTH[list(b")]}")] = -1

_VARIABLE_NAME = re.compile(r"[a-z$][a-zA-Z0-9]*")
_FUNCTION_NAME = re.compile(r"[a-zA-Z$][a-zA-Z0-9]*")
_CLASS_NAME = re.compile(r"[A-Z][a-zA-Z0-9]*")
_IMPORT_TYPE = re.compile(r"""\bimport\((?:"[^"\n]*+"|'[^'\n]*+')\)""")
_SIMPLE = frozenset(
    ("identifier", "number", "string", "true", "false", "null", "undefined", "regex", "unary_expression", "this")
)
_FUNCTION = "[(arrow_function) (function_expression) (generator_function)]"
_QUERY = f"""
(function_declaration name: (_) @function)
(generator_function_declaration name: (_) @function)
(method_definition name: (_) @function)
(variable_declarator name: (_) @function value: {_FUNCTION})
(assignment_expression left: (_) @function right: {_FUNCTION})
(pair key: (_) @function value: {_FUNCTION})
(class_declaration name: (_) @class)
(import_statement) @import
(variable_declarator) @variable
(return_statement) @return
"""
_BINDINGS = """
(assignment_expression) @binding
(augmented_assignment_expression) @binding
(formal_parameters (_)) @binding
(arrow_function parameter: (_)) @binding
(catch_clause parameter: (_)) @binding
(for_in_statement left: (_)) @binding
"""
_FIELDS = {"javascript": "field_definition", "typescript": "public_field_definition", "tsx": "public_field_definition"}


@cache
def _grammar(language: str) -> tuple[Language, Query, Query]:
    pointer = {
        "javascript": tree_sitter_javascript.language,
        "typescript": tree_sitter_typescript.language_typescript,
        "tsx": tree_sitter_typescript.language_tsx,
    }[language]()
    grammar = Language(pointer)
    return grammar, Query(grammar, _QUERY), Query(grammar, f"{_BINDINGS}({_FIELDS[language]}) @binding")


class Parsed(NamedTuple):
    """A syntax tree, the grammar that accepts the file, and the bytes that its nodes stand in."""

    tree: Tree
    grammar: str
    source: bytes


def syntax_tree(view: View) -> Parsed | None:
    """None where the file has a syntax error.

    JavaScript may carry type annotations (Flow): what its own grammar refuses is tried as TypeScript with JSX. The
    grammars of TypeScript do not know types such as ``import("./types").Name``, which are taken for plain names.
    """
    source = view.within_budget(f"{view.language} syntax tree", MAX_CHARACTERS)
    annotated = "tsx" if view.language == "javascript" else view.language
    if parsed := _parse(view.language, source):
        return parsed
    variant = _IMPORT_TYPE.sub("module", source)
    return _parse(annotated, variant) if (annotated, variant) != (view.language, source) else None


def _parse(language: str, text: str) -> Parsed | None:
    """None where `text` is no program of the grammar.

    The parser reports its progress after each hundred steps. Programs take up to 0.034 reports for a byte, minified
    ones the most; the search for a repair of what is no program takes any number of them, and is not waited for.

    Raises:
        OverBudgetError: it takes too many steps, or brackets are nested too deeply.
    """
    source = text.encode("utf-8", "surrogatepass")
    depth = int(np.cumsum(_DEPTH[np.frombuffer(source, np.uint8)], dtype=np.int32).max(initial=0))
    if depth > MAX_DEPTH:
        raise OverBudgetError(f"syntax tree: {depth} open brackets, the budget is {MAX_DEPTH}")
    reports = furthest = 0
    garbage = False

    def stop(position: int, has_error: bool) -> bool:
        nonlocal reports, furthest, garbage
        reports, garbage = reports + 1, has_error
        if position > furthest:
            furthest = position
        return has_error or reports > _REPORTS[0] + _REPORTS[1] * furthest

    def read(position: int, _: object) -> Any:
        _READ[:] = source[position : position + _CHUNK]
        return _READ

    try:
        tree = Parser(_grammar(language)[0]).parse(read, progress_callback=stop)
    except ValueError as error:  # stopped
        if garbage:  # a character fits nowhere in a program
            return None
        raise OverBudgetError(f"syntax tree: too many steps for the first {furthest} bytes") from error
    return None if tree.root_node.has_error else Parsed(tree, language, source)


def nodes(view: View) -> dict[str, list[Node]] | None:
    """The nodes that the query names, by capture; None where the file does not parse."""
    parsed = view.once(syntax_tree)
    if parsed is None:
        return None
    return QueryCursor(_grammar(parsed.grammar)[1]).captures(parsed.tree.root_node)


def _is_simple(value: Node | None) -> bool:
    """Nothing, a constant, a name or an operator applied to one."""
    return value is None or value.type in _SIMPLE


def _simple_variables(found: dict[str, list[Node]]) -> int:
    return sum(_is_simple(node.child_by_field_name("value")) for node in found.get("variable", ()))


def _simple_returns(found: dict[str, list[Node]]) -> int:
    values = (node.named_child(0) if node.named_child_count else None for node in found.get("return", ()))
    return sum(map(_is_simple, values))


def _names(view: View, capture: str, pattern: re.Pattern[str]) -> Value:
    found, parsed = view.once(nodes), view.once(syntax_tree)
    if found is None or parsed is None:
        return None
    named = found.get(capture, [])
    if capture == "variable":
        named = [name for node in named if (name := node.child_by_field_name("name"))]
    # `Node.text` would read the file from its start each time.
    texts = (parsed.source[node.start_byte : node.end_byte] for node in named)
    names = [text.decode("utf-8", "replace").rpartition(".")[2] for text in texts]
    return fraction(sum(pattern.fullmatch(name) is not None for name in names), len(names))


@SIGNALS.signal
def cate_ast(view: View) -> Value:
    """1 where the file parses."""
    return float(view.once(syntax_tree) is not None)


@SIGNALS.signal
def cate_var_zero(view: View) -> Value:
    """1 where no name is bound: by a declaration, an assignment, a field or as a parameter."""
    found, parsed = view.once(nodes), view.once(syntax_tree)
    if found is None or parsed is None:
        return None
    bindings = QueryCursor(_grammar(parsed.grammar)[2])
    return float("variable" not in found and not bindings.captures(parsed.tree.root_node))


@SIGNALS.signal
def frac_lines_func_ratio(view: View) -> Value:
    """Functions with a name, methods included, per line of code."""
    found = view.once(nodes)
    return None if found is None else fraction(len(found.get("function", ())), view.num_code_lines)


@SIGNALS.signal
def num_statement_line(view: View) -> Value:
    """Statements at top level per line of code. No threshold uses it."""
    parsed = view.once(syntax_tree)
    if parsed is None:
        return None
    top = parsed.tree.root_node.named_children
    return fraction(sum(node.type not in ("comment", "hash_bang_line") for node in top), view.num_code_lines)


@SIGNALS.signal
def score_lines_no_logic(view: View) -> Value:
    """Functions, imports, classes, simple variables and simple returns per line of code."""
    found = view.once(nodes)
    if found is None:
        return None
    declared = sum(len(found.get(name, ())) for name in ("function", "import", "class"))
    return fraction(declared + _simple_variables(found) + _simple_returns(found), view.num_code_lines)


@SIGNALS.signal
def frac_words_legal_var_name(view: View) -> Value:
    """Variables in camel case. No threshold uses it."""
    return _names(view, "variable", _VARIABLE_NAME)


@SIGNALS.signal
def frac_words_legal_func_name(view: View) -> Value:
    """Functions named without underscores. No threshold uses it."""
    return _names(view, "function", _FUNCTION_NAME)


@SIGNALS.signal
def frac_words_legal_class_name(view: View) -> Value:
    """Classes in Pascal case. No threshold uses it."""
    return _names(view, "class", _CLASS_NAME)


@SIGNALS.signal
def frac_lines_print(view: View) -> Value:
    """Lines of code that call console.log."""
    return fraction(code.lines_with(("console.log(",), view.split.code.lower()), view.num_code_lines)
