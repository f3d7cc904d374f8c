"""Signals of text files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_prep.quality import shared
from data_prep.quality.group import Group, Value, fraction
from data_prep.quality.tokens import sentences
from data_prep.quality.view import View

SIGNALS = Group(shared.SIGNALS)

STOP_WORDS = frozenset(
    word
    for line in (Path(__file__).parent / "stopwords.txt").read_text("utf-8").splitlines()
    if not line.startswith("#")
    for word in line.split()
)
_LINK = re.compile(r"\(https?://")
_HEX_LITERAL = re.compile(r"0(?<=\b0)[xX][0-9a-fA-F]+\b")
_READ_MORE = re.compile(
    r"(?:\.\.\.|…|全文|详情|详细|更多|المزيد|تفاصيل|もっと|詳細|もっと読む)[\]】)>》]*+[^\S\n]*+(?:\n|\Z)"
)
RELATED_NAMES = ("readme", "notes", "todo", "description", "cmakelists")
_BULLETS = (
    "\u2022\u2023\u2043\u204c\u204d\u2219\u25a0-\u25af\u25c6-\u25cb\u25cf-\u25d6\u25d8\u25d9\u25e2-\u25e6\u25ef\u2611\u2612"
    "\u29be\u2b1b\u2b1c\u2b1e\u2b1f\u2b24"
)
_BULLET = re.compile(rf"\n[^\S\n]*+[{_BULLETS}]")  # searched from the LF, which is quick to find


@SIGNALS.signal
def frac_chars_curly_bracket(view: View) -> Value:
    """Curly brackets among all characters."""
    return fraction(view.text.count("{") + view.text.count("}"), len(view.text)) or 0.0


@SIGNALS.signal
def num_sentences(view: View) -> Value:
    """Sentences: runs that a full stop, an exclamation or a question mark ends."""
    return sentences(view.points)


@SIGNALS.signal
def num_chars_sentence_length_mean(view: View) -> Value:
    """Mean characters between sentence ends, line ends counting as such. No threshold uses it."""
    ends = sum(map(view.text.count, ".?!\n"))
    return fraction(len(view.text) - ends, ends + 1)


@SIGNALS.signal
def frac_words_full_bracket(view: View) -> Value:
    """Words that are a single lenticular bracket."""
    return share_of_words(view, lambda word: word in ("【", "】"))


def share_of_words(view: View, predicate: Callable[[str], bool]) -> Value:
    """Words and punctuation runs for which `predicate` holds among all."""
    words = view.raw_words
    return fraction(sum(count for word, count in words.items() if predicate(word)), sum(words.values()))


@SIGNALS.signal
def frac_words_all_caps(view: View) -> Value:
    """Words in capitals among all words and punctuation runs."""
    return share_of_words(view, str.isupper)


@SIGNALS.signal
def frac_lines_end_with_readmore(view: View) -> Value:
    """Lines that end in an ellipsis or in "read more" in one of four languages, closing brackets aside."""
    return fraction(len(_READ_MORE.findall(view.text)), len(view.line_lengths))


@SIGNALS.signal
def frac_lines_start_with_bullet(view: View) -> Value:
    """Lines that start with a Unicode bullet."""
    return fraction(len(_BULLET.findall(f"\n{view.text}")), len(view.line_lengths))


@SIGNALS.signal
def entropy_unigram(view: View) -> Value:
    """Entropy of the distribution of normalised words, in nats."""
    if not view.words.words:
        return None
    shares = view.words.word_counts / view.words.words
    return round(float(-(shares * np.log(shares)).sum()), 8)


@SIGNALS.signal
def frac_lines_dupe_lines(view: View) -> Value:
    """Lines that occur at least twice among those that are not blank."""
    counts = view.stripped_lines.counts
    return fraction(int(counts[counts > 1].sum()), int(counts.sum()))


@SIGNALS.signal
def frac_chars_dupe_lines(view: View) -> Value:
    """Characters of lines that occur at least twice, indentation left out."""
    counts = view.stripped_lines.counts
    characters = view.stripped_lines.lengths * counts
    return fraction(int(characters[counts > 1].sum()), int(characters.sum()))


@SIGNALS.signal
def frac_chars_hyperlink_html_tag(view: View) -> Value:
    """Links in round brackets and HTML tags among all characters."""
    links = sum(map(link_length, view.text.split())) if "(http" in view.text else 0
    return fraction(links + tags_length(view.text), len(view.text))


def link_length(word: str) -> int:
    r"""Length of the match of ``\(https?://\S+\)`` in `word`, in linear time."""
    opener = _LINK.search(word)
    end = word.rfind(")")
    return end + 1 - opener.start() if opener and end > opener.end() else 0


def tags_length(text: str) -> int:
    """Length of all matches of ``<.*?>`` in `text`, in linear time."""
    total = end = line_end = 0
    while (start := text.find("<", end)) >= 0:
        if start >= line_end:
            line_end = (text.find("\n", start) + 1 or len(text) + 1) - 1
        close = text.find(">", start, line_end)
        total += close + 1 - start if close >= 0 else 0
        end = close + 1 if close >= 0 else line_end
    return total


@SIGNALS.signal
def frac_chars_hex_words(view: View) -> Value:
    """Hexadecimal literals among all characters."""
    return fraction(sum(len(match[0]) for match in _HEX_LITERAL.finditer(view.text)), len(view.text))


@SIGNALS.signal
def frac_words_redpajama_stop(view: View) -> Value:
    """English stop words among all words and punctuation runs. No threshold uses it."""
    return share_of_words(view, lambda word: word.lower() in STOP_WORDS) or 0.0


@SIGNALS.signal
def cate_code_related_file_name(view: View) -> Value:
    """1 for readme, requirements, notes and the like, by the name up to its first dot. No threshold uses it."""
    stem = view.name.partition(".")[0].lower()
    return float("requirement" in stem or stem in RELATED_NAMES or view.name.lower().startswith("read.me"))
