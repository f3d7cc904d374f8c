"""Runs of encoded bytes in a text."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator

import numba
import numpy as np
import regex

# A thousand bytes are more than `_LONG` characters; without a limit, memory grows with the run.
_HEX = regex.compile(r"(?:\b(?:0x|\\x)?[0-9a-fA-F][0-9a-fA-F](?:,|\b\s*)){8,1000}")
_UNICODE = re.compile(r"(?:\\u[0-9a-fA-F]{4}){8,}")

_LONG = 1024  # characters of a single run
_SHORTEST_BASE64 = 64
_FEWEST_BYTES = 8


_IN_BASE64, _IS_HEX, _IN_BYTES = 1, 2, 4


def _flags() -> bytes:
    """For each ASCII character where it may stand; "?" also stands for all that are not ASCII."""
    flags = bytearray(256)
    for point in range(128):
        character = chr(point)
        flags[point] |= _IN_BASE64 * (character in string.ascii_letters + string.digits + "\n+/=")
        flags[point] |= _IS_HEX * (character in string.hexdigits)
        flags[point] |= _IN_BYTES * (character.isspace() or character in string.hexdigits + "x\\,?")
    return bytes(flags)


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
    base64, stretches = _stretches(np.frombuffer(text.encode("ascii", "replace").translate(_FLAGS), np.uint8))
    yield from base64
    for start, end in stretches:
        # One character more on both sides, because \b looks at them.
        for match in _HEX.finditer(text[max(start - 1, 0) : end + 1]):
            yield match.end() - match.start()
    if "\\u" in text:
        for match in _UNICODE.finditer(text):
            yield match.end() - match.start()


@numba.njit(cache=True, nogil=True)
def _stretches(flags: np.ndarray) -> tuple[list[int], list[tuple[int, int]]]:
    """Lengths of the runs of base64; bounds of stretches of what runs of bytes consist of, with digits for one."""
    lengths = [0 for _ in range(0)]  # by which the compiler knows the types
    bounds = [(0, 0) for _ in range(0)]
    base64 = in_bytes = digits = 0
    for i in range(len(flags) + 1):
        flag = flags[i] if i < len(flags) else 0
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
