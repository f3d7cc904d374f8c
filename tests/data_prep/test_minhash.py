from __future__ import annotations

import importlib.util
import pathlib
import random

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core import caching

from data_prep import minhash
from data_prep.minhash import Scheme

ROOT = pathlib.Path(__file__).parents[2]
TEXTS = st.lists(
    st.sampled_from([b"a", b"bb", b"c3_", "é".encode(), "日本".encode(), b"+", b" ", b"\n", b"\xff", b"\x80"])
)
MASK = (1 << 64) - 1


def mix64(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def reference_shingles(tokens: list[bytes], ngram: int) -> list[int]:
    """The documented hash once more, in plain Python."""
    values = []
    for token in tokens:
        value = 0
        for byte in token:
            value = (value * 0x9E3779B97F4A7C15 + byte + 1) & MASK
        values.append(mix64(value))
    grams = [values[i : i + ngram] for i in range(max(len(values) - ngram + 1, 1))] if values else []
    found = []
    for gram in grams:
        value = 0
        for token in gram:
            value = (value * 0xD6E8FEB86659FD93 + token) & MASK
        found.append(mix64(value) >> 32)
    return list(dict.fromkeys(found))


def without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minhash, "compiled", lambda: None)


def test_words_are_runs_of_letters_digits_and_non_ascii_bytes() -> None:
    text = "def  naïve_f1(x):\n\treturn x+1  # 日本 x"
    words = [word.encode() for word in ["def", "naïve_f1", "x", "return", "x", "1", "日本", "x"]]
    assert minhash.shingles(text, Scheme(ngram=5)).tolist() == reference_shingles(words, 5)
    assert minhash.shingles(text, Scheme(ngram=2)).tolist() == reference_shingles(words, 2)


def test_characters_are_code_points() -> None:
    text = "é 日\na"
    characters = [character.encode() for character in text]
    scheme = Scheme(ngram=2, tokens="character")
    assert minhash.shingles(text, scheme).tolist() == reference_shingles(characters, 2)


def test_a_text_shorter_than_a_shingle_is_one_and_one_without_tokens_has_none() -> None:
    assert minhash.shingles("a b, c\nd", Scheme()).tolist() == reference_shingles([b"a", b"b", b"c", b"d"], 5)
    for text in ("", "+-*/ \n"):
        assert minhash.shingles(text, Scheme()).tolist() == []
        assert (minhash.signatures([text], Scheme()) == minhash.MAX_HASH).all()
    assert minhash.signatures([], Scheme()).shape == (0, 2048)


def test_unknown_tokeniser() -> None:
    with pytest.raises(ValueError, match="word, character, not 'words'"):
        Scheme(tokens="words")


@settings(max_examples=60)
@given(TEXTS.map(b"".join), st.integers(1, 9), st.integers(1, 6), st.sampled_from(["word", "character"]))
def test_signatures_are_datasketchs_own(text: bytes, seed: int, ngram: int, tokens: str) -> None:
    scheme = Scheme(num_perm=48, ngram=ngram, tokens=tokens, seed=seed)
    hashes = minhash.shingles(text, scheme)
    reference = MinHash(num_perm=48, seed=seed, hashfunc=lambda value: value, scheme="affine32")
    reference.update_batch(hashes.tolist())
    sketch = minhash.signatures([text], scheme)[0]
    np.testing.assert_array_equal(sketch, reference.hashvalues)
    with pytest.MonkeyPatch.context() as monkeypatch:
        without_numba(monkeypatch)
        assert minhash.shingles(text, scheme).tolist() == hashes.tolist()
        np.testing.assert_array_equal(minhash.signatures([text], scheme)[0], sketch)


def test_arrow_slices_and_nulls() -> None:
    array = pa.array(["x y", "one two three four five six", None, "", "a b"], pa.large_string())
    scheme = Scheme(num_perm=32)
    expected = minhash.signatures(["one two three four five six", "", ""], scheme)
    np.testing.assert_array_equal(minhash.signatures(array.slice(1, 3), scheme), expected)
    np.testing.assert_array_equal(minhash.signatures(array.cast(pa.string()).slice(1, 3), scheme), expected)


