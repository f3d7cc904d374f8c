"""Runs of encoded bytes in a text."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator

import numpy as np
import regex

from data_prep.quality.tokens import runs

# A thousand bytes are more than `_LONG` characters; without a limit, memory grows with the run.
_HEX = regex.compile(r"(?:\b(?:0x|\\x)?[0-9a-fA-F][0-9a-fA-F](?:,|\b\s*)){8,1000}")
_UNICODE = re.compile(r"(?:\\u[0-9a-fA-F]{4}){8,}")

_LONG = 1024  # characters of a single run

_NO_BASE64, _NO_BYTES, _NO_UNICODE, _BASE64, _HEX_DIGIT = 1, 2, 4, 8, 16


def _kinds() -> np.ndarray:
    """Of each code point what it ends and what it is: uint8 [0x110000]."""
    kinds = np.full(0x110000, _NO_BASE64 | _NO_UNICODE, np.uint8)  # white space, for one, may stand between bytes
    for point in range(128):
        character = chr(point)
        is_hex = character in string.hexdigits
        in_base64 = character in string.ascii_letters + string.digits + "\n+/="
        in_bytes = is_hex or character.isspace() or character in "x\\,?"
        in_unicode = is_hex or character in "\\u"
        kinds[point] = _NO_BYTES * (not in_bytes) | _NO_UNICODE * (not in_unicode) | _HEX_DIGIT * is_hex
        kinds[point] |= _BASE64 if in_base64 else _NO_BASE64
    return kinds


_KINDS = _kinds()


def encoded_data(text: str, points: np.ndarray) -> bool:
    """Whether one run exceeds 1,024 characters, or all runs of the three kinds together half of `text`.

    Args:
        points: those of `text`, see `code_points`.
    """
    total = 0
    for length in _lengths(text, points):
        total += length
        if length > _LONG or total > 0.5 * len(text):
            return True
    return False


def _lengths(text: str, points: np.ndarray) -> Iterator[int]:
    for start, end in runs(points, _KINDS, _NO_BASE64, _BASE64, 64):
        yield end - start
    for start, end in runs(points, _KINDS, _NO_BYTES, _HEX_DIGIT, 16):
        # One character more on both sides, because \b looks at them.
        for match in _HEX.finditer(text[max(start - 1, 0) : end + 1]):
            yield match.end() - match.start()
    for start, end in runs(points, _KINDS, _NO_UNICODE, _HEX_DIGIT, 32):
        for match in _UNICODE.finditer(text[start:end]):
            yield match.end() - match.start()
