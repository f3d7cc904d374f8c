"""Words as the rules count them."""

from __future__ import annotations

import functools
import re
import string
import unicodedata

from data_prep.quality.tokens import characters

_WORD = re.compile(r"\w+|[^\w\s]+")

_IDEOGRAPHS = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]{1,2}")

_DELETED = [*range(0x00, 0x08), *range(0x0E, 0x1B), *range(0x1C, 0x20), 0x202C]
_ALIASES = {
    "\u3002": ".",
    "\u3001": ",",
    "\u300a": '"',
    "\u300b": '"',
    "\u3010": "[",
    "\u3011": "]",
    "\u300c": "'",
    "\u300d": "'",
    "\u201c": '"',
    "\u201d": '"',
    "\u2018": "'",
    "\u2019": "'",
    "\uffe5": "\u00a5",
}


def _normalisation() -> dict[int, str | None]:
    table: dict[int, str | None] = dict.fromkeys(_DELETED)
    table |= {0x2009: " ", 0x200B: " "}
    spaces = dict.fromkeys(map(ord, string.punctuation), " ")
    full_width = {ord(mark) + 0xFEE0: " " for mark in string.punctuation}
    aliases = {ord(mark): " " if plain in string.punctuation else plain for mark, plain in _ALIASES.items()}
    return table | spaces | full_width | aliases


_NORMALISATION = _normalisation()
# The same with lower-casing for ASCII texts, as bytes.translate wants it: many times faster than str.translate.
_ASCII = bytes(ord((_NORMALISATION.get(point) or chr(point)).lower()) for point in range(128)) + bytes(128)
# For other texts the same on their UTF-8, whose bytes from 128 on are left alone, and the rest where it occurs.
_UTF8 = bytes(ord(_NORMALISATION.get(point) or chr(point)) for point in range(128)) + bytes(range(128, 256))
_OTHERS = {chr(point): replacement or "" for point, replacement in _NORMALISATION.items() if point >= 128}
_FEW = 16  # characters to replace one after the other
_ASCII_DELETED = bytes(point for point in _DELETED if point < 128)


def _compatible(text: str, characters: set[str]) -> str:
    """NFKC of a text of some of these characters: one by one where there are few that it changes, which is faster."""
    changed = {character: form for character in characters if (form := _form(character)) != character}
    if None in changed.values() or len(changed) > _FEW:
        return unicodedata.normalize("NFKC", text)
    for character, form in changed.items():
        text = text.replace(character, form or "")
    return text


@functools.lru_cache(maxsize=1 << 14)
def _form(character: str) -> str | None:
    """The compatibility form of a character, None where it depends on what stands beside it, as with marks and jamo."""
    form = unicodedata.normalize("NFKC", character)
    combines = any(unicodedata.category(c)[0] == "M" or "\u1100" <= c <= "\u11ff" for c in (character, form[:1]))
    return None if combines else form


def tokenise(text: str) -> list[str]:
    r"""Runs of word characters (``\w``) and runs of anything else but white space, in order."""
    return _WORD.findall(text)


def spaced(text: str) -> str:
    """Chinese with spaces between words, for which pairs of ideographs stand: no dictionary needed."""
    return _IDEOGRAPHS.sub(r" \g<0> ", text)


def normalised(text: str, language: str | None = None) -> str:
    """Lower-case words between white space: ``a.b_c (D)`` gives ``a b c d``; compatibility forms are unified (NFKC).

    NFKC comes last, so it may bring punctuation back (… becomes three dots), which then is a word of its own. Chinese
    (`language` zh) has no spaces between words: see `spaced`.
    """
    if text.isascii():
        return text.encode("ascii").translate(_ASCII, _ASCII_DELETED).decode("ascii")
    plain = text.encode("utf-8", "surrogatepass").translate(_UTF8, _ASCII_DELETED).decode("utf-8", "surrogatepass")
    found = characters(plain)
    for character in found.keys() & _OTHERS.keys():
        plain = plain.replace(character, _OTHERS[character])
    plain = _compatible(plain.lower(), set("".join(found).lower()))
    return spaced(plain) if language == "zh" else plain
