"""Signals of every code and data file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import regex

from data_prep.quality import shared
from data_prep.quality.encoded import encoded_data
from data_prep.quality.group import Group, Value, fraction
from data_prep.quality.view import View
from data_prep.quality.words import tokenise

SIGNALS = Group(shared.SIGNALS)

HEADER = 200  # characters in which a generator leaves its notice
_GENERATED = re.compile(
    r"auto-?generated|\bautogen\b|automatically (?:generated|created)|generated automatically|do not edit|@generated"
    r"|(?:machine|code|computer)[ -]generated|\bgenerated (?:by|from|with|using|code|file|on|at|via|source)\b"
    r"|(?:is|was|are|were|been) generated\b"
)
_URL = re.compile(r"https?://\S")
_HEX_LITERAL = regex.compile(r"(?i:\b0x[0-9a-f]+\b)")
_PROMPTS = ("your code here", "fixme", "todo")
# White space as the `regex` module has it: unlike str.isspace without U+001C to U+001F. LF is kept.
_SPACES = b"\t\v\f\r "
_WIDE_SPACES = re.compile("[\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")
# Lines that every file repeats, white space and closing brackets removed.
_BOILERPLATE = frozenset(
    ("begin", "break", "continue", "do", "done", "else", "end", "endif", "esac", "fi", "pass", "return", "then", "try")
)
_WORD_CHARACTER = re.compile(r"[^\W_]")


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
    return fraction(len(view.text), len(view.lines)) or 0.0


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
    lines = Counter(squeezed(view.code_lines))
    counts = [count for line, count in lines.items() if _says_something(line)]
    return fraction(sum(count for count in counts if count > 1), sum(counts))


def _says_something(line: str) -> bool:
    said = line[:1].isalnum() or _WORD_CHARACTER.search(line) is not None
    return said and line.strip("{}();:,") not in _BOILERPLATE


def squeezed(lines: list[str]) -> list[str]:
    """The lines without any white space."""
    text = "\n".join(lines).encode("utf-8", "surrogatepass").translate(None, _SPACES).decode("utf-8", "surrogatepass")
    if not text.isascii():
        text = _WIDE_SPACES.sub("", text)
    return text.split("\n") if lines else []


@SIGNALS.signal
def cate_autogen(view: View) -> Value:
    """1 where the first 200 characters say that the file was generated."""
    return float(_GENERATED.search(view.text[:HEADER].lower()) is not None)


@SIGNALS.signal
def frac_lines_long_string(view: View) -> Value:
    """Lines of string literals with more than 20 words or punctuation runs, per line of code."""
    # A piece of n characters holds at most n words, which spares nearly all pieces the tokeniser.
    pieces = (piece for string in view.split.strings for piece in string.split("\n") if len(piece) > 20)
    return fraction(sum(len(tokenise(piece)) > 20 for piece in pieces), len(view.code_lines))


@SIGNALS.signal
def frac_chars_string_length(view: View) -> Value:
    """Characters inside string literals among those of the code."""
    return fraction(sum(map(len, view.split.strings_in_line)), len(view.split.code))


@SIGNALS.signal
def frac_chars_long_word_length(view: View) -> Value:
    """Characters of words over 20 characters inside string literals, URLs left out, among those of the code."""
    words = (word for string in view.split.strings_in_line if len(string) > 20 for word in string.split())
    return fraction(sum(len(w) for w in words if len(w) > 20 and not _URL.search(w)), len(view.split.code))


@SIGNALS.signal
def frac_lines_string_concat(view: View) -> Value:
    """Lines of code that assign the sum of two string literals. No threshold uses it."""
    return fraction(sum(map(adds_literals, view.code_lines)), len(view.code_lines))


_ASSIGNED_QUOTE = regex.compile(r"=\s*[\"']")
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
    return float(encoded_data(view.text))


@SIGNALS.signal
def frac_chars_hex_words(view: View) -> Value:
    """Hexadecimal literals among the characters of the code."""
    code = view.split.code
    length = sum(len(m[0]) for m in _HEX_LITERAL.finditer(code)) if "0x" in code or "0X" in code else 0
    return fraction(length, len(code))


@SIGNALS.signal
def frac_lines_prompt_comments(view: View) -> Value:
    """Comment lines that say "todo", "fixme" or "your code here" among all lines."""
    return fraction(lines_with(_PROMPTS, view.comment_lines), len(view.lines))


@SIGNALS.signal
def frac_lines_assert(view: View) -> Value:
    """Lines of code that contain "assert"."""
    return fraction(lines_with(("assert",), view.code_lines), len(view.code_lines))


def lines_with(words: Iterable[str], lines: list[str]) -> int:
    """How many of the lines contain one of the (lower-case) words."""
    text = "\n".join(lines).lower()
    found = [word for word in words if word in text]
    return sum(any(word in line for word in found) for line in text.split("\n")) if found else 0
