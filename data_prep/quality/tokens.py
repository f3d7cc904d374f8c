"""Words and lines of a text as integers, found and numbered by compiled loops."""

from __future__ import annotations

import dataclasses
import functools

import numba
import numpy as np

SPACE, _WORD, _LETTER, _SQUEEZED, _KNOWN = 1, 2, 4, 8, 16
_RUN = SPACE | _WORD  # neighbours that agree in these are of one token
_LF = 10
_INFORMATION_SEPARATORS = "\x1c\x1d\x1e\x1f"  # white space for `str`, but not for the released filter's lines
_KINDS = np.zeros(0x110000, np.uint8)  # of each code point that has occurred so far
_LINES = np.full(0x110000, _WORD, np.uint8)  # by these kinds a token is what stands between two LFs
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
        return self.points.tobytes().decode("ascii" if self.points.dtype == np.uint8 else "utf-32-le", "surrogatepass")

    def strings(self, numbers: np.ndarray | slice = slice(None)) -> list[str]:
        """The distinct tokens of these numbers, by default all."""
        starts = self.starts[numbers]
        ends = (starts + self.lengths[numbers]).tolist()
        return [self._text[start:end] for start, end in zip(starts.tolist(), ends, strict=True)]

    def letters(self, most: int) -> np.ndarray:
        """Letters and digits in each distinct token, where there are more than `most` not all: int64 [distinct]."""
        return _letters(self.points, self.starts, self.lengths, kinds(self.points), most)


def code_points(text: str) -> np.ndarray:
    """uint8 [characters] where all are ASCII, uint32 [characters] elsewhere; surrogates are kept."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def words(text: str) -> Tokens:
    r"""Runs of word characters (``\w``) and runs of anything else but white space."""
    points = code_points(text)
    return Tokens(points, *_number(points, kinds(points)))


def squeezed_lines(text: str) -> Tokens:
    """Lines that are not blank, white space removed: as the `regex` module has it, without U+001C to U+001F."""
    points = code_points(text)
    squeezed = _squeeze(points, kinds(points))
    return Tokens(squeezed, *_number(squeezed, _LINES))


def lines_of_many_words(text: str, most: int) -> int:
    """Lines of more than `most` words, as `words` has them."""
    points = code_points(text)
    return _lines_of_many_words(points, kinds(points), most)


def line_lengths(text: str) -> np.ndarray:
    """Characters of each line, its LF included: int64 [lines]. A trailing LF opens no further line."""
    return _line_lengths(code_points(text))


def characters(text: str) -> dict[str, int]:
    """How often each character occurs, in order of code points."""
    points = code_points(text)
    counts = _histogram(points, 128 if points.dtype == np.uint8 else int(points.max()) + 1)
    values = np.flatnonzero(counts)
    return dict(zip(map(chr, values.tolist()), counts[values].tolist(), strict=True))


def _kind(character: str) -> int:
    kind = _KNOWN | SPACE * character.isspace() | _LETTER * character.isalnum()
    kind |= _WORD * (character.isalnum() or character == "_")
    return kind | _SQUEEZED * (character.isspace() and character not in _INFORMATION_SEPARATORS)


_KINDS[:128] = [_kind(chr(point)) for point in range(128)]


def kinds(points: np.ndarray) -> np.ndarray:
    """A table in which the kinds of all `points` stand."""
    if points.dtype != np.uint8:
        for point in np.unique(points[_KINDS[points] == 0]).tolist():
            _KINDS[point] = _kind(chr(point))
    return _KINDS


@numba.njit(cache=True, nogil=True)
def _histogram(points: np.ndarray, size: int) -> np.ndarray:
    counts = np.zeros(size, np.int64)
    for point in points:
        counts[point] += 1
    return counts


@numba.njit(cache=True, nogil=True)
def _line_lengths(points: np.ndarray) -> np.ndarray:
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
def _letters(points: np.ndarray, starts: np.ndarray, lengths: np.ndarray, kinds: np.ndarray, most: int) -> np.ndarray:
    letters = np.zeros(len(starts), np.int64)
    for token in range(len(starts)):
        for i in range(starts[token], starts[token] + lengths[token]):
            letters[token] += kinds[points[i]] & _LETTER != 0
            if letters[token] > most:
                break
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
def table_size(entries: int) -> int:
    """Slots of a hash table: a power of two, at least twice its entries."""
    size = 4
    while size < 2 * entries:
        size *= 2
    return size


@numba.njit(cache=True, nogil=True)
def _number(points: np.ndarray, kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The other fields of `Tokens`: runs of what is no white space by `kinds`, each of one kind."""
    tokens, previous = 0, SPACE
    for point in points:
        kind = kinds[point] & _RUN
        tokens += kind != SPACE and kind != previous
        previous = kind
    ids, hashes = np.empty(tokens, np.int32), np.empty(tokens, np.uint64)
    starts, lengths, counts = np.empty(tokens, np.int64), np.empty(tokens, np.int64), np.zeros(tokens, np.int64)
    mask = table_size(tokens) - 1
    table = np.full(mask + 1, -1, np.int32)
    distinct, end = 0, 0
    for token in range(tokens):
        while kinds[points[end]] & SPACE:
            end += 1
        start, key, kind = end, np.uint64(14695981039346656037), kinds[points[end]] & _RUN
        while end < len(points) and kinds[points[end]] & _RUN == kind:
            key = (key ^ np.uint64(points[end])) * np.uint64(1099511628211)
            end += 1
        key ^= key >> np.uint64(32)
        slot = np.int64(key & np.uint64(mask))
        while table[slot] >= 0:
            number = table[slot]
            if hashes[number] == key and lengths[number] == end - start:
                i, first = 0, starts[number]
                while i < end - start and points[first + i] == points[start + i]:
                    i += 1
                if i == end - start:
                    break
            slot = (slot + 1) & mask
        if table[slot] < 0:
            table[slot] = distinct
            hashes[distinct], starts[distinct], lengths[distinct] = key, start, end - start
            distinct += 1
        ids[token] = table[slot]
        counts[ids[token]] += 1
    return ids, starts[:distinct].copy(), lengths[:distinct].copy(), counts[:distinct].copy()