def test_files_of_eight_megabytes() -> None:
    numbers = b" ".join(b"%d" % n for n in np.random.default_rng(0).integers(0, 10**9, 820_000))[:8_000_000]
    texts = [b"word " * 1_600_000, numbers, b"x" * 8_000_000]
    sketches = minhash.signatures(texts, Scheme(num_perm=2))
    found = [minhash.shingles(text, Scheme()) for text in texts]
    assert [len(hashes) for hashes in found[::2]] == [1, 1] and 790_000 < len(found[1]) < 820_000
    words = numbers.split()
    halves = minhash.signatures([b" ".join(words[:400_000]), b" ".join(words[399_996:])], Scheme(num_perm=2))
    np.testing.assert_array_equal(sketches[1], halves.min(0))  # every 5-gram is in one of them


def edited(rng: random.Random, length: int, replaced: int) -> tuple[str, str]:
    """A text of random words, and a copy in which some words far from each other are others."""
    original = [f"w{rng.randrange(10**9)}" for _ in range(length)]
    copy = list(original)
    for i in range(replaced):
        copy[(2 * i + 1) * length // (2 * replaced)] = f"v{i}"
    return " ".join(original), " ".join(copy)


def word_jaccard(a: str, b: str) -> float:
    """Of the 5-grams themselves, no hash in between."""
    x, y = (set(zip(*(text.split()[i:] for i in range(5)), strict=False)) for text in (a, b))
    return len(x & y) / len(x | y)


@pytest.mark.parametrize("length, replaced", [(400, 0), (400, 1), (300, 9), (1000, 80)])
def test_jaccard_and_its_estimate(length: int, replaced: int) -> None:
    a, b = edited(random.Random(length), length, replaced)
    exact = word_jaccard(a, b)
    assert minhash.jaccard(*(minhash.shingles(text, Scheme()) for text in (a, b))) == exact
    x, y = minhash.signatures([a, b], Scheme())
    assert abs((x == y).mean() - exact) <= 4 * (exact * (1 - exact) / 2048) ** 0.5


@pytest.mark.parametrize(
    "length, replaced, found", [(8000, 2, True), (1000, 0, True), (1000, 12, False), (300, 9, False)]
)
def test_default_bands_meet_near_copies_only(length: int, replaced: int, found: bool) -> None:
    for seed in range(3):
        a, b = edited(random.Random(seed), length, replaced)
        assert word_jaccard(a, b) > 0.995 if found else word_jaccard(a, b) < 0.9
        x, y = minhash.band_hashes(minhash.signatures([a, b], Scheme()), 16)
        assert bool((x == y).any()) is found


def test_pairs_are_those_of_datasketchs_lsh() -> None:
    rng = random.Random(0)
    texts = [text for replaced in range(0, 40, 4) for text in edited(rng, 400, replaced)]
    sketches = minhash.signatures(texts, Scheme(num_perm=64, seed=3))
    hashes = minhash.band_hashes(sketches, 8)
    assert len(np.unique(hashes[::2])) == hashes[::2].size  # the number of the band is part of the hash
    index = MinHashLSH(num_perm=64, params=(8, 8))
    for i, sketch in enumerate(sketches):
        index.insert(i, MinHash(num_perm=64, seed=3, hashvalues=sketch, scheme="affine32"))
    for i, sketch in enumerate(sketches):
        theirs = index.query(MinHash(num_perm=64, seed=3, hashvalues=sketch, scheme="affine32"))
        assert sorted(theirs) == [j for j in range(len(texts)) if (hashes[i] == hashes[j]).any()]


def test_s_curve_matches_simulation() -> None:
    rng = np.random.default_rng(0)
    for similarity, probability in minhash.s_curve(8, 4).items():
        agree = rng.random((20_000, 8, 4)) < float(similarity)
        assert abs(agree.all(2).any(1).mean() - probability) < 0.01
    assert minhash.s_curve(16, 128)["0.98"] == pytest.approx(0.714, abs=0.001)


def test_compiles_where_no_cache_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed read-only and without a home: slower to start, nothing else."""
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    spec = importlib.util.spec_from_file_location("uncached_kernels", ROOT / "data_prep" / "kernels.py")
    assert spec is not None and spec.loader is not None
    kernels = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kernels)
    text, word = np.frombuffer(b"a b c", np.uint8), minhash.TOKENISERS["word"]
    assert kernels.shingles(text, *word, 2).tolist() == minhash.shingles("a b c", Scheme(ngram=2)).tolist()
