"""Words and lines of a text as integers, found and numbered by compiled loops."""

from __future__ import annotations

import dataclasses
import functools

import numba
import numpy as np

SPACE, _WORD, _LETTER, _SQUEEZED, _ALPHABETIC, _DIGIT, _STOP, _MARK, _KNOWN = (1 << i for i in range(9))
_RUN = SPACE | _WORD  # neighbours that agree in these are of one token
_LF = 10
_INFORMATION_SEPARATORS = "\x1c\x1d\x1e\x1f"  # white space for `str`, but not for the released filter's lines
_STOPS = ".!?。！？؟"  # what ends a sentence
MARKS = "{}();:,"  # what a line may end in and say no more by it
KINDS = np.zeros(0x110000, np.uint16)  # of each code point that has occurred so far
_LINES = np.full(0x110000, _WORD, np.uint16)  # by these kinds a token is what stands between two LFs
_LINES[_LF] = SPACE


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Tokens of a text, equal ones with equal numbers, in order of first occurrence.

    Attributes:
      points: the code points they stand in.
      ids: the number of each token: int32 [tokens].
      starts, lengths: of the first occurrence of each distinct token, in characters: int64 [distinct].
      counts: how often each occurs: int64 [distinct].
    """

    points: np.ndarray
    ids: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    counts: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def _text(self) -> str:
        return text_of(self.points)

    def strings(self, numbers: np.ndarray | slice = slice(None)) -> list[str]:
        """The distinct tokens of these numbers, by default all."""
        starts = self.starts[numbers]
        ends = (starts + self.lengths[numbers]).tolist()
        return [self._text[start:end] for start, end in zip(starts.tolist(), ends, strict=True)]

    def letters(self, most: int) -> np.ndarray:
        """Letters and digits in each distinct token; `most` + 1 where there are more, or some and also other
        characters than `MARKS`: int64 [distinct]."""
        return _letters(self.points, self.starts, self.lengths, KINDS, most)


def code_points(text: str) -> np.ndarray:
    """uint8 [characters] where all are ASCII, uint32 [characters] elsewhere; surrogates are kept."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    at = 0
    while (at := next_unknown(points, KINDS, at)) < len(points):
        KINDS[points[at]] = _kind(chr(points[at]))
    return points


def text_of(points: np.ndarray) -> str:
    """The text of these code points."""
    return points.tobytes().decode("ascii" if points.dtype == np.uint8 else "utf-32-le", "surrogatepass")


def words(points: np.ndarray) -> Tokens:
    r"""Runs of word characters (``\w``) and runs of anything else but white space."""
    return Tokens(points, *_number(points, KINDS))


def squeezed_lines(points: np.ndarray) -> Tokens:
    """Lines that are not blank, white space removed: as the `regex` module has it, without U+001C to U+001F."""
    squeezed = _squeeze(points, KINDS)
    return Tokens(squeezed, *_number(squeezed, _LINES))


def stripped_lines(points: np.ndarray) -> Tokens:
    """Lines that are not blank, without leading and trailing white space."""
    stripped = _strip(points, KINDS)
    return Tokens(stripped, *_number(stripped, _LINES))


def lines_of_many_words(points: np.ndarray, most: int) -> int:
    """Lines of more than `most` words, as `words` has them."""
    return _lines_of_many_words(points, KINDS, most)


def long_words(points: np.ndarray, least: int) -> list[tuple[int, int]]:
    """Start and end of each word between white space that has at least so many characters."""
    return runs(points, KINDS, SPACE, _KNOWN, least)


def sentences(points: np.ndarray) -> int:
    """How many stretches between full stops, question and exclamation marks hold a word."""
    return _sentences(points, KINDS)


def counts(points: np.ndarray) -> tuple[int, int, int]:
    """How many characters are letters, digits and white space."""
    return _counts(points, KINDS)


