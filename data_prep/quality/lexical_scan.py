"""The compiled loop of the default splitter: every comment and literal of a text, in linear time."""

from __future__ import annotations

import numba
import numpy as np

from data_prep.quality.tokens import SPACE

# What an opener opens. The first five are comments, the others literals.
LINE, FIRST, BLOCK, POD, TRIPLE, STRING, LONG, RAW, CHAR, REGEX = range(10)
# What must stand in front of an opener: anything, no colon, a separator, or nothing on its line.
ANYTHING, NO_COLON, SEPARATOR, LINE_END = range(4)
# What a span is.
COMMENT, DOCSTRING, TEXT, TRIPLE_TEXT, CHARACTER, PATTERN = range(6)

_INDENTATION = 256  # characters before something that must be the first thing on its line; a bound on the work
_LF, _BACKSLASH, _COLON, _SLASH, _OPEN, _CLOSE = (ord(character) for character in "\n\\:/[]")
_LONGEST_CHAR, _LONGEST_ESCAPE = 4, 9  # between the quotes of a character; behind its backslash and what that escapes
_LONGEST_CLASS, _LONGEST_REGEX = 99, 199  # items of a character class and of a regular expression


def flags(characters: str) -> np.ndarray:
    """For each ASCII character whether it is one of these, and last, the same for all others: [129]."""
    flags = np.zeros(129, np.bool_)
    flags[[ord(character) for character in characters]] = True
    return flags


_BLANK = flags(" \t\f\v")
_BEFORE_DOCSTRING = flags(" \t\f\vrRbBuUfF")
_SEPARATES = flags(";()&|")
_BEFORE_REGEX = flags("(,=:[!&|?{};+")


@numba.njit(cache=True, nogil=True)
def _is(flags, point):
    return flags[min(point, 128)]


@numba.njit(cache=True, nogil=True)
def _stands(points, at, literal):
    """Whether `literal`, which zeros fill up, stands there."""
    for i in range(len(literal)):
        if literal[i] == 0:
            return True
        if at + i >= len(points) or points[at + i] != literal[i]:
            return False
    return True


@numba.njit(cache=True, nogil=True)
def _find(points, literal, at):
    """Where `literal` next stands, -1 where nowhere."""
    for i in range(at, len(points)):
        if points[i] == literal[0] and _stands(points, i, literal):
            return i
    return -1


@numba.njit(cache=True, nogil=True)
def _end_of_line(points, at):
    while at < len(points) and points[at] != _LF:
        at += 1
    return at


@numba.njit(cache=True, nogil=True)
def _starts_line(points, at, blank):
    first = max(at - _INDENTATION, 0)
    i = at - 1
    while i >= first and _is(blank, points[i]):
        i -= 1
    return points[i] == _LF if i >= first else at < _INDENTATION


@numba.njit(cache=True, nogil=True)
def _guarded(points, at, guard, kinds):
    """Whether what must stand in front of an opener does."""
    if guard == ANYTHING or at == 0:
        return True
    before = points[at - 1]
    if guard == NO_COLON:
        return before != _COLON
    if guard == SEPARATOR:
        return kinds[before] & SPACE != 0 or _is(_SEPARATES, before)
    return before == _LF


@numba.njit(cache=True, nogil=True)
def _end_of_string(points, at, quote):
    """Behind the closing quote, or where the line or the text ends."""
    while at < len(points) and points[at] != _LF:
        if points[at] == quote:
            return at + 1
        if points[at] == _BACKSLASH:
            if at + 1 == len(points):
                return at
            at += 1
        at += 1
    return at


@numba.njit(cache=True, nogil=True)
def _end_of_long(points, at, quotes, length, escapes):
    """Behind the closing quotes, or where the text ends."""
    while at < len(points):
        if points[at] == quotes[0] and _stands(points, at, quotes):
            return at + length
        at += 2 if escapes and points[at] == _BACKSLASH else 1
    return len(points)


@numba.njit(cache=True, nogil=True)
def _end_of_char(points, at, quote):
    """Behind the closing quote of a character; -1 where it is none."""
    end = at
    if at + 1 < len(points) and points[at] == _BACKSLASH and points[at + 1] != _LF:
        end, most = at + 2, at + 2 + _LONGEST_ESCAPE
        while end < min(most, len(points)) and points[end] != quote and points[end] != _LF:
            end += 1
    else:
        while end < min(at + _LONGEST_CHAR, len(points)):
            if points[end] == quote or points[end] == _BACKSLASH or points[end] == _LF:
                break
            end += 1
        if end == at:
            return -1
    return end + 1 if end < len(points) and points[end] == quote else -1


@numba.njit(cache=True, nogil=True)
def _end_of_class(points, at):
    """Behind the bracket that closes the character class whose items start at `at`; -1 where there is none."""
    for _ in range(_LONGEST_CLASS):
        if at >= len(points) or points[at] == _CLOSE or points[at] == _LF:
            break
        if points[at] == _BACKSLASH:
            if at + 1 == len(points):
                break
            at += 1
        at += 1
    return at + 1 if at < len(points) and points[at] == _CLOSE else -1


