"""MinHash of texts: tokens, shingles, signatures, the hashes of their bands.

The setting of RefineCode (arXiv 2411.04905, section 2.1.1) is 5-grams, 2,048 permutations and 16 bands of 128 rows. It
meets only nearly identical files, see `s_curve`, so a pair that shares one band needs no further check.

A token is, with tokens = "word", a run of ASCII letters, digits, underscores and bytes >= 0x80 of the UTF-8 text, case
kept: white space and punctuation only separate words, so re-indented or re-wrapped copies have equal shingles. With
tokens = "character" every character is a token, white space too. No Unicode table or locale can change a signature.

A shingle is a run of `ngram` tokens, each once however often it occurs; a text of fewer tokens is one shingle, and one
without tokens (empty, or of signs alone) has none. There is no limit of size. A shingle counts as equal to another by
a hash of 32 bits: with b its bytes, h the hash and all numbers modulo 2^64,

  token = mix64(sum of (b[i] + 1) TOKEN^(len - 1 - i)),  h = upper half of mix64(sum of token[i] GRAM^(n - 1 - i))

where mix64 is the finaliser of SplitMix64. Signatures are those of datasketch's scheme "affine32" for these hashes.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import pyarrow as pa

TOKEN = np.uint64(0x9E3779B97F4A7C15)
GRAM = np.uint64(0xD6E8FEB86659FD93)
MIX1, MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
MAX_HASH = np.uint32(0xFFFFFFFF)

_BYTES = np.arange(256)
_WORD = np.isin(_BYTES, list(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz")) | (_BYTES >= 0x80)
# Which bytes may begin a token, and which go on with the one before them; these are bool [256].
TOKENISERS = {"word": (_WORD, _WORD), "character": (_BYTES >= 0, (_BYTES & 0xC0) == 0x80)}
_BLOCK = 32  # shingles: in NumPy, 32 x 2,048 uint32 stay in a core's cache


@dataclasses.dataclass(frozen=True)
class Scheme:
    """How a text becomes a signature; signatures of different schemes cannot be compared.

    Raises:
      ValueError: there is no such tokeniser.
    """

    num_perm: int = 2048
    ngram: int = 5
    tokens: str = "word"
    seed: int = 1

    def __post_init__(self) -> None:
        if self.tokens not in TOKENISERS:
            raise ValueError(f"tokens must be one of {', '.join(TOKENISERS)}, not {self.tokens!r}")


def signatures(texts: pa.Array | Sequence[str | bytes], scheme: Scheme) -> np.ndarray:
    """MinHash signatures, uint32 [texts, num_perm]: the share of equal entries estimates the Jaccard similarity.

    A text (or null) without shingles has MAX_HASH everywhere.
    """
    data, offsets = _bytes(texts)
    starts, continues = TOKENISERS[scheme.tokens]
    a, b = _permutations(scheme.num_perm, scheme.seed)
    if kernels := compiled():
        return kernels.signatures(data, offsets, starts, continues, scheme.ngram, a, b)
    found = [_shingles(data[i:j], scheme) for i, j in zip(offsets[:-1], offsets[1:], strict=True)]
    return np.array([_sketch(grams, a, b) for grams in found], np.uint32).reshape(-1, scheme.num_perm)


def shingles(text: str | bytes, scheme: Scheme) -> np.ndarray:
    """Hashes of the different shingles of `text`, uint32 [shingles], in the order in which they first occur."""
    data, _ = _bytes([text])
    if kernels := compiled():
        return kernels.shingles(data, *TOKENISERS[scheme.tokens], scheme.ngram)
    return _shingles(data, scheme)


def band_hashes(signatures: np.ndarray, bands: int) -> np.ndarray:
    """One hash for each band, int64 [texts, bands]: equal hashes mean the same band with equal entries.

    Two of a thousand million texts agree in a band by chance with probability 3 % for each band.
    """
    entries = signatures.reshape(len(signatures), bands, signatures.shape[1] // bands).astype(np.uint64)
    powers = np.cumprod(np.full(entries.shape[2], GRAM, np.uint64))
    # The number of the band goes with a power that no entry has.
    hashes = (entries * powers).sum(2, dtype=np.uint64) + np.arange(1, bands + 1, dtype=np.uint64) * powers[-1] * GRAM
    return mix64(hashes).view(np.int64)


def jaccard(x: np.ndarray, y: np.ndarray) -> float:
    """Share of common shingles of two texts, from the results of `shingles`; 0 if both have none."""
    common = len(np.intersect1d(x, y, assume_unique=True))
    return common / max(len(x) + len(y) - common, 1)


def s_curve(
    bands: int, rows: int, jaccards: Sequence[float] = (0.7, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99)
) -> dict[str, float]:
    """Probability that two texts of a given Jaccard similarity share a band: 1 - (1 - J^rows)^bands."""
    return {f"{j:g}": round(1 - (1 - j**rows) ** bands, 6) for j in jaccards}


@functools.cache
def compiled() -> ModuleType | None:
    """The compiled loops; None where there is no numba: NumPy then gives the same bits ten times slower."""
    return importlib.import_module("data_prep.kernels") if importlib.util.find_spec("numba") else None


def mix64(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64, a bijection of uint64."""
    x = (x ^ (x >> np.uint64(30))) * MIX1
    x = (x ^ (x >> np.uint64(27))) * MIX2
    return x ^ (x >> np.uint64(31))