def _kind(character: str) -> int:
    kind = _KNOWN | SPACE * character.isspace() | _LETTER * character.isalnum()
    kind |= _WORD * (character.isalnum() or character == "_")
    kind |= _ALPHABETIC * character.isalpha() | _DIGIT * character.isdigit()
    kind |= _STOP * (character in _STOPS) | _MARK * (character in MARKS)
    return kind | _SQUEEZED * (character.isspace() and character not in _INFORMATION_SEPARATORS)


KINDS[:128] = [_kind(chr(point)) for point in range(128)]


@numba.njit(cache=True, nogil=True)
def next_unknown(points: np.ndarray, table: np.ndarray, at: int) -> int:
    """Where, from `at` on, the first code point stands for which there is nothing in the table."""
    while at < len(points) and table[points[at]]:
        at += 1
    return at


@numba.njit(cache=True, nogil=True)
def line_lengths(points: np.ndarray) -> np.ndarray:
    """Characters of each line, its LF included: int64 [lines]. A trailing LF opens no further line."""
    lines, start = 0, 0
    for point in points:
        lines += point == _LF
    lengths = np.empty(lines + 1, np.int64)
    lines = 0
    for i in range(len(points)):
        if points[i] == _LF:
            lengths[lines] = i + 1 - start
            lines, start = lines + 1, i + 1
    lengths[lines] = len(points) - start
    return lengths[: lines + (start < len(points))]


@numba.njit(cache=True, nogil=True)
def _counts(points: np.ndarray, kinds: np.ndarray) -> tuple[int, int, int]:
    letters = digits = space = 0
    for point in points:
        kind = kinds[point]
        letters += kind & _ALPHABETIC != 0
        digits += kind & _DIGIT != 0
        space += kind & SPACE != 0
    return letters, digits, space


@numba.njit(cache=True, nogil=True)
def _sentences(points: np.ndarray, kinds: np.ndarray) -> int:
    found, inside = 0, False
    for point in points:
        kind = kinds[point]
        found += not inside and kind & _WORD != 0
        inside = (inside or kind & _WORD != 0) and kind & _STOP == 0
    return found


@numba.njit(cache=True, nogil=True)
def runs(points: np.ndarray, kinds: np.ndarray, ends: int, counted: int, fewest: int) -> list[tuple[int, int]]:
    """Bounds of the runs of characters that are not of the kind `ends`, at least `fewest` of which are `counted`.

    Most characters are never looked at: where one of the next `fewest` ends a run, none starts before it.
    """
    bounds = [(0, 0) for _ in range(0)]  # by which the compiler knows the type
    start = 0
    while start + fewest <= len(points):
        at = start + fewest - 1
        while at >= start and kinds[points[at]] & ends == 0:
            at -= 1
        if at < start:
            at, found = start, 0
            while at < len(points) and kinds[points[at]] & ends == 0:
                found += kinds[points[at]] & counted != 0
                at += 1
            if found >= fewest:
                bounds.append((start, at))
        start = at + 1
    return bounds


@numba.njit(cache=True, nogil=True)
def gather(points: np.ndarray, bounds: np.ndarray, lines: bool) -> np.ndarray:
    """The code points of the stretches with these bounds, integers [stretches, 2], one after the other.

    With `lines` each of them ends with an LF, be it an added one; none may be empty then.
    """
    size = 0
    for start, end in bounds:
        size += end - start + lines
    found = np.empty(size, points.dtype)
    size = 0
    for start, end in bounds:
        found[size : size + end - start] = points[start:end]
        size += end - start
        if lines and points[end - 1] != _LF:
            found[size] = _LF
            size += 1
    return found[:size]


@numba.njit(cache=True, nogil=True)
def _letters(points: np.ndarray, starts: np.ndarray, lengths: np.ndarray, kinds: np.ndarray, most: int) -> np.ndarray:
    letters = np.zeros(len(starts), np.int64)
    for token in range(len(starts)):
        others = 0
        for i in range(starts[token], starts[token] + lengths[token]):
            kind = kinds[points[i]]
            letters[token] += kind & _LETTER != 0
            others += kind & (_LETTER | _MARK) == 0
            if letters[token] > most:
                break
        if letters[token] and others:
            letters[token] = most + 1
    return letters


