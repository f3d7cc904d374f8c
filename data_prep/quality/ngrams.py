"""Repetition statistics of a word sequence: every n from 2 to 10 in one pass over interned words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

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


def ngram_statistics(words: Sequence[str]) -> NgramStatistics:
    """Exact statistics of `words` in O(sizes · n log n).

    An (n+1)-gram can occur twice only where both n-grams inside it do, so each size looks only at the places
    that the size before it left over; on ordinary code almost none remain after n = 5.
    """
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    ids = np.fromiter(map(vocabulary.__getitem__, words), np.int64, len(words))
    word_lengths = np.fromiter(map(len, vocabulary), np.int64, len(vocabulary))
    lengths = word_lengths[ids]
    ends = np.concatenate(([0], np.cumsum(lengths)))  # ends[j] - ends[i]: characters of words i … j - 1

    top, top_disjoint, duplicate = {}, {}, {}
    places = np.arange(len(ids))  # starts of the n-grams that occur at least twice
    codes = ids  # for each place a number that is equal for equal n-grams
    for n in range(2, max(DUPLICATE_SIZES) + 1):
        adjacent = np.flatnonzero(np.diff(places) == 1)
        places = places[adjacent]
        codes, counts = _rank(codes[adjacent] * len(vocabulary) + ids[places + n - 1])
        often = counts[codes]
        if n in TOP_SIZES:
            top[n], top_disjoint[n] = _top(places, codes, often, ends, n)
        repeated = often > 1
        places, codes = places[repeated], codes[repeated]
        if n in DUPLICATE_SIZES:
            duplicate[n] = _covered(places, lengths, n)
    return NgramStatistics(
        characters=int(ends[-1]),
        words=len(ids),
        distinct=len(vocabulary),
        top=top,
        top_disjoint=top_disjoint,
        duplicate=duplicate,
        word_counts=np.bincount(ids, minlength=len(vocabulary)),
    )


def _rank(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each key's rank among the distinct keys, and how often each rank occurs."""
    order = keys.argsort()
    ordered = keys[order]
    steps = np.ones(len(keys), np.int64)
    steps[:1] = 0
    steps[1:] = ordered[1:] != ordered[:-1]
    ranks = np.empty(len(keys), np.int64)
    ranks[order] = np.cumsum(steps)
    return ranks, np.bincount(ranks)


def _top(places: np.ndarray, codes: np.ndarray, often: np.ndarray, ends: np.ndarray, n: int) -> tuple[int, int]:
    if not len(places) or often.max() < 2:
        return 0, 0
    first = int(often.argmax())
    size = int(ends[places[first] + n] - ends[places[first]])
    occurrences = places[codes == codes[first]]
    disjoint, free = 0, 0
    for place in occurrences.tolist():
        if place >= free:
            disjoint, free = disjoint + 1, place + n
    return size * len(occurrences), size * disjoint if disjoint > 1 else 0


def _covered(places: np.ndarray, lengths: np.ndarray, n: int) -> int:
    if not len(places):
        return 0
    depth = np.zeros(len(lengths) + 1, np.int64)
    np.add.at(depth, places, 1)
    np.subtract.at(depth, places + n, 1)
    return int(lengths[np.cumsum(depth[:-1]) > 0].sum())
