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

_IN_BASE64, _IS_HEX, _IN_BYTES, _IN_UNICODE = 1, 2, 4, 8


def _flags() -> np.ndarray:
    """For each ASCII character where it may stand, and last, the same for all others: uint8 [129]."""
    flags = np.full(129, _IN_BYTES, np.uint8)
    for point in range(128):
        character = chr(point)
        is_hex = character in string.hexdigits
        in_bytes = is_hex or character.isspace() or character in "x\\,?"
        in_base64 = character in string.ascii_letters + string.digits + "\n+/="
        in_unicode = is_hex or character in "\\u"
        flags[point] = in_base64 * _IN_BASE64 | is_hex * _IS_HEX | in_bytes * _IN_BYTES | in_unicode * _IN_UNICODE
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
    points = code_points(text)
    for start, end in _stretches(points, _FLAGS, _IN_BASE64, _IN_BASE64, 64):
        yield end - start
    for start, end in _stretches(points, _FLAGS, _IN_BYTES, _IS_HEX, 16):
        # One character more on both sides, because \b looks at them.
        for match in _HEX.finditer(text[max(start - 1, 0) : end + 1]):
            yield match.end() - match.start()
    for start, end in _stretches(points, _FLAGS, _IN_UNICODE, _IS_HEX, 32):
        for match in _UNICODE.finditer(text[start:end]):
            yield match.end() - match.start()


@numba.njit(cache=True, nogil=True)
def _stretches(points: np.ndarray, flags: np.ndarray, member: int, counted: int, fewest: int) -> list[tuple[int, int]]:
    """Bounds of the runs of characters with flag `member`, `fewest` of which or more have the flag `counted`.

    Most characters are never looked at: where one of the next `fewest` is no member, no run starts before it.
    """
    bounds = [(0, 0) for _ in range(0)]  # by which the compiler knows the type
    start = 0
    while start + fewest <= len(points):
        at = start + fewest - 1
        while at >= start and flags[min(points[at], 128)] & member:
            at -= 1
        if at < start:
            at, found = start, 0
            while at < len(points) and flags[min(points[at], 128)] & member:
                found += (flags[min(points[at], 128)] & counted) != 0
                at += 1
            if found >= fewest:
                bounds.append((start, at))
        start = at + 1
    return bounds