@numba.njit(cache=True, nogil=True)
def _lines_of_many_words(points: np.ndarray, kinds: np.ndarray, most: int) -> int:
    lines, words, previous = 0, 0, SPACE
    for point in points:
        kind = kinds[point] & _RUN
        if kind != SPACE and kind != previous:
            words += 1
            lines += words == most + 1
        if point == _LF:
            words = 0
        previous = kind
    return lines


@numba.njit(cache=True, nogil=True)
def _squeeze(points: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """The code points without white space and blank lines, but with LFs."""
    squeezed = np.empty_like(points)
    end, start, blank = 0, 0, True
    for point in points:
        kind = kinds[point]
        if point == _LF:
            end = start if blank else end
        if point == _LF or kind & _SQUEEZED == 0:
            squeezed[end] = point
            end += 1
        blank = blank and kind & SPACE != 0
        if point == _LF:
            start, blank = end, True
    return squeezed[: start if blank else end]


@numba.njit(cache=True, nogil=True)
def _strip(points: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """The code points without blank lines and without white space on both sides of the others, but with LFs."""
    stripped = np.empty_like(points)
    start = end = visible = 0
    for point in points:
        if point == _LF:
            if visible > start:
                stripped[visible] = _LF
                start = visible + 1
            end = visible = start
        elif end > start or kinds[point] & SPACE == 0:
            stripped[end] = point
            end += 1
            visible = end if kinds[point] & SPACE == 0 else visible
    return stripped[:visible]


@numba.njit(cache=True, nogil=True)
def table_size(entries: int) -> int:
    """Slots of a hash table: a power of two, at least twice its entries."""
    size = 4
    while size < 2 * entries:
        size *= 2
    return size


@numba.njit(cache=True, nogil=True)
def _number(points: np.ndarray, kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The other fields of `Tokens`: runs of what is no white space by `kinds`, each of one kind."""
    most = len(points)  # what is never written to takes no memory
    ids, hashes = np.empty(most, np.int32), np.empty(most, np.uint64)
    starts, lengths, counts = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int64)
    table = np.full(1024, -1, np.int32)
    tokens = distinct = end = 0
    while True:
        while end < len(points) and kinds[points[end]] & SPACE:
            end += 1
        if end == len(points):
            break
        start, key, kind = end, np.uint64(14695981039346656037), kinds[points[end]] & _RUN
        while end < len(points) and kinds[points[end]] & _RUN == kind:
            key = (key ^ np.uint64(points[end])) * np.uint64(1099511628211)
            end += 1
        key ^= key >> np.uint64(32)
        mask = len(table) - 1
        slot = np.int64(key & np.uint64(mask))
        number = table[slot]
        while number >= 0:
            if hashes[number] == key and lengths[number] == end - start:
                i, first = 0, starts[number]
                while i < end - start and points[first + i] == points[start + i]:
                    i += 1
                if i == end - start:
                    break
            slot = (slot + 1) & mask
            number = table[slot]
        if number < 0:
            number = distinct
            table[slot], hashes[number] = number, key
            starts[number], lengths[number], counts[number] = start, end - start, 0
            distinct += 1
            if 2 * distinct > len(table):
                table = _rehashed(hashes[:distinct])
        ids[tokens] = number
        counts[number] += 1
        tokens += 1
    return ids[:tokens].copy(), starts[:distinct].copy(), lengths[:distinct].copy(), counts[:distinct].copy()


@numba.njit(cache=True, nogil=True)
def _rehashed(hashes: np.ndarray) -> np.ndarray:
    """A table of the numbers of distinct tokens with four times as many slots."""
    table = np.full(2 * table_size(len(hashes)), -1, np.int32)
    mask = len(table) - 1
    for number in range(len(hashes)):
        slot = np.int64(hashes[number] & np.uint64(mask))
        while table[slot] >= 0:
            slot = (slot + 1) & mask
        table[slot] = number
    return table
