from __future__ import annotations

import random

import numpy as np
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import minhash


def test_words_are_runs_of_letters_digits_and_non_ascii_bytes() -> None:
    text = "def  naïve_f1(x):\n\treturn x+1  # 日本 x"
    assert [word.decode() for word in minhash.words(text)] == ["def", "naïve_f1", "x", "return", "x", "1", "日本", "x"]


def test_shingles() -> None:
    assert minhash.shingles("a b, c(d) e f", 5) == {b"a b c d e", b"b c d e f"}
    assert minhash.shingles("a b c\nd", 5) == {b"a b c d"}  # shorter than a 5-gram: one shingle
    assert minhash.shingles("+-*/ \n", 5) == set()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["a", "bb", "c3", "é", "+"]), max_size=300).map(" ".join), st.integers(1, 9))
def test_signature_is_datasketchs_own(text: str, seed: int) -> None:
    reference = MinHash(num_perm=128, seed=seed)
    for shingle in minhash.shingles(text, 3):
        reference.update(shingle)
    sketch = minhash.signature(text, num_perm=128, ngram=3, seed=seed)
    if sketch is None:
        assert reference.is_empty()
    else:
        assert sketch.dtype == np.uint32
        np.testing.assert_array_equal(sketch, reference.hashvalues)


def edited(rng: random.Random, length: int, replaced: int) -> tuple[str, str]:
    """A text of random words, and a copy in which some words far from each other are others."""
    original = [f"w{rng.randrange(10**9)}" for _ in range(length)]
    copy = list(original)
    for i in range(replaced):
        copy[(2 * i + 1) * length // (2 * replaced)] = f"v{i}"
    return " ".join(original), " ".join(copy)


def jaccard(a: str, b: str) -> float:
    x, y = minhash.shingles(a, 5), minhash.shingles(b, 5)
    return len(x & y) / len(x | y)


def share_band(a: str, b: str) -> bool:
    x, y = (minhash.signature(text, num_perm=2048, ngram=5, seed=1) for text in (a, b))
    assert x is not None and y is not None
    return not set(minhash.band_keys(x, 16)).isdisjoint(minhash.band_keys(y, 16))


@pytest.mark.parametrize(
    "length, replaced, found", [(8000, 2, True), (1000, 0, True), (1000, 12, False), (300, 9, False)]
)
def test_default_bands_meet_near_copies_only(length: int, replaced: int, found: bool) -> None:
    for seed in range(3):
        a, b = edited(random.Random(seed), length, replaced)
        assert jaccard(a, b) > 0.995 if found else jaccard(a, b) < 0.9
        assert share_band(a, b) is found


def test_pairs_are_those_of_datasketchs_lsh() -> None:
    rng = random.Random(0)
    texts = [text for replaced in range(0, 40, 4) for text in edited(rng, 400, replaced)]
    sketches = [minhash.signature(text, num_perm=64, ngram=5, seed=3) for text in texts]
    keys = [set(minhash.band_keys(sketch, 8)) for sketch in sketches if sketch is not None]
    index = MinHashLSH(num_perm=64, params=(8, 8))
    for i, sketch in enumerate(sketches):
        index.insert(i, MinHash(num_perm=64, seed=3, hashvalues=sketch, scheme="affine32"))
    for i, sketch in enumerate(sketches):
        theirs = index.query(MinHash(num_perm=64, seed=3, hashvalues=sketch, scheme="affine32"))
        assert sorted(theirs) == [j for j in range(len(texts)) if keys[i] & keys[j]]


def test_s_curve_matches_simulation() -> None:
    rng = np.random.default_rng(0)
    for similarity, probability in minhash.s_curve(8, 4, [0.3, 0.5, 0.8]).items():
        agree = rng.random((20_000, 8, 4)) < float(similarity)
        assert abs(agree.all(2).any(1).mean() - probability) < 0.01
    assert minhash.s_curve(16, 128)["0.98"] == pytest.approx(0.714, abs=0.001)


@given(st.lists(st.tuples(st.sampled_from("abcdefghij"), st.sampled_from("abcdefghij")), max_size=15), st.randoms())
def test_components_are_those_of_flooding(edges: list[tuple[str, str]], rng: random.Random) -> None:
    expected = {node: node for edge in edges for node in edge}
    for _ in expected:
        for a, b in edges:
            expected[a] = expected[b] = min(expected[a], expected[b])
    assert minhash.components(edges) == expected
    shuffled = [edge[:: rng.choice([1, -1])] for edge in edges]
    rng.shuffle(shuffled)
    assert minhash.components(shuffled) == expected
