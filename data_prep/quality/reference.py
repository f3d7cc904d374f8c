"""Signals as the released filter computes them, where the default ones differ.

Each function replaces the signal of its name in the profile ``reference`` and keeps the letter of opc_data_filtering
(MIT, commit 44b857e), mistakes included, so that its published decisions can be reproduced.
"""

from __future__ import annotations

import ast
import re
import string
from functools import partial
from typing import Any

import numpy as np

from data_prep.quality import code, python, text
from data_prep.quality.constructs import Constructs
from data_prep.quality.group import Group, Value, fraction
from data_prep.quality.ngrams import TOP_SIZES
from data_prep.quality.view import View

CODE = Group()
PYTHON = Group()
TEXT = Group()

_RETURN = re.compile(r"^\s*return(?:\s+.+)?\s*$", re.MULTILINE)
_MODIFIERS = ("public", "protected", "private")


def decode(data: bytes) -> tuple[str | None, str | None]:
    """UTF-8 or nothing; a byte order mark stays in the text."""
    try:
        return data.decode(), None
    except UnicodeDecodeError as error:
        return None, type(error).__name__


def frac_chars_top_ngram(view: View, n: int) -> Value:
    """Overlapping occurrences are counted in full, so the value can exceed 1."""
    return fraction(view.words.top[n], view.words.characters) or 0.0


for _n in TOP_SIZES:
    CODE[f"frac_chars_top_{_n}grams"] = TEXT[f"frac_chars_top_{_n}grams"] = partial(frac_chars_top_ngram, n=_n)


@CODE.signal
def frac_lines_dupe_lines(view: View) -> Value:
    """One-character lines and ``},`` are never counted as repeated, but stay in the denominator."""
    lines = view.squeezed_lines
    repeated = np.flatnonzero((lines.counts > 1) & (lines.lengths > 1))
    counts = zip(lines.counts[repeated].tolist(), lines.strings(repeated), strict=True)
    return fraction(sum(count for count, line in counts if line != "},"), len(lines))


@CODE.signal
def cate_autogen(view: View) -> Value:
    """Any form of "generate" in the first 200 characters."""
    header = view.text[: code.HEADER].lower()
    return float("generate" in header or "autogen" in header or "do not edit" in header)


@TEXT.signal
def frac_words_redpajama_stop(view: View) -> Value:
    """Only stop words in lower case."""
    if not view.words.words:
        return 0.0
    return text.share_of_words(view, text.STOP_WORDS.__contains__)


@TEXT.signal
def cate_code_related_file_name(view: View) -> Value:
    """Without read.me."""
    stem = view.name.partition(".")[0].lower()
    return float("requirement" in stem or stem in text.RELATED_NAMES)


def _count(tree: ast.Module, *kinds: type[ast.AST]) -> int:
    return sum(isinstance(node, kinds) for node in python.statements(tree))


@PYTHON.signal
def frac_lines_func_ratio(view: View) -> Value:
    """Without async functions."""
    tree = view.once(python.syntax_tree)
    return None if tree is None else fraction(_count(tree, ast.FunctionDef), view.num_code_lines)


@PYTHON.signal
def cate_var_zero(view: View) -> Value:
    """Looks only at plain names in assignments and loops and at ordinary parameters of plain functions."""
    tree = view.once(python.syntax_tree)
    return None if tree is None else float(not any(map(_binds_plain_name, python.statements(tree))))


def _binds_plain_name(node: ast.AST) -> bool:
    match node:
        case ast.Assign():
            return any(isinstance(target, ast.Name) for target in node.targets)
        case ast.For():
            return isinstance(node.target, ast.Name)
        case ast.FunctionDef():
            return bool(node.args.args)
    return False


@PYTHON.signal
def frac_lines_pass(view: View) -> Value:
    """Lines that contain "pass", as "password" does."""
    return fraction(code.lines_with(("pass",), view.split.code.lower()), view.num_code_lines) or 0.0


@PYTHON.signal
def frac_lines_import(view: View) -> Value:
    """Lines that contain "import", as "important" does."""
    return fraction(code.lines_with(("import",), view.split.code.lower()), view.num_code_lines) or 0.0


@PYTHON.signal
def frac_lines_simplefunc(view: View) -> Value:
    """Functions of a single return statement of anything; the only value that is not rounded."""
    tree = view.once(python.syntax_tree)
    if tree is None or not view.num_code_lines:
        return None
    functions = (node for node in python.statements(tree) if isinstance(node, ast.FunctionDef))
    return sum(len(f.body) == 1 and isinstance(f.body[0], ast.Return) for f in functions) / view.num_code_lines


@PYTHON.signal
def score_lines_no_logic(view: View) -> Value:
    """Counts every return, and class variables once per target but not in nested classes."""
    tree = view.once(python.syntax_tree)
    if tree is None:
        return None
    functions_and_classes = _count(tree, ast.FunctionDef, ast.ClassDef)
    imports = code.lines_with(("import",), view.split.code.lower())
    # Blank lines do not change what matches, but would take the search quadratic time.
    returns = len(_RETURN.findall("\n".join(view.code_lines)))
    without_logic = functions_and_classes + imports + returns + _class_variables(tree)
    return fraction(without_logic, view.num_code_lines)


def _class_variables(tree: ast.Module) -> int:
    count = 0
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.ClassDef):
            for statement in node.body:
                targets = getattr(statement, "targets", [getattr(statement, "target", None)])
                if isinstance(statement, (ast.Assign, ast.AnnAssign)):
                    count += sum(isinstance(target, ast.Name) for target in targets)
        else:
            pending += python.children(node)
    return count


@PYTHON.signal
def frac_lines_print(view: View) -> Value:
    """Lines that contain "print", as "fingerprint" does."""
    return fraction(code.lines_with(("print",), view.split.code), view.num_code_lines)


def java_frac_words_no_modifier(view: View, constructs: Constructs) -> Value:
    """In spite of the name, functions that have a modifier, anywhere in their text; classes never do."""
    functions = constructs.found(view, "function")
    modified = sum(any(word in match["declaration"] for word in _MODIFIERS) for match in functions)
    return fraction(modified, len(functions) + len(constructs.found(view, "class")))


def java_frac_words_legal_var_name(view: View, constructs: Constructs) -> Value:
    """Variables whose declaration has a small letter as its second character."""
    return _second_character(constructs.found(view, "variable"), string.ascii_lowercase)


def java_frac_words_legal_func_name(view: View, constructs: Constructs) -> Value:
    """Functions whose declaration has a letter as its second character."""
    return _second_character(constructs.found(view, "function"), string.ascii_letters)


def _second_character(matches: list[Any], letters: str) -> Value:
    return fraction(sum(match["declaration"][1] in letters for match in matches), len(matches))


JAVA = {
    "frac_words_no_modifier": java_frac_words_no_modifier,
    "frac_words_legal_var_name": java_frac_words_legal_var_name,
    "frac_words_legal_func_name": java_frac_words_legal_func_name,
}
VARIANTS = {"code": CODE, "code/python": PYTHON, "text": TEXT}
