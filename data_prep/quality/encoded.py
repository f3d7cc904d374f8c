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


_IN_BASE64, _IN_HEX, _BEFORE_HEX, _AFTER_HEX = 1, 2, 4, 8


def _flags() -> bytes:
    """For each ASCII character where it may stand; "?" also stands for all that are not ASCII."""
    alphanumeric = string.ascii_letters + string.digits
    flags = bytearray(256)
    for point in range(128):
        character = chr(point)
        flags[point] |= _IN_BASE64 * (character in alphanumeric + "\n+/=")
        flags[point] |= _IN_HEX * (character in string.hexdigits)
        flags[point] |= _BEFORE_HEX * (character == "x" or character not in alphanumeric + "_")
        flags[point] |= _AFTER_HEX * (character.isspace() or character in ",\\?")
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
    member = np.concatenate(([0], flags & _IN_BASE64, [0]))
    edges = np.flatnonzero(member[1:] != member[:-1])
    lengths = edges[1::2] - edges[::2]
    yield from lengths[lengths >= _SHORTEST_BASE64].tolist()
    for pattern in ([_HEX] if _may_hold_bytes(flags) else []) + [_UNICODE]:
        for match in pattern.finditer(text):
            yield match.end() - match.start()


def _may_hold_bytes(flags: np.ndarray) -> bool:
    """Whether there are enough pairs of hexadecimal digits with something else on both sides: a necessary condition."""
    digits = flags[1:-2] & flags[2:-1] & _IN_HEX
    bounded = (digits != 0) & (flags[:-3] & _BEFORE_HEX != 0) & (flags[3:] & _AFTER_HEX != 0)
    # The first and the last pair of a run may stand at the ends of the text.
    return int(np.count_nonzero(bounded)) >= _FEWEST_BYTES - 2
