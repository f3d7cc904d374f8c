"""The compiled loops of deduplication: from bytes to MinHash signatures, and union-find.

`minhash` and `components` import this module when they first need it, for the compiler alone takes half a second to
import. Compiled code is cached beside this file or, where that cannot be written, in the user's cache directory.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np

from data_prep import components
from data_prep.minhash import GRAM, MAX_HASH, MIX1, MIX2, TOKEN

_UNROLL = 8  # grams per pass over the permutations: their parameters are then loaded an eighth as often


def _compiled(function: Callable) -> Callable:
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # there is no directory to cache in
        return numba.njit(nogil=True)(function)


@_compiled
def _mix64(x):
    x = (x ^ (x >> np.uint64(30))) * MIX1
    x = (x ^ (x >> np.uint64(27))) * MIX2
    return x ^ (x >> np.uint64(31))


@_compiled
def _mix32(x):
    x = np.uint32(x ^ (x >> np.uint32(16)))
    x = np.uint32(x * np.uint32(0x85EBCA6B))
    x = np.uint32(x ^ (x >> np.uint32(13)))
    x = np.uint32(x * np.uint32(0xC2B2AE35))
    return np.uint32(x ^ (x >> np.uint32(16)))


@_compiled
def _hash_grams(data, starts, continues, ngram, grams):
    """Writes the hash of each gram of `data` to `grams` and returns how many there are."""
    leaving = np.uint64(1)  # the factor of a token that is `ngram` tokens back
    for _ in range(ngram):
        leaving *= GRAM
    ring = np.zeros(ngram, np.uint64)  # the last tokens
    gram = np.uint64(0)
    tokens = i = oldest = 0
    while i < len(data):
        if not starts[data[i]]:
            i += 1
            continue
        token = np.uint64(data[i]) + np.uint64(1)
        i += 1
        while i < len(data) and continues[data[i]]:
            token = token * TOKEN + np.uint64(data[i]) + np.uint64(1)
            i += 1
        token = _mix64(token)
        gram = gram * GRAM + token - ring[oldest] * leaving
        ring[oldest] = token
        oldest = oldest + 1 if oldest + 1 < ngram else 0
        tokens += 1
        grams[max(tokens - ngram, 0)] = np.uint32(_mix64(gram) >> np.uint64(32))
    return max(tokens - ngram + 1, min(tokens, 1))


@_compiled
def _distinct(grams, count):
    """Moves the different values of grams[:count] to its front, in order, and returns how many there are."""
    size = 16
    while size < 2 * count:
        size *= 2
    slots = np.zeros(size, np.int32)  # 1 + where a value stands, 0 for none
    kept = 0
    for i in range(count):
        slot = np.int64(grams[i]) & (size - 1)
        while slots[slot] and grams[slots[slot] - 1] != grams[i]:
            slot = (slot + 1) & (size - 1)
        if not slots[slot]:
            grams[kept] = grams[i]
            kept += 1
            slots[slot] = kept
    return kept


@_compiled
def _sketch(grams, count, a, b, out):
    """Writes the smallest value of each permutation over grams[:count] to `out`."""
    out[:] = MAX_HASH
    h = np.empty(_UNROLL, np.uint32)
    for start in range(0, count, _UNROLL):
        for j in range(_UNROLL):  # the last pass repeats a gram, which changes no minimum
            h[j] = _mix32(grams[min(start + j, count - 1)])
        h0, h1, h2, h3, h4, h5, h6, h7 = h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7]
        for k in range(len(a)):
            x, y, least = a[k], b[k], out[k]
            least = min(least, np.uint32(x * h0 + y))
            least = min(least, np.uint32(x * h1 + y))
            least = min(least, np.uint32(x * h2 + y))
            least = min(least, np.uint32(x * h3 + y))
            least = min(least, np.uint32(x * h4 + y))
            least = min(least, np.uint32(x * h5 + y))
            least = min(least, np.uint32(x * h6 + y))
            least = min(least, np.uint32(x * h7 + y))
            out[k] = least


@_compiled
def signatures(data, offsets, starts, continues, ngram, a, b):
    """See `minhash.signatures`: uint32 [texts, permutations] of the texts data[offsets[i] : offsets[i + 1]]."""
    longest = 1
    for i in range(len(offsets) - 1):
        longest = max(longest, offsets[i + 1] - offsets[i])
    grams = np.empty(longest, np.uint32)
    out = np.empty((len(offsets) - 1, len(a)), np.uint32)
    for i in range(len(offsets) - 1):
        count = _hash_grams(data[offsets[i] : offsets[i + 1]], starts, continues, ngram, grams)
        _sketch(grams, _distinct(grams, count), a, b, out[i])
    return out


@_compiled
def shingles(data, starts, continues, ngram):
    """See `minhash.shingles`."""
    grams = np.empty(max(len(data), 1), np.uint32)
    return grams[: _distinct(grams, _hash_grams(data, starts, continues, ngram, grams))].copy()


union_find = _compiled(components.union_find)
