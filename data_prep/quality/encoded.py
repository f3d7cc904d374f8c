"""Runs of encoded bytes in a text."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator

import numba
import numpy as np
import regex

from data_prep.quality.tokens import code_points

# A thousand bytes are more than `_LONG` characters; without a limit, memory grows with the run.
_HEX = regex.compile(r"(?:\b(?:0x|\\x)?[0-9a-fA-F][0-9a-fA-F](?:,|\b\s*)){8,1000}")
_UNICODE = re.compile(r"(?:\\u[0-9a-fA-F]{4}){8,}")

_LONG = 1024  # characters of a single run
_SHORTEST_BASE64 = 64
_FEWEST_BYTES = 8


_IN_BASE64, _IS_HEX, _IN_BYTES = 1, 2, 4


def _flags() -> np.ndarray:
    """For each ASCII character where it may stand, and last, the same for all others: uint8 [129]."""
    flags = np.full(129, _IN_BYTES, np.uint8)
    for point in range(128):
        character = chr(point)
        in_bytes = character.isspace() or character in string.hexdigits + "x\\,?"
        in_base64 = character in string.ascii_letters + string.digits + "\n+/="
        flags[point] = _IN_BASE64 * in_base64 | _IS_HEX * (character in string.hexdigits) | _IN_BYTES * in_bytes
    return flags


_FLAGS = _flags()


def encoded_data(text: str) -> bool:
    """Whether one run exceeds 1,024 characters, or all runs of the three kinds together half of `text`."""
    total = 0
    for length in _runs(text):
        total += length
        if length > _LONG or total > 0.5 * len(text):
            return True
    return False


def _runs(text: str) -> Iterator[int]:
    base64, stretches = _stretches(code_points(text), _FLAGS)
    yield from base64
    for start, end in stretches:
        # One character more on both sides, because \b looks at them.
        for match in _HEX.finditer(text[max(start - 1, 0) : end + 1]):
            yield match.end() - match.start()
    if "\\u" in text:
        for match in _UNICODE.finditer(text):
            yield match.end() - match.start()


@numba.njit(cache=True, nogil=True)
def _stretches(points: np.ndarray, flags: np.ndarray) -> tuple[list[int], list[tuple[int, int]]]:
    """Lengths of the runs of base64; bounds of stretches of what runs of bytes consist of, with digits for one."""
    lengths = [0 for _ in range(0)]  # by which the compiler knows the types
    bounds = [(0, 0) for _ in range(0)]
    base64 = in_bytes = digits = 0
    for i in range(len(points) + 1):
        flag = flags[min(points[i], 128)] if i < len(points) else 0
        if flag & _IN_BASE64:
            base64 += 1
        else:
            if base64 >= _SHORTEST_BASE64:
                lengths.append(base64)
            base64 = 0
        if flag & _IN_BYTES:
            in_bytes += 1
            digits += (flag & _IS_HEX) != 0
        else:
            if digits >= 2 * _FEWEST_BYTES:
                bounds.append((i - in_bytes, i))
            in_bytes = digits = 0
    return lengths, bounds
