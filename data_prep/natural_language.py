"""The natural language of a text, by fastText's model for 176 languages (tables/NOTICE.md)."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import fasttext

HEAD = 16_384  # characters that are looked at
MAX_WORDS = 512  # of them, as the time to predict grows with words
MIN_PROBABILITY = 0.5  # the model gives code a language with less

_MODEL = Path(__file__).parent / "tables" / "lid.176.ftz"
_MARKUP = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]*`|<[^<>]*>|\w+://\S+", re.DOTALL)
_WORD = re.compile(r"[^\W\d_]{2,}|[^\W\d_A-Za-z]")  # no single Latin letters: they are variables


def identify(text: str) -> str | None:
    """ISO 639 code of the language that `text` is written in; None where the model is not sure.

    Code samples, tags and URLs say nothing about it, and neither do the ASCII words of a text that has at least a
    quarter of its letters in others: a Chinese manual is Chinese in spite of all the names in it.
    """
    words = _WORD.findall(_MARKUP.sub(" ", text[:HEAD]))[:MAX_WORDS]
    foreign = [word for word in words if not word.isascii()]
    if sum(map(len, foreign)) * 4 >= sum(map(len, words)):
        words = foreign
    if not words:
        return None
    # The method below `predict`, which cannot do with NumPy 2.
    [(probability, label)] = _model().f.predict(" ".join(words).lower() + "\n", 1, 0.0, "strict")
    return label.removeprefix("__label__") if probability >= MIN_PROBABILITY else None


@functools.cache
def _model() -> Any:
    return fasttext.load_model(str(_MODEL))