@numba.njit(cache=True, nogil=True)
def _end_of_regex(points, at, kinds):
    """Behind the closing slash of a regular expression whose opening one is before `at`; -1 where it is none."""
    before = at - 2
    if before >= 0 and not _is(_BEFORE_REGEX, points[before]) and kinds[points[before]] & SPACE:
        before -= 1
    if before < 0 or not _is(_BEFORE_REGEX, points[before]) or at == len(points) or points[at] == ord("*"):
        return -1
    items = 0
    while items < _LONGEST_REGEX and at < len(points) and points[at] != _SLASH and points[at] != _LF:
        end = at + 1
        if points[at] == _BACKSLASH:
            end = at + 2 if at + 1 < len(points) else -1
        elif points[at] == _OPEN:
            end = _end_of_class(points, at + 1)
        if end < 0:
            break
        at, items = end, items + 1
    return at + 1 if items and at < len(points) and points[at] == _SLASH else -1


@numba.njit(cache=True, nogil=True)
def _whole_lines(points, start, end, done, blank):
    """The span, widened to whole lines where nothing else stands on them; `done` ends what is taken already."""
    first = start
    while first > done and _is(blank, points[first - 1]):
        first -= 1
    if (first == 0 or points[first - 1] == _LF) and (end == len(points) or points[end] == _LF):
        return first, min(end + 1, len(points))
    return start, end


@numba.njit(cache=True, nogil=True)
def _end_of_block(points, at, kind, closer, length):
    """Behind what closes a block, -1 where nothing does; behind the line that closes a pod, or where the text ends."""
    closer_at = _find(points, closer, at)
    if kind == POD:
        return len(points) if closer_at < 0 else _end_of_line(points, closer_at + 1)
    return -1 if closer_at < 0 else closer_at + length


@numba.njit(cache=True, nogil=True)
def _bounds(points, what, start, end, opener, length, done):
    """The second pair of bounds of a span, see `scan`; `done` ends the comment before it."""
    if what == COMMENT or what == DOCSTRING:
        return _whole_lines(points, start, end, done, _BLANK if what == COMMENT else _BEFORE_DOCSTRING)
    if what == TEXT or what == TRIPLE_TEXT:
        first, last = start + length, end - length
        return first, last if last >= first and _stands(points, last, opener) else end
    return start, end


@numba.njit(cache=True, nogil=True)
def scan(points, kinds, candidates, openers, lengths, opens, guards, closers, closer_lengths, line_openers):
    """int32 [spans, 5]: what each is, its start and end, and both once more: of comments widened to whole lines, where
    nothing else stands on them, of strings without the quotes.

    Args:
      points: uint8 or uint32 [characters].
      kinds: of code points, see `tokens.KINDS`.
      candidates: bool [129], the characters that openers start with.
      openers: uint32 [openers, longest], in the order in which they are tried, filled up with zeros.
      lengths: of the openers.
      opens, guards: of each opener what it opens and what must stand in front.
      closers, closer_lengths: of what closes a block, a pod or a literal; see `openers`.
      line_openers: whether each opener starts with one of a line comment, which it is where its closer is missing.
    """
    found = np.empty((len(points), 5), np.int32)  # what is never written to takes no memory
    missing = np.zeros(len(openers), np.bool_)
    at = spans = done = 0
    while at < len(points):
        if not _is(candidates, points[at]):
            at += 1
            continue
        what, end = -1, -1
        for o in range(len(openers)):
            if openers[o, 0] != points[at] or not _stands(points, at, openers[o]):
                continue
            if not _guarded(points, at, guards[o], kinds):
                continue
            kind, inside = opens[o], at + lengths[o]
            if kind == STRING:
                what, end = TEXT, _end_of_string(points, inside, points[at])
            elif kind == TRIPLE or kind == LONG or kind == RAW:
                what, end = TEXT, _end_of_long(points, inside, closers[o], closer_lengths[o], kind != RAW)
                if kind == TRIPLE:
                    what = DOCSTRING if _starts_line(points, at, _BEFORE_DOCSTRING) else TRIPLE_TEXT
            elif kind == CHAR:
                what, end = CHARACTER, _end_of_char(points, inside, points[at])
            elif kind == REGEX:
                what, end = PATTERN, _end_of_regex(points, inside, kinds)
            elif kind == LINE or (kind == FIRST and _starts_line(points, at, _BLANK)):
                what, end = COMMENT, _end_of_line(points, inside)
            elif kind == FIRST:
                what, end = -1, inside
            else:
                end = -1 if missing[o] else _end_of_block(points, inside, kind, closers[o], closer_lengths[o])
                what, missing[o] = COMMENT, end < 0
                if missing[o]:
                    what, end = (COMMENT, _end_of_line(points, inside)) if line_openers[o] else (-1, inside)
            if end >= 0:
                break
        if what >= 0 and end >= 0:
            first, last = _bounds(points, what, at, end, openers[o], lengths[o], done)
            found[spans, 0], found[spans, 1], found[spans, 2] = what, at, end
            found[spans, 3], found[spans, 4] = first, last
            done = last if what == COMMENT or what == DOCSTRING else done
            spans += 1
        at = max(end, at + 1)
    return found[:spans]
