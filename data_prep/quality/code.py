"""Signals of every code and data file."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import regex

from data_prep.quality import shared
from data_prep.quality.encoded import encoded_data
from data_prep.quality.group import Group, Value, fraction
from data_prep.quality.tokens import MARKS, Tokens, code_points, lines_of_many_words, long_words
from data_prep.quality.view import View

SIGNALS = Group(shared.SIGNALS)

HEADER = 200  # characters in which a generator leaves its notice
_GENERATED = re.compile(
    r"auto-?generated|\bautogen\b|automatically (?:generated|created)|generated automatically|do not edit|@generated"
    r"|(?:machine|code|computer)[ -]generated|\bgenerated (?:by|from|with|using|code|file|on|at|via|source)\b"
    r"|(?:is|was|are|were|been) generated\b"
)
_GENERATION = ("generated", "autogen", "created", "do not edit")  # one of these is in what the expression finds
_URL = re.compile(r"https?://\S")
# What starts with a literal is quick to search for; the boundary in front of it comes second.
_HEX_LITERALS = tuple(regex.compile(rf"{zero}(?<=\b{zero})[0-9a-fA-F]+\b") for zero in ("0x", "0X"))
_PROMPTS = ("your code here", "fixme", "todo")
# Lines that every file repeats, white space and closing brackets removed.
_BOILERPLATE = frozenset(
    ("begin", "break", "continue", "do", "done", "else", "end", "endif", "esac", "fi", "pass", "return", "then", "try")
)
_LONGEST_BOILERPLATE = max(map(len, _BOILERPLATE))


@SIGNALS.signal
def size_file_byte(view: View) -> Value:
    """Bytes of the raw file."""
    return view.size


@SIGNALS.signal
def num_chars_line_max(view: View) -> Value:
    """Longest line in characters, its LF included."""
    return int(view.line_lengths.max(initial=0))


@SIGNALS.signal
def num_chars_line_mean(view: View) -> Value:
    """Mean line in characters, LFs included."""
    return fraction(len(view.text), len(view.line_lengths)) or 0.0


@SIGNALS.signal
def frac_chars_comments(view: View) -> Value:
    """Comments and docstrings among all characters; none for languages without known comments."""
    characters = view.split.comment_characters
    return None if characters is None else fraction(characters, len(view.text))


@SIGNALS.signal
def cate_xml_start(view: View) -> Value:
    """1 where an XML declaration stands in the first 100 characters."""
    return float("<?xml version=" in view.text[:100])


@SIGNALS.signal
def frac_lines_dupe_lines(view: View) -> Value:
    """Lines of code, white space removed, that occur at least twice, among those that say something.

    Closing brackets and lone keywords (``});``, ``else {``, ``end``) repeat in every file and are left out.
    """
    lines = view.squeezed_lines
    counts = lines.counts[_say_something(lines)]
    return fraction(int(counts[counts > 1].sum()), int(counts.sum()))


def _say_something(lines: Tokens) -> np.ndarray:
    """Of each distinct line whether it is more than boilerplate: bool [distinct]."""
    letters = lines.letters(_LONGEST_BOILERPLATE)
    said = letters > 0
    short = np.flatnonzero(said & (letters <= _LONGEST_BOILERPLATE))
    said[short] = [line.strip(MARKS) not in _BOILERPLATE for line in lines.strings(short)]
    return said


@SIGNALS.signal
def cate_autogen(view: View) -> Value:
    """1 where the first 200 characters say that the file was generated."""
    header = view.text[:HEADER].lower()
    return float(any(word in header for word in _GENERATION) and _GENERATED.search(header) is not None)


@SIGNALS.signal
def frac_lines_long_string(view: View) -> Value:
    """Lines of string literals with more than 20 words or punctuation runs, per line of code."""
    return fraction(lines_of_many_words(code_points(view.split.strings.text), 20), view.num_code_lines)


@SIGNALS.signal
def frac_chars_string_length(view: View) -> Value:
    """Characters inside string literals among those of the code."""
    return fraction(view.split.strings_in_line.characters, len(view.split.code))


@SIGNALS.signal
def frac_chars_long_word_length(view: View) -> Value:
    """Characters of words over 20 characters inside string literals, URLs left out, among those of the code."""
    text = view.split.strings_in_line.text
    words = (text[start:end] for start, end in long_words(code_points(text), 21))
    return fraction(sum(len(word) for word in words if not _URL.search(word)), len(view.split.code))


@SIGNALS.signal
def frac_lines_string_concat(view: View) -> Value:
    """Lines of code that assign the sum of two string literals. No threshold uses it."""
    code, found, end = view.split.code, 0, 0
    while end >= 0 and (plus := _PLUS_QUOTE.search(code, end)):
        end = code.find("\n", plus.start())
        found += adds_literals(code[code.rfind("\n", 0, plus.start()) + 1 : end if end >= 0 else len(code)])
    return fraction(found, view.num_code_lines)


_ASSIGNED_QUOTE = regex.compile(r"=\s*[\"']")
_PLUS_QUOTE = regex.compile(r"\+\s*[\"']")
_QUOTE_PLUS_QUOTE = regex.compile(r"[\"']\s*\+\s*[\"']")


def adds_literals(line: str) -> bool:
    """``=\\s*["'].+?["']\\s*\\+\\s*["'].+?["']`` is found in `line`, in linear instead of quadratic time."""
    if "+" not in line or "=" not in line:
        return False
    first = _ASSIGNED_QUOTE.search(line)
    plus = first and _QUOTE_PLUS_QUOTE.search(line, first.end() + 1)
    return bool(plus) and max(line.rfind('"'), line.rfind("'")) > plus.end()


@SIGNALS.signal
def cate_encoded_data(view: View) -> Value:
    """1 where a run of base64, hexadecimal bytes or escapes exceeds 1,024 characters, or all fill half the file."""
    return float(encoded_data(view.text, view.points))


@SIGNALS.signal
def frac_chars_hex_words(view: View) -> Value:
    """Hexadecimal literals among the characters of the code."""
    code = view.split.code
    return fraction(sum(len(m[0]) for hexadecimal in _HEX_LITERALS for m in hexadecimal.finditer(code)), len(code))


@SIGNALS.signal
def frac_lines_prompt_comments(view: View) -> Value:
    """Comment lines that say "todo", "fixme" or "your code here" among all lines."""
    return fraction(lines_with(_PROMPTS, view.split.comment.lower()), len(view.line_lengths))


@SIGNALS.signal
def frac_lines_assert(view: View) -> Value:
    """Lines of code that contain "assert"."""
    return fraction(lines_with(("assert",), view.split.code.lower()), view.num_code_lines)


def lines_with(words: Iterable[str], text: str) -> int:
    """How many lines of `text` contain one of the words."""
    ends = set()
    for word in words:
        end = 0
        while end >= 0 and (start := text.find(word, end)) >= 0:
            end = text.find("\n", start)
            ends.add(end)
    return len(ends)