@functools.lru_cache(maxsize=4)
def _permutations(num_perm: int, seed: int) -> np.ndarray:
    from datasketch import MinHash  # here because it imports SciPy, which is slow and only signing needs it

    return MinHash(num_perm=num_perm, seed=seed, scheme="affine32").permutations  # pyright: ignore[reportReturnType]


def _bytes(texts: pa.Array | Sequence[str | bytes]) -> tuple[np.ndarray, np.ndarray]:
    """(all bytes, uint8; where each text begins and the last one ends, int64 [texts + 1]), copying nothing of Arrow."""
    if not isinstance(texts, pa.Array):
        texts = pa.array([t.encode() if isinstance(t, str) else t for t in texts], pa.large_binary())
    texts = texts.cast(pa.large_binary())
    _, offsets, data = texts.buffers()
    bounds = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1] if len(texts) else [0]
    return np.frombuffer(data or b"", np.uint8), np.asarray(bounds, np.int64)


def _shingles(data: np.ndarray, scheme: Scheme) -> np.ndarray:
    """`shingles` in NumPy."""
    starts, continues = TOKENISERS[scheme.tokens]
    inside = starts[data]
    begins = inside.copy()
    begins[1:] &= ~(inside[:-1] & continues[data[1:]])
    first = np.flatnonzero(begins)
    if not len(first):
        return np.empty(0, np.uint32)
    after = np.append(begins[1:] | ~inside[1:], True)  # whether a token that is here ends here
    end = np.flatnonzero(inside & after) + 1
    # A token's polynomial is a difference of prefix sums, brought to the right power.
    powers = _powers(TOKEN, len(data))
    inverse = _powers(np.uint64(pow(int(TOKEN), -1, 1 << 64)), len(data))
    prefix = np.append(np.uint64(0), np.cumsum((data.astype(np.uint64) + np.uint64(1)) * inverse))
    tokens = mix64((prefix[end] - prefix[first]) * powers[end - 1])
    ngram = min(scheme.ngram, len(tokens))
    grams = np.zeros(len(tokens) - ngram + 1, np.uint64)
    for i in range(ngram):
        grams = grams * GRAM + tokens[i : i + len(grams)]
    hashes = (mix64(grams) >> np.uint64(32)).astype(np.uint32)
    return hashes[np.sort(np.unique(hashes, return_index=True)[1])]


def _powers(base: np.uint64, count: int) -> np.ndarray:
    return np.cumprod(np.append(np.uint64(1), np.full(max(count - 1, 0), base)))


def _sketch(grams: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The signature of distinct shingles in NumPy."""
    x = grams ^ (grams >> np.uint32(16))
    x = x * np.uint32(0x85EBCA6B)  # the finaliser of MurmurHash3, which datasketch applies before it permutes
    x = x ^ (x >> np.uint32(13))
    x = x * np.uint32(0xC2B2AE35)
    x = x ^ (x >> np.uint32(16))
    least = np.full(len(a), MAX_HASH)
    for start in range(0, len(x), _BLOCK):
        np.minimum(least, (x[start : start + _BLOCK, None] * a + b).min(0), out=least)
    return least
