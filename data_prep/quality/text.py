"""Signals of text files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_prep.quality import shared
from data_prep.quality.group import Group, Value, fraction
from data_prep.quality.view import View

SIGNALS = Group(shared.SIGNALS)

STOP_WORDS = frozenset(
    word
    for line in (Path(__file__).parent / "stopwords.txt").read_text("utf-8").splitlines()
    if not line.startswith("#")
    for word in line.split()
)
_SENTENCE = re.compile(r"\b[^.!?。！？؟]+[.!?。！？؟]*")
_LINK = re.compile(r"\(https?://")
_HEX_LITERAL = re.compile(r"0(?<=\b0)[xX][0-9a-fA-F]+\b")
_READ_MORE = (
    *("...", "…", "全文", "详情", "详细", "更多"),
    *("المزيد", "تفاصيل", "اقرأ المزيد"),
    *("もっと", "詳細", "もっと読む"),
)
RELATED_NAMES = ("readme", "notes", "todo", "description", "cmakelists")
_BULLET_RANGES = (range(0x25A0, 0x25B0), range(0x25C6, 0x25CC), range(0x25CF, 0x25D7))
_BULLETS = (
    *"\u2022\u2023\u2043\u204c\u204d\u2219\u25d8\u25d9\u25e2\u25e3\u25e4\u25e5\u25e6\u25ef\u2611\u2612\u29be\u2b1b\u2b1c\u2b1e\u2b1f\u2b24",
    *(chr(point) for points in _BULLET_RANGES for point in points),
)


@SIGNALS.signal
def frac_chars_curly_bracket(view: View) -> Value:
    """Curly brackets among all characters."""
    return fraction(view.text.count("{") + view.text.count("}"), len(view.text)) or 0.0


@SIGNALS.signal
def num_sentences(view: View) -> Value:
    """Sentences: runs that a full stop, an exclamation or a question mark ends."""
    return sum(1 for _ in _SENTENCE.finditer(view.text))


@SIGNALS.signal
def num_chars_sentence_length_mean(view: View) -> Value:
    """Mean characters between sentence ends, line ends counting as such. No threshold uses it."""
    ends = sum(view.characters.get(mark, 0) for mark in ".?!\n")
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
    ends = sum(line.rstrip().rstrip("]】)>》").endswith(_READ_MORE) for line in view.lines)
    return fraction(ends, len(view.lines))


@SIGNALS.signal
def frac_lines_start_with_bullet(view: View) -> Value:
    """Lines that start with a Unicode bullet."""
    return fraction(sum(line.lstrip().startswith(_BULLETS) for line in view.lines), len(view.lines))


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
    counts = Counter(view.stripped_lines)
    return fraction(sum(count for count in counts.values() if count > 1), counts.total())


@SIGNALS.signal
def frac_chars_dupe_lines(view: View) -> Value:
    """Characters of lines that occur at least twice, indentation left out."""
    counts = Counter(view.stripped_lines)
    return fraction(
        sum(len(line) * count for line, count in counts.items() if count > 1),
        sum(len(line) * count for line, count in counts.items()),
    )


@SIGNALS.signal
def frac_chars_hyperlink_html_tag(view: View) -> Value:
    """Links in round brackets and HTML tags among all characters."""
    links = sum(map(link_length, view.text.split())) if "(http" in view.text else 0
    tags = sum(map(tags_length, view.lines)) if ">" in view.text else 0
    return fraction(links + tags, len(view.text))


def link_length(word: str) -> int:
    r"""Length of the match of ``\(https?://\S+\)`` in `word`, in linear time."""
    opener = _LINK.search(word)
    end = word.rfind(")")
    return end + 1 - opener.start() if opener and end > opener.end() else 0


def tags_length(line: str) -> int:
    """Length of all matches of ``<.*?>`` in `line`, in linear time."""
    total = end = 0
    while (start := line.find("<", end)) >= 0 and (end := line.find(">", start) + 1):
        total += end - start
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
