"""Words as the rules count them."""

from __future__ import annotations

import re
import string
import unicodedata

import numba
import numpy as np

from data_prep.quality.tokens import code_points, next_unknown, text_of

_WORD = re.compile(r"\w+|[^\w\s]+")

_IDEOGRAPHS = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]{1,2}")

_DELETED = [*range(0x00, 0x08), *range(0x0E, 0x1B), *range(0x1C, 0x20), 0x202C]
_ALIASES = {
    "\u3002": ".",
    "\u3001": ",",
    "\u300a": '"',
    "\u300b": '"',
    "\u3010": "[",
    "\u3011": "]",
    "\u300c": "'",
    "\u300d": "'",
    "\u201c": '"',
    "\u201d": '"',
    "\u2018": "'",
    "\u2019": "'",
    "\uffe5": "\u00a5",
}


def _normalisation() -> dict[int, str | None]:
    table: dict[int, str | None] = dict.fromkeys(_DELETED)
    table |= {0x2009: " ", 0x200B: " "}
    spaces = dict.fromkeys(map(ord, string.punctuation), " ")
    full_width = {ord(mark) + 0xFEE0: " " for mark in string.punctuation}
    aliases = {ord(mark): " " if plain in string.punctuation else plain for mark, plain in _ALIASES.items()}
    return table | spaces | full_width | aliases


_NORMALISATION = _normalisation()
# The same with lower-casing for ASCII texts, as bytes.translate wants it: many times faster than str.translate.
_ASCII = bytes(ord((_NORMALISATION.get(point) or chr(point)).lower()) for point in range(128)) + bytes(128)
_ASCII_DELETED = bytes(point for point in _DELETED if point < 128)
# For other texts a table of what becomes of each code point: 0 where it has not occurred yet, n + 1 for the code point
# n, -n - 1 for row n of the next table, and the least number where it depends on its neighbours.
_FORMS = np.zeros(0x110000, np.int32)
_DEPENDS = np.iinfo(np.int32).min
_ROWS = np.zeros((1, 19), np.uint32)  # how many code points, and which; row 0: none


def _learn(character: str) -> None:
    """Puts into the tables what becomes of a character."""
    global _ROWS
    plain = character.translate(_NORMALISATION).lower()
    form = unicodedata.normalize("NFKC", plain)
    code_points(form)  # so that their kinds are known
    if character == "Σ" or any(unicodedata.category(c)[0] == "M" or "\u1100" <= c <= "\u11ff" for c in plain + form):
        _FORMS[ord(character)] = _DEPENDS
    elif len(form) == 1:
        _FORMS[ord(character)] = ord(form) + 1
    elif not form:
        _FORMS[ord(character)] = -1
    else:
        _FORMS[ord(character)] = -len(_ROWS) - 1
        _ROWS = np.vstack((_ROWS, np.array([len(form), *map(ord, form.ljust(18, "\0"))], np.uint32)))


@numba.njit(cache=True, nogil=True)
def _mapped(points: np.ndarray, forms: np.ndarray, rows: np.ndarray) -> np.ndarray | None:
    """What becomes of all code points; None where one of them depends on its neighbours."""
    size = 0
    for point in points:
        if forms[point] == _DEPENDS:
            return None
        size += 1 if forms[point] > 0 else rows[-forms[point] - 1, 0]
    mapped = np.empty(size, np.uint32)
    size = 0
    for point in points:
        if forms[point] > 0:
            mapped[size] = forms[point] - 1
            size += 1
        else:
            row = -forms[point] - 1
            for i in range(rows[row, 0]):
                mapped[size + i] = rows[row, i + 1]
            size += rows[row, 0]
    return mapped


def tokenise(text: str) -> list[str]:
    r"""Runs of word characters (``\w``) and runs of anything else but white space, in order."""
    return _WORD.findall(text)


def spaced(text: str) -> str:
    """Chinese with spaces between words, for which pairs of ideographs stand: no dictionary needed."""
    return _IDEOGRAPHS.sub(r" \g<0> ", text)


def normalised(points: np.ndarray, language: str | None = None) -> np.ndarray:
    """Lower-case words between white space: ``a.b_c (D)`` gives ``a b c d``; compatibility forms are unified (NFKC).

    NFKC comes last, so it may bring punctuation back (… becomes three dots), which then is a word of its own. Chinese
    (`language` zh) has no spaces between words: see `spaced`.

    Args:
        points: of the text, see `tokens.code_points`; what is returned is the same of the words.
    """
    if points.dtype == np.uint8:
        return np.frombuffer(points.tobytes().translate(_ASCII, _ASCII_DELETED), np.uint8)
    at = 0
    while (at := next_unknown(points, _FORMS, at)) < len(points):
        _learn(chr(points[at]))
    plain = _mapped(points, _FORMS, _ROWS)
    if plain is None:
        text = text_of(points).translate(_NORMALISATION).lower()
        plain = code_points(unicodedata.normalize("NFKC", text))
    return code_points(spaced(text_of(plain))) if language == "zh" else plain
