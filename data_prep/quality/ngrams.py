"""Words of a normalised text and what they repeat: every n from 2 to 10 in one compiled pass over interned words."""

from __future__ import annotations

import dataclasses

import numba
import numpy as np

from data_prep.quality.tokens import table_size, words

TOP_SIZES = (2, 3, 4)
DUPLICATE_SIZES = (5, 6, 7, 8, 9, 10)


@dataclasses.dataclass(frozen=True)
class NgramStatistics:
    """What the words of a document repeat. All counts are in characters of words, separators left out.

    `top[n]`: characters of the most frequent n-gram × how often it occurs, 0 where nothing repeats. Of equally
    frequent n-grams the first counts. `top_disjoint[n]` counts only occurrences that do not overlap each other.
    `duplicate[n]`: characters of the words covered by an n-gram that occurs at least twice.
    """

    characters: int
    words: int
    distinct: int
    top: dict[int, int]
    top_disjoint: dict[int, int]
    duplicate: dict[int, int]
    word_counts: np.ndarray  # int64 [distinct], in order of first occurrence


def ngram_statistics(points: np.ndarray) -> NgramStatistics:
    r"""Exact statistics of the words of a text: runs of word characters (``\w``) and runs of other visible ones.

    Takes time in proportion to the characters, and memory to the words.
    """
    tokens = words(points)
    found = _repetitions(tokens.ids, tokens.lengths).tolist()
    tops = len(TOP_SIZES)
    return NgramStatistics(
        characters=int(tokens.lengths @ tokens.counts),
        words=len(tokens),
        distinct=len(tokens.counts),
        top=dict(zip(TOP_SIZES, found[:tops], strict=True)),
        top_disjoint=dict(zip(TOP_SIZES, found[tops : 2 * tops], strict=True)),
        duplicate=dict(zip(DUPLICATE_SIZES, found[2 * tops :], strict=True)),
        word_counts=tokens.counts,
    )


@numba.njit(cache=True, nogil=True)
def _repetitions(ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """`top`, then `top_disjoint`, then `duplicate` of `NgramStatistics`: int64 [12].

    An (n+1)-gram can occur twice only where both n-grams inside it do, so each size looks only at the places that the
    size before it left over; on ordinary code almost none remain after n = 5.
    """
    tops = len(TOP_SIZES)
    found = np.zeros(2 * tops + len(DUPLICATE_SIZES), np.int64)
    codes = ids.copy()  # for each place a number that is equal for equal n-grams, -1 where no n-gram repeats
    left = len(ids)
    table = np.empty(table_size(left), np.int32)
    keys = np.empty(left, np.int64)
    counts = np.empty(left, np.int32)
    places = np.arange(len(ids))  # those left over, in order
    for n in range(2, DUPLICATE_SIZES[-1] + 1):
        mask = table_size(left) - 1
        table[: mask + 1] = -1
        distinct, best = 0, 0
        for place in places[:left]:
            if place + n > len(ids) or codes[place + 1] < 0:
                codes[place] = -1
                continue
            key = np.int64(codes[place]) * len(lengths) + ids[place + n - 1]
            scrambled = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
            slot = np.int64((scrambled >> np.uint64(32)) & np.uint64(mask))
            code = table[slot]
            while code >= 0 and keys[code] != key:
                slot = (slot + 1) & mask
                code = table[slot]
            if code < 0:
                code = distinct
                table[slot], keys[code], counts[code] = code, key, 0
                distinct += 1
            codes[place] = code
            counts[code] += 1
        for code in range(distinct):
            if counts[code] > counts[best]:
                best = code
        before, left, occurrences, disjoint, size, free, covered = left, 0, 0, 0, 0, 0, 0
        for place in places[:before]:
            code = codes[place]
            if code < 0 or counts[code] < 2:
                codes[place] = -1
                continue
            places[left] = place
            left += 1
            if n <= TOP_SIZES[-1] and code == best:
                size = lengths[ids[place : place + n]].sum() if occurrences == 0 else size
                occurrences += 1
                if place >= free:
                    disjoint, free = disjoint + 1, place + n
            if n >= DUPLICATE_SIZES[0]:
                for word in range(max(place, covered), place + n):
                    found[2 * tops + n - DUPLICATE_SIZES[0]] += lengths[ids[word]]
                covered = place + n
        if n <= TOP_SIZES[-1]:
            found[n - TOP_SIZES[0]] = size * occurrences
            found[tops + n - TOP_SIZES[0]] = size * disjoint if disjoint > 1 else 0
        if left == 0:
            break
    return found
