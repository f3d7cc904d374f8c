"""MinHash LSH over n-grams of words: signatures, band keys, connected components.

The setting of RefineCode (arXiv 2411.04905, section 2.1.1) is 5-grams, 2,048 permutations and 16 bands of 128 rows. It
meets only nearly identical files, see `s_curve`, so a pair that shares one band needs no further check.

A word is a run of ASCII letters, digits, underscores and bytes >= 0x80 of the UTF-8 text, case kept. White space and
punctuation only separate words, so re-indented or re-wrapped copies have equal shingles, and no Unicode table or
locale can change a signature.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Sequence

import numpy as np
from datasketch import MinHash

_WORD = re.compile(rb"[0-9A-Za-z_\x80-\xff]+")
_BLOCK = 64  # shingles per update: 64 x 2,048 uint32 stay in a core's cache, which is twice as fast as all at once


def words(text: str) -> list[bytes]:
    """The words of `text` in order."""
    return _WORD.findall(text.encode())


def shingles(text: str, ngram: int) -> set[bytes]:
    """The different `ngram`s of words, space-separated; a shorter text is one shingle, one without words none."""
    tokens = words(text)
    if len(tokens) < ngram:
        return {b" ".join(tokens)} if tokens else set()
    return set(map(b" ".join, zip(*(tokens[i:] for i in range(ngram)), strict=False)))


def signature(text: str, *, num_perm: int, ngram: int, seed: int) -> np.ndarray | None:
    """MinHash of the shingles of `text`, uint32 [num_perm], or None for a text without words.

    Each shingle is hashed by the first 32 bits of its SHA-1, then permuted by datasketch's affine scheme; the share of
    equal entries of two signatures estimates the Jaccard similarity of their shingle sets.
    """
    grams = list(shingles(text, ngram))
    if not grams:
        return None
    sketch = _empty_sketch(num_perm, seed).copy()
    for start in range(0, len(grams), _BLOCK):
        sketch.update_batch(grams[start : start + _BLOCK])
    return sketch.hashvalues


@functools.lru_cache(maxsize=4)
def _empty_sketch(num_perm: int, seed: int) -> MinHash:
    return MinHash(num_perm=num_perm, seed=seed, scheme="affine32")


def band_keys(signature: np.ndarray, bands: int) -> list[str]:
    """One 128-bit hex key per band: equal keys mean the same band with equal entries."""
    rows = signature.astype("<u4").reshape(bands, -1)
    return [
        hashlib.blake2b(row.tobytes(), digest_size=16, salt=band.to_bytes(16, "little")).hexdigest()
        for band, row in enumerate(rows)
    ]


def s_curve(
    bands: int, rows: int, jaccards: Sequence[float] = (0.7, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99)
) -> dict[str, float]:
    """Probability that two texts of a given Jaccard similarity share a band: 1 - (1 - J^rows)^bands."""
    return {f"{j:.2f}": round(1 - (1 - j**rows) ** bands, 6) for j in jaccards}


def components(edges: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Each id that occurs in `edges` -> the smallest id it is connected with (union-find, so in any edge order)."""
    parent: dict[str, str] = {}

    def find(x: str) -> str:
        root = x
        while parent.setdefault(root, root) != root:
            root = parent[root]
        while x != root:
            parent[x], x = root, parent[x]
        return root

    for a, b in edges:
        low, high = sorted((find(a), find(b)))
        parent[high] = low
    return {x: find(x) for x in sorted(parent)}
