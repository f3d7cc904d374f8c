"""Words of a normalised text and what they repeat: every n from 2 to 10 in one compiled pass over interned words."""

from __future__ import annotations

import dataclasses

import numba
import numpy as np

TOP_SIZES = (2, 3, 4)
DUPLICATE_SIZES = (5, 6, 7, 8, 9, 10)

_UNKNOWN, _SPACE, _WORD, _OTHER = range(4)
_KINDS = np.zeros(0x110000, np.uint8)  # of each code point that has occurred so far
_KINDS[:128] = [_SPACE if chr(c).isspace() else _WORD if chr(c).isalnum() or c == 95 else _OTHER for c in range(128)]


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


def code_points(text: str) -> np.ndarray:
    """uint8 [characters] where all are ASCII, uint32 [characters] elsewhere; surrogates are kept."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def ngram_statistics(text: str) -> NgramStatistics:
    r"""Exact statistics of the words of `text`: runs of word characters (``\w``) and runs of other visible ones.

    Takes time in proportion to the characters, and memory to the words.
    """
    points = code_points(text)
    if points.dtype != np.uint8:
        for point in np.unique(points[_KINDS[points] == _UNKNOWN]).tolist():
            character = chr(point)
            _KINDS[point] = _SPACE if character.isspace() else _WORD if character.isalnum() else _OTHER
    ids, lengths, counts = _intern(points, _KINDS)
    found = _repetitions(ids, lengths).tolist()
    tops = len(TOP_SIZES)
    return NgramStatistics(
        characters=int(lengths @ counts),
        words=len(ids),
        distinct=len(lengths),
        top=dict(zip(TOP_SIZES, found[:tops], strict=True)),
        top_disjoint=dict(zip(TOP_SIZES, found[tops : 2 * tops], strict=True)),
        duplicate=dict(zip(DUPLICATE_SIZES, found[2 * tops :], strict=True)),
        word_counts=counts,
    )


@numba.njit(cache=True, nogil=True)
def _slots(entries: int) -> int:
    """Size of a hash table, at least twice its entries."""
    size = 4
    while size < 2 * entries:
        size *= 2
    return size


@numba.njit(cache=True, nogil=True)
def _intern(points: np.ndarray, kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(number of each word, int64 [words]; length and count of each distinct word, int64 [distinct]).

    Words are numbered in order of first occurrence.
    """
    words, previous = 0, _SPACE
    for point in points:
        kind = kinds[point]
        words += kind != _SPACE and kind != previous
        previous = kind
    ids = np.empty(words, np.int64)
    first = np.empty(words, np.int64)  # where each distinct word first starts
    lengths = np.empty(words, np.int64)
    counts = np.zeros(words, np.int64)
    mask = _slots(words) - 1
    table = np.full(mask + 1, -1, np.int64)
    hashes = np.empty(words, np.uint64)
    n, distinct, end = 0, 0, 0
    while n < words:
        start = end
        while kinds[points[start]] == _SPACE:
            start += 1
        end, key = start, np.uint64(14695981039346656037)
        while end < len(points) and kinds[points[end]] == kinds[points[start]]:
            key = (key ^ np.uint64(points[end])) * np.uint64(1099511628211)
            end += 1
        key ^= key >> np.uint64(32)
        slot = np.int64(key & np.uint64(mask))
        while table[slot] >= 0:
            number = table[slot]
            if hashes[number] == key and lengths[number] == end - start:
                i = 0
                while i < end - start and points[first[number] + i] == points[start + i]:
                    i += 1
                if i == end - start:
                    break
            slot = (slot + 1) & mask
        if table[slot] < 0:
            table[slot] = distinct
            hashes[distinct], first[distinct], lengths[distinct] = key, start, end - start
            distinct += 1
        ids[n] = table[slot]
        counts[ids[n]] += 1
        n += 1
    return ids, lengths[:distinct].copy(), counts[:distinct].copy()


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
    table = np.empty(_slots(left), np.int64)
    keys = np.empty(left, np.int64)
    counts = np.empty(left, np.int64)
    for n in range(2, DUPLICATE_SIZES[-1] + 1):
        mask = _slots(left) - 1
        table[: mask + 1] = -1
        distinct, best = 0, 0
        for place in range(len(ids) - n + 1):
            if codes[place] < 0 or codes[place + 1] < 0:
                codes[place] = -1
                continue
            key = codes[place] * len(lengths) + ids[place + n - 1]
            scrambled = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
            slot = np.int64((scrambled >> np.uint64(32)) & np.uint64(mask))
            while table[slot] >= 0 and keys[table[slot]] != key:
                slot = (slot + 1) & mask
            if table[slot] < 0:
                table[slot] = distinct
                keys[distinct], counts[distinct] = key, 0
                distinct += 1
            codes[place] = table[slot]
            counts[table[slot]] += 1
        codes[max(len(ids) - n + 1, 0) :] = -1
        for code in range(distinct):
            if counts[code] > counts[best]:
                best = code
        left, occurrences, disjoint, size, free, covered = 0, 0, 0, 0, 0, 0
        for place in range(len(ids) - n + 1):
            code = codes[place]
            if code < 0 or counts[code] < 2:
                codes[place] = -1
                continue
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
