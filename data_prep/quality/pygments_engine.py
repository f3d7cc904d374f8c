"""Pygments' lexers at several times their speed, with the same tokens.

Pygments tries the expressions of a state one after the other, some twenty for each token. Here they are the
alternatives of one expression, which takes the first that matches just as well, and `re` passes over those that cannot
start with the character at hand without trying them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from pygments.lexer import Lexer, RegexLexer
from pygments.lexers.c_cpp import CFamilyLexer
from pygments.token import Error, Whitespace, _TokenType

Rule = tuple[Any, Any, Any]  # as Pygments keeps it: match method, action, new state
Step = tuple[Any, Any]  # match method; its only rule, or its rules by the group that matched

# What cannot be part of a longer expression: references to groups by number or name, and flags for all of it.
_ALONE = re.compile(r"\\[1-9]|\(\?P|\(\?\(|\(\?[aiLmsux]+\)")


def accelerated(lexer: Lexer) -> Lexer:
    """A lexer with the tokens of `lexer`, which is returned itself where it works in its own way.

    The lexers of C look up some names afterwards; here all are plain names.
    """
    plain = (RegexLexer.get_tokens_unprocessed, CFamilyLexer.get_tokens_unprocessed)
    if type(lexer).get_tokens_unprocessed not in plain or hasattr(lexer, "token_variants"):
        return lexer
    return type(type(lexer).__name__, (_Accelerated, type(lexer)), {})(**lexer.options)


class _Accelerated(RegexLexer):
    def get_tokens_unprocessed(
        self, text: str, stack: tuple[str, ...] = ("root",)
    ) -> Iterator[tuple[int, _TokenType, str]]:
        """(start, kind, text) of each token, as `RegexLexer` has them."""
        position = 0
        states = list(stack)
        kind = type(self)
        steps = _steps(kind, states[-1])
        while True:
            for match, rules in steps:  # noqa: B007
                if found := match(text, position):
                    break
            else:  # as in RegexLexer: an error takes one character, a line end also ends all states
                if position >= len(text):
                    return
                end_of_line = text[position] == "\n"
                yield position, Whitespace if end_of_line else Error, text[position]
                position += 1
                if end_of_line:
                    states = ["root"]
                    steps = _steps(kind, "root")
                continue
            alone = type(rules) is tuple
            exact, action, new_state = rules if alone else rules[found.lastindex]
            if type(action) is _TokenType:
                yield position, action, found.group()
            elif action is not None:
                yield from action(self, found if alone else exact(text, position))
            position = found.end()
            if new_state is not None:
                _enter(states, new_state)
                steps = _steps(kind, states[-1])


@cache
def _steps(lexer: type[RegexLexer], state: str) -> list[Step]:
    """The rules of a state in order, neighbours made one expression where they can be."""
    rules: list[Rule] = lexer._tokens[state]
    steps: list[Step] = []
    together: list[Rule] = []
    for rule in rules:
        pattern = rule[0].__self__
        if _ALONE.search(pattern.pattern) or pattern.flags & re.VERBOSE:
            steps += [_join(together)] if together else []
            steps.append((rule[0], rule))
            together = []
        else:
            together.append(rule)
    return [*steps, _join(together)] if together else steps


def _join(rules: list[Rule]) -> Step:
    groups: dict[int, Rule] = {}
    number = 1
    for rule in rules:
        groups[number] = rule
        number += 1 + rule[0].__self__.groups
    pattern = "|".join(f"({rule[0].__self__.pattern})" for rule in rules)
    return re.compile(pattern, rules[0][0].__self__.flags).match, groups


def _enter(states: list[str], new_state: Any) -> None:
    """Changes the stack of states as `RegexLexer` does."""
    if isinstance(new_state, int):
        del states[1 if abs(new_state) >= len(states) else new_state :]
        return
    for state in new_state if isinstance(new_state, tuple) else (new_state,):
        if state == "#pop":
            if len(states) > 1:
                states.pop()
        else:
            states.append(states[-1] if state == "#push" else state)
