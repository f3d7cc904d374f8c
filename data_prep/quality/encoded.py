"""Runs of encoded bytes in a text."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator

import numpy as np
import regex

_HEX = regex.compile(r"(?:\b(?:0x|\\x)?[0-9a-fA-F][0-9a-fA-F](?:,|\b\s*)){8,}")
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
    flags = np.frombuffer(text.encode("ascii", "replace").translate(_FLAGS), np.uint8)
    starts, ends = _segments(flags & _IN_BASE64)
    lengths = ends - starts
    yield from lengths[lengths >= _SHORTEST_BASE64].tolist()
    for start, end in _may_hold_bytes(flags):
        # One character more on both sides, because \b looks at them.
        for match in _HEX.finditer(text[max(start - 1, 0) : end + 1]):
            yield match.end() - match.start()
    if "\\u" in text:
        for match in _UNICODE.finditer(text):
            yield match.end() - match.start()


def _segments(flags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of the stretches in which `flags` is not zero."""
    member = np.zeros(len(flags) + 2, np.bool_)
    member[1:-1] = flags
    edges = np.flatnonzero(member[1:] != member[:-1])
    return edges[::2], edges[1::2]


def _may_hold_bytes(flags: np.ndarray) -> list[tuple[int, int]]:
    """Stretches of characters that runs of hexadecimal bytes consist of, with enough digits for one."""
    starts, ends = _segments(flags & _IN_BYTES)
    long = ends - starts >= 2 * _FEWEST_BYTES
    starts, ends = starts[long], ends[long]
    digits = np.flatnonzero(flags & _IS_HEX)
    enough = np.searchsorted(digits, ends) - np.searchsorted(digits, starts) >= 2 * _FEWEST_BYTES
    return list(zip(starts[enough].tolist(), ends[enough].tolist(), strict=True))
