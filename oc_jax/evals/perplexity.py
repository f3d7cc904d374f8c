"""How well a checkpoint knows a text: one number for each, to rank documents by."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from etils import epath

from oc_jax.decode import Engine


def perplexity(checkpoint: str, tokenizer: str, texts: Sequence[str]) -> list[float]:
    """Perplexity per token of the beginning of each text, as much as the model's context holds.

    Args:
      checkpoint: directory of a train stage, such as ``out/cookbook/pretrain``.
      tokenizer: directory of the tokenizer it was trained with.

    Returns:
      One number for each text; nan for a text of no tokens.

    Raises:
      FileNotFoundError: there is no checkpoint.
    """
    engine = _engine(checkpoint, tokenizer)
    context = engine.config.max_position_embeddings
    start = engine.tokenizer.start
    sequences = [[*start, *engine.tokenizer.encode(text[: 16 * context])][:context] for text in texts]
    long = [i for i, tokens in enumerate(sequences) if len(tokens) > 1]
    found = [math.nan] * len(texts)
    for i, scores in zip(long, engine.score([sequences[i] for i in long]), strict=True):
        found[i] = math.exp(-float(scores.mean()))
    return found


@functools.lru_cache(maxsize=1)
def _engine(checkpoint: str, tokenizer: str) -> Engine:
    return Engine.load(epath.Path(checkpoint), epath.Path(tokenizer))
