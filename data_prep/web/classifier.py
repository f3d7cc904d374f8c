"""Code-related or not: BPE segmentation with a bounded vocabulary, and fastText over the pieces (paper §2.1.2).

Segmentation makes Chinese, which has no spaces, a sequence of words like any other text. Training uses one thread and
a fixed seed, so the same lines give the same model, byte for byte.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any

import fasttext
import gin
import numpy as np
import sentencepiece
from etils import epath

from data_prep import tokenizer

CODE, OTHER = "__label__code", "__label__other"
_WORD = re.compile(r"[^\W\d_]+|\d+|(?:[^\w\s]|_)+")
_MAX_RUN = 64  # characters: a run without spaces is cut there, as the time to segment it grows faster than its length
_CACHED = 1 << 19  # words, some 100 MB


@gin.configurable
@dataclasses.dataclass(frozen=True)
class FastText:
    """How the classifier is trained; the paper names no numbers.

    Attributes:
      dim: size of a vector.
      epochs: passes over the examples; more where `min_steps` asks for them.
      min_steps: examples to learn from, at least: a small seed is passed over more often.
      learning_rate: at the start; it falls to zero.
      word_ngrams: longest sequence of pieces that has a vector of its own.
      min_count: pieces that occur less often have none.
      buckets: vectors for the hashed sequences.
    """

    dim: int = 32
    epochs: int = 5
    min_steps: int = 25_000
    learning_rate: float = 0.5
    word_ngrams: int = 2
    min_count: int = 3
    buckets: int = 1 << 18

    def train(self, lines: epath.Path, count: int, model: epath.Path) -> None:
        """Writes the model of a local file with `count` lines of a label and pieces."""
        trained = fasttext.train_supervised(
            input=str(lines),
            dim=self.dim,
            epoch=max(self.epochs, -(-self.min_steps // max(count, 1))),
            lr=self.learning_rate,
            wordNgrams=self.word_ngrams,
            minCount=self.min_count,
            bucket=self.buckets,
            thread=1,
            seed=0,
            verbose=0,
        )
        trained.save_model(str(model))


def words(text: str) -> list[str]:
    """Lower-case runs of letters and of other signs; numbers, white space and code fences say nothing."""
    return [word for word in _WORD.findall(text.lower()) if word[0] != "`" and not word[0].isdigit()]


def train_segmenter(texts: Iterable[str], vocab_size: int) -> bytes:
    """A SentencePiece model with `vocab_size` BPE pieces, or as many as the texts have in them."""
    return tokenizer.trained([" " + " ".join(words(text)) for text in texts], vocab_size)


class Segmenter:
    """Cuts texts into pieces. Words are looked up, and segmented the first time they come."""

    def __init__(self, model: epath.Path) -> None:
        self._processor: Any = sentencepiece.SentencePieceProcessor(model_proto=model.read_bytes())
        self._known: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        """The pieces of `text`, separated by spaces."""
        known = self._known
        if len(known) > _CACHED:
            known.clear()
        return " ".join([known.get(word) or self._segment(word) for word in words(text)])

    def _segment(self, word: str) -> str:
        runs = [word[i : i + _MAX_RUN] for i in range(0, len(word), _MAX_RUN)]
        runs[0] = " " + runs[0]
        pieces = self._known[word] = " ".join(" ".join(self._processor.encode(run, out_type=str)) for run in runs)
        return pieces


class Classifier:
    """A trained model."""

    def __init__(self, model: epath.Path) -> None:
        self._model = fasttext.load_model(str(model)).f

    def __call__(self, lines: Sequence[str]) -> np.ndarray:
        """Probability, float32 [lines], that each line of pieces is that of a code-related page."""
        if not lines:
            return np.zeros(0, np.float32)
        labels, found = self._model.multilinePredict([line + "\n" for line in lines], 2, 0.0, "strict")
        scores = [
            float(values[list(names).index(CODE)]) if CODE in names else 0.0
            for names, values in zip(labels, found, strict=True)
        ]
        return np.minimum(np.array(scores, np.float32), 1)


@functools.lru_cache(2)
def segmenter(model: str) -> Segmenter:
    """The segmenter of a file; each worker keeps it."""
    return Segmenter(epath.Path(model))


@functools.lru_cache(2)
def classifier(model: str) -> Classifier:
    """The classifier of a file; each worker keeps it."""
    return Classifier(epath.Path(model))


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A score from which on pages count as code-related, and what it does on held-out examples."""

    score: float
    precision: float
    recall: float


def choose_threshold(scores: np.ndarray, code: np.ndarray, min_precision: float) -> Threshold:
    """The threshold with the best F1 of those with the wanted precision; with the best precision if none has it.

    It lies in the middle between the lowest score that counts and the highest that does not.

    Args:
      scores: float [n].
      code: bool [n], whether an example is code-related.
      min_precision: the wanted share of code-related ones among those that count.

    Raises:
      ValueError: there is no example of one kind.
    """
    if not code.any() or code.all():
        raise ValueError("the held-out examples are all of one kind: give recall a larger seed, with both kinds")
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order].astype(np.float64), np.cumsum(code[order])
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # equal scores count together
    precision, recall = hits[last] / (last + 1), hits[last] / hits[-1]
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    value = np.where(precision >= min_precision, 1 + f1, precision)
    best = int(np.argmax(value))
    below = ranked[last[best] + 1] if last[best] + 1 < len(ranked) else 0.0
    middle = float((ranked[last[best]] + below) / 2)
    return Threshold(middle, float(precision[best]), float(recall[best]))
