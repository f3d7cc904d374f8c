from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter

import hypothesis
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from data_prep.quality import tokens
from data_prep.quality.code import adds_literals
from data_prep.quality.encoded import encoded_data
from data_prep.quality.ngrams import DUPLICATE_SIZES, TOP_SIZES, ngram_statistics
from data_prep.quality.text import link_length, tags_length
from data_prep.quality.words import normalised, tokenise

FEW_WORDS = st.lists(st.sampled_from(["a", "bb", "ccc", "b", "a1"]), max_size=60)


def disjoint(positions: list[int], n: int) -> int:
    count = free = 0
    for position in positions:
        if position >= free:
            count, free = count + 1, position + n
    return count


@given(FEW_WORDS)
def test_ngram_statistics_equal_plain_counting(words: list[str]):
    found = ngram_statistics(tokens.code_points(" ".join(words)))
    assert (found.words, found.distinct) == (len(words), len(set(words)))
    assert found.characters == sum(map(len, words))
    assert sorted(found.word_counts.tolist()) == sorted(Counter(words).values())
    for n in (*TOP_SIZES, *DUPLICATE_SIZES):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        counts = Counter(grams)
        if n in TOP_SIZES:
            gram, count = counts.most_common(1)[0] if counts else ((), 0)  # of equal counts the first inserted
            size = len("".join(gram))
            apart = disjoint([i for i, other in enumerate(grams) if other == gram], n)
            assert found.top[n] == (size * count if count > 1 else 0)
            assert found.top_disjoint[n] == (size * apart if apart > 1 else 0)
        else:
            covered = {i + k for i, gram in enumerate(grams) if counts[gram] > 1 for k in range(n)}
            assert found.duplicate[n] == sum(len(words[i]) for i in covered)


@given(st.text() | st.text(st.characters(max_codepoint=127)) | st.text("aB_.\t \x08\x1b\x1c\x7f\n…Ａ（", max_size=40))
def test_words_equal_a_line_by_line_normalisation(text: str):
    expected = []
    for line in text.split("\n"):
        line = re.sub("[\x00-\x07\x0e-\x1a\x1c-\x1f\u202c]", "", line).replace("\u2009", " ").replace("\u200b", " ")
        marks = string.punctuation + "".join(chr(ord(mark) + 0xFEE0) for mark in string.punctuation)
        line = re.sub(f"[{re.escape(marks)}。、《》【】「」“”‘’]", " ", line).replace("\uffe5", "\u00a5")
        line = unicodedata.normalize("NFKC", re.sub(r"\s+", " ", line.lower().strip()))
        expected += re.findall(r"\w+|[^\w\s]+", line)
    plain = normalised(tokens.code_points(text))
    assert tokenise(tokens.text_of(plain)) == expected
    found = ngram_statistics(plain)
    assert (found.words, found.characters) == (len(expected), sum(map(len, expected)))
    assert found.word_counts.tolist() == list(Counter(expected).values())


@given(st.text("ab_1.é \t\x1c\u2003\n\r;{") | st.text())
def test_lines_as_integers_equal_those_of_plain_counting(text: str):
    points, lines = tokens.code_points(text), text.split("\n")
    squeezed = Counter(re.sub(r"[^\S\x1c-\x1f]", "", line) for line in lines if line.strip())
    found = tokens.squeezed_lines(points)
    assert dict(zip(found.strings(), found.counts.tolist(), strict=True)) == squeezed
    stripped = tokens.stripped_lines(points)
    expected = Counter(filter(None, map(str.strip, lines)))
    assert dict(zip(stripped.strings(), stripped.counts.tolist(), strict=True)) == expected
    assert stripped.lengths.tolist() == list(map(len, expected))
    for line, letters in zip(found.strings(), found.letters(9).tolist(), strict=True):
        plain, marks = sum(map(str.isalnum, line)), sum(character in tokens.MARKS for character in line)
        assert letters == (min(plain, 10) if plain in (0, len(line) - marks) else 10)
    assert tokens.line_lengths(points).tolist() == list(map(len, re.findall(r"[^\n]*\n|[^\n]+", text)))
    assert tokens.lines_of_many_words(points, 2) == sum(len(tokenise(line)) > 2 for line in lines)
    assert [text[start:end] for start, end in tokens.long_words(points, 3)] == [w for w in text.split() if len(w) > 2]


@given(st.text('a1_ \n.?!。é²"') | st.text())
def test_counts_and_sentences_equal_plain_ones(text: str):
    points = tokens.code_points(text)
    assert tokens.counts(points) == tuple(sum(map(of, text)) for of in (str.isalpha, str.isdigit, str.isspace))
    assert tokens.sentences(points) == len(re.findall(r"\b[^.!?。！？؟]+[.!?。！？؟]*", text))
    assert tokens.text_of(points) == text


def test_many_distinct_words_are_told_apart():
    names = [f"w{i * i}" for i in range(20_000)] * 2
    found = tokens.words(tokens.code_points(" ".join(names)))
    assert found.strings() == names[:20_000]
    assert found.ids.tolist() == [*range(20_000)] * 2
    assert set(found.counts.tolist()) == {2}


@given(st.text("=\"'+ab \t\n", max_size=30))
def test_string_concatenation_equals_the_quadratic_expression(line: str):
    pattern = r"=\s*[\"'].+?[\"']\s*\+\s*[\"'].+?[\"']"
    if "\n" not in line:  # it is asked about single lines
        assert adds_literals(line) == bool(re.search(pattern, line))


@given(st.text("<>ab \n", max_size=30), st.text("(http://:s)a", max_size=40))
def test_lengths_of_tags_and_links_equal_the_quadratic_expressions(text: str, word: str):
    assert tags_length(text) == sum(map(len, re.findall("<.*?>", text)))
    match = re.search(r"\(https?://\S+\)", word)
    assert link_length(word) == (len(match[0]) if match else 0)


def plain_encoded_data(text: str) -> bool:
    patterns = (
        r"[\nA-Za-z0-9+/=]{64,}",
        r"(?:\b(?:0x|\\x)?[0-9a-fA-F][0-9a-fA-F](?:,|\b\s*)){8,}",
        r"(?:\\u[0-9a-fA-F]{4}){8,}",
    )
    lengths = [len(match[0]) for pattern in patterns for match in regex.finditer(pattern, text)]
    return max(lengths, default=0) > 1024 or sum(lengths) > 0.5 * len(text)


PIECES = ["0x", "\\x", "ab", "0F", ",", " ", "\u00a0", "é", "_", "x", "\\u12ab", "\n", "abcdefgh" * 8, "zz"]


@hypothesis.settings(max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_encoded_data_equals_a_full_search(text: str):
    assert encoded_data(text, tokens.code_points(text)) == plain_encoded_data(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\n" * 50, False),
        ("A" * 1025, True),
        ("k = '" + "0x1f," * 300 + "'", True),
        ("\\u00e9" * 40, True),
        ("two words of sixty-three " + "a" * 63 + " " * 200, False),
    ],
)
def test_encoded_data(text: str, expected: bool):
    assert encoded_data(text, tokens.code_points(text)) == expected


def test_pairs_of_ideographs_are_words_in_chinese_texts_only():
    def words(text: str, language: str | None = None) -> list[str]:
        return tokenise(tokens.text_of(normalised(tokens.code_points(text), language)))

    assert words("读取配置表 JSON文件。", "zh") == ["读取", "配置", "表", "json", "文件"]
    assert words("读取 JSON文件。") == ["读取", "json文件"]
