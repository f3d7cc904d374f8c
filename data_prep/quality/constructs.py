"""Signals of C, C++, C#, Go and Java: how often a few constructs occur (`constructs.toml`)."""

from __future__ import annotations

import contextlib
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import regex

from data_prep.quality.group import Group, Value, fraction
from data_prep.quality.view import OverBudgetError, View

LANGUAGES = ("c", "cpp", "csharp", "go", "java")
HEADERS = ("h", "hpp", "hxx", "hh", "h++")
SECONDS = {"reference": 10}  # the released filter gave each signal ten seconds; other patterns are linear
_WITHOUT_LOGIC = ("function", "import", "simple_variable", "simple_return", "class")
_HEAD = 200  # characters of code in which an include of everything stands
_MODIFIER = re.compile(r"\b(?:public|protected|private)\b")
_NAME = re.compile(r"(\w+)\s*$")
_CAMEL_CASE = re.compile(r"[a-z][a-zA-Z0-9]*")
_PASCAL_CASE = re.compile(r"[A-Z][a-zA-Z0-9]*")


class Constructs:
    """The patterns of one language.

    Args:
        patterns: by construct.
        seconds: what one search may take, for patterns that are not known to be linear; they are read as the module
            `regex` does, by which the released filter counts.
    """

    def __init__(self, patterns: Mapping[str, str], seconds: float | None = None):
        compiler: Any = re if seconds is None else regex
        self._patterns = {name: compiler.compile(pattern, re.MULTILINE) for name, pattern in patterns.items()}
        self._options = {} if seconds is None else {"timeout": seconds}
        # `View.once` tells computations apart by identity, so each has to be one object.
        self._finders = {name: partial(self._find, construct=name) for name in patterns}

    def found(self, view: View, construct: str) -> list[Any]:
        """Matches of a construct in the code. Raises OverBudgetError where the search takes too long."""
        return view.once(self._finders[construct])

    def occurs(self, view: View, construct: str) -> bool:
        """Whether there is any match in the code. Raises OverBudgetError where the search takes too long."""
        if construct not in self._patterns:
            return False
        with _budget(construct):
            return self._patterns[construct].search(view.once(dense_code), **self._options) is not None

    def _find(self, view: View, construct: str) -> list[Any]:
        with _budget(construct):
            return list(self._patterns[construct].finditer(view.once(dense_code), **self._options))

    def lines(self, view: View, construct: str) -> int:
        """Lines of code in which the construct occurs."""
        pattern, code, found, end = self._patterns[construct], view.once(dense_code), 0, 0
        while end >= 0 and (match := pattern.search(code, end)):
            found += 1
            end = code.find("\n", match.end())
        return found


@contextlib.contextmanager
def _budget(construct: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise OverBudgetError(f"{construct}: the search takes too long") from error


def dense_code(view: View) -> str:
    """An LF before each line of code. Blank ones change no match, but could take the search quadratic time."""
    return "\n".join(["", *view.code_lines])


def frac_lines_func_ratio(view: View, constructs: Constructs) -> Value:
    """Functions per line of code."""
    return fraction(len(constructs.found(view, "function")), view.num_code_lines)


def cate_var_zero(view: View, constructs: Constructs) -> Value:
    """1 where no variable is declared."""
    return float(not (constructs.occurs(view, "variable") or constructs.occurs(view, "exempt")))


def score_lines_no_logic(view: View, constructs: Constructs) -> Value:
    """Functions, imports, classes, variables without a value and simple returns per line of code."""
    return fraction(sum(len(constructs.found(view, name)) for name in _WITHOUT_LOGIC), view.num_code_lines)


def frac_lines_print(view: View, constructs: Constructs) -> Value:
    """Lines of code that print."""
    return fraction(constructs.lines(view, "print"), view.num_code_lines)


def cate_bitsstdc(view: View, constructs: Constructs) -> Value:
    """1 where the first 200 characters of code include bits/stdc++.h. No threshold uses it."""
    return float("bits/stdc++.h" in view.split.code.strip()[:_HEAD].lower())


def nums_lines_main(view: View, constructs: Constructs) -> Value:
    """Definitions of main."""
    return len(constructs.found(view, "main"))


def frac_lines_goto(view: View, constructs: Constructs) -> Value:
    """Lines of code that jump. No threshold uses it."""
    return fraction(constructs.lines(view, "goto"), view.num_code_lines)


def frac_lines_preprocessor_directives(view: View, constructs: Constructs) -> Value:
    """Preprocessor directives among the lines of code; none for headers."""
    return None if view.extension in HEADERS else fraction(constructs.lines(view, "directive"), view.num_code_lines)


def cate_testfile(view: View, constructs: Constructs) -> Value:
    """1 where the file's name says that it holds tests."""
    return float(view.name.lower().endswith("_test.go"))


def frac_words_no_modifier(view: View, constructs: Constructs) -> Value:
    """Functions and classes without an access modifier. No threshold uses it."""
    declared = [*constructs.found(view, "function"), *constructs.found(view, "class")]
    return fraction(sum(not _MODIFIER.search(match["declaration"]) for match in declared), len(declared))


def frac_words_legal_var_name(view: View, constructs: Constructs) -> Value:
    """Variables in camel case. No threshold uses it."""
    names = (match["name"] or match["parameter"] for match in constructs.found(view, "variable"))
    return _share(_CAMEL_CASE, [name for name in names if name])


def frac_words_legal_func_name(view: View, constructs: Constructs) -> Value:
    """Functions in camel case. No threshold uses it."""
    names = (_NAME.search(match["declaration"]) for match in constructs.found(view, "function"))
    return _share(_CAMEL_CASE, [name[1] for name in names if name])


def frac_words_legal_class_name(view: View, constructs: Constructs) -> Value:
    """Classes in Pascal case. No threshold uses it."""
    return _share(_PASCAL_CASE, [match["name"] for match in constructs.found(view, "class")])


def _share(pattern: re.Pattern[str], names: list[str]) -> Value:
    return fraction(sum(pattern.fullmatch(name) is not None for name in names), len(names))


ConstructSignal = Callable[[View, Constructs], Value]
_COMMON = (frac_lines_func_ratio, cate_var_zero, score_lines_no_logic, frac_lines_print)
_C = (cate_bitsstdc, nums_lines_main, frac_lines_goto, frac_lines_preprocessor_directives)
_JAVA = (
    frac_words_no_modifier,
    frac_words_legal_var_name,
    frac_words_legal_func_name,
    frac_words_legal_class_name,
)
_OWN = {"c": _C, "cpp": _C, "csharp": (), "go": (cate_testfile,), "java": _JAVA}


def groups(profile: str, variants: Mapping[str, Mapping[str, ConstructSignal]] | None = None) -> dict[str, Group]:
    """The signals of each language by family, such as ``code/java``.

    Args:
        profile: whose patterns to count.
        variants: signals that replace those of their names, by language.
    """
    syntax = tomllib.loads((Path(__file__).parent / "constructs.toml").read_text("utf-8"))
    tables = syntax[profile]
    found = {}
    for language in LANGUAGES:
        own = dict(tables[language])
        patterns = {**tables.get(own.pop("inherits", ""), {}), **own}
        patterns = {name: text.replace("ROUND", syntax["ROUND"]) for name, text in patterns.items()}
        constructs = Constructs(patterns, SECONDS.get(profile))
        signals = {signal.__name__: signal for signal in (*_COMMON, *_OWN[language])}
        signals |= (variants or {}).get(language, {})
        found[f"code/{language}"] = Group({name: partial(f, constructs=constructs) for name, f in signals.items()})
    return found
