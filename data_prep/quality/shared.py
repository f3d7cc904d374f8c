"""Signals that code, data and text files share."""

from __future__ import annotations

from functools import partial

from data_prep.quality.group import Group, Value, fraction
from data_prep.quality.ngrams import DUPLICATE_SIZES, TOP_SIZES
from data_prep.quality.view import View

SIGNALS = Group()


@SIGNALS.signal
def num_words(view: View) -> Value:
    """Normalised words."""
    return view.words.words


@SIGNALS.signal
def num_chars(view: View) -> Value:
    """Characters of the file."""
    return len(view.text)


@SIGNALS.signal
def num_lines(view: View) -> Value:
    """Lines, blank ones included."""
    return len(view.line_lengths)


@SIGNALS.signal
def mean_word_length(view: View) -> Value:
    """Mean characters of a normalised word."""
    return fraction(view.words.characters, view.words.words)


@SIGNALS.signal
def frac_words_unique(view: View) -> Value:
    """Distinct normalised words among all."""
    return fraction(view.words.distinct, view.words.words)


def frac_chars_top_ngram(view: View, n: int) -> Value:
    """Characters of words that the most frequent n-gram takes, its overlapping occurrences counted once."""
    return fraction(view.words.top_disjoint[n], view.words.characters) or 0.0


def frac_chars_dupe_ngrams(view: View, n: int) -> Value:
    """Characters of words covered by n-grams that occur at least twice."""
    return fraction(view.words.duplicate[n], view.words.characters) or 0.0


for _n in TOP_SIZES:
    SIGNALS[f"frac_chars_top_{_n}grams"] = partial(frac_chars_top_ngram, n=_n)
for _n in DUPLICATE_SIZES:
    SIGNALS[f"frac_chars_dupe_{_n}grams"] = partial(frac_chars_dupe_ngrams, n=_n)


@SIGNALS.signal
def frac_chars_replacement_symbols(view: View) -> Value:
    """Characters U+FFFD, the trace of a wrong decoding."""
    return fraction(view.text.count("\ufffd"), len(view.text))


@SIGNALS.signal
def frac_chars_alphabet(view: View) -> Value:
    """Letters of any script among the visible characters."""
    return fraction(view.letters, view.visible) or 0.0


@SIGNALS.signal
def frac_chars_digital(view: View) -> Value:
    """Digits of any script among the visible characters; 1 where none is visible."""
    return fraction(view.digits, view.visible) if view.visible else 1.0


@SIGNALS.signal
def frac_chars_whitespace(view: View) -> Value:
    """White space; 1 for an empty file."""
    return fraction(len(view.text) - view.visible, len(view.text)) if view.text else 1.0
