"""Which tokens stand in which training window. Pure index arithmetic, so that any window can be had without the others.

* `Windows` (pretraining, annealing): documents are concatenated in a seeded order and cut every `seq_len` tokens, as
  the paper does. Only the records' lengths are needed; no packed copy lies on disk.
* `best_fit` (fine-tuning): examples are put whole into bins, longest first, each into the fullest bin that takes it.
"""

from __future__ import annotations

import bisect
from typing import Any, NamedTuple

import numpy as np


class TooLittleData(ValueError):
    """A data set does not hold a single training example."""


class Batch(NamedTuple):
    """What a training step reads: arrays of shape [accumulation, batch, length], or [length] for one window."""

    tokens: Any  # int32
    targets: Any  # int32: the token that follows
    weights: Any  # fp32: 0 where the target is not trained on
    positions: Any  # int32: restart with each document when documents are masked
    segment_ids: Any  # int32: tell packed documents apart


class Span(NamedTuple):
    """Tokens `start:stop` of record `record`."""

    record: int
    start: int
    stop: int


class Windows:
    """Windows of `seq_len` + 1 tokens over all records; neighbours share one token, so each token is a target once.

    The last, incomplete window is left out. Raises TooLittleData when there is not a single complete one.
    """

    def __init__(self, lengths: np.ndarray, seq_len: int, seed: int):
        self.order = np.random.Generator(np.random.PCG64(seed)).permutation(len(lengths))
        self.ends = np.cumsum(lengths[self.order].astype(np.int64))
        self.seq_len = seq_len
        total = int(self.ends[-1]) if len(lengths) else 0
        self.count = max(0, (total - 1) // seq_len)
        if not self.count:
            raise TooLittleData(f"{total} tokens do not fill one window of {seq_len} + 1: lower seq_len or add data")

    def __len__(self) -> int:
        return self.count

    def spans(self, index: int) -> list[Span]:
        """The pieces of window `index`, in order; their lengths add up to seq_len + 1."""
        position, stop = index * self.seq_len, index * self.seq_len + self.seq_len + 1
        slot = int(np.searchsorted(self.ends, position, side="right"))
        spans = []
        while position < stop:
            begin = int(self.ends[slot - 1]) if slot else 0
            end = min(stop, int(self.ends[slot]))
            if end > position:  # an empty record has no piece
                spans.append(Span(int(self.order[slot]), position - begin, end - begin))
            position, slot = end, slot + 1
        return spans


def best_fit(lengths: np.ndarray, capacity: int, seed: int) -> list[list[int]]:
    """Bins of record indices whose lengths sum to at most `capacity`; every record is in exactly one.

    Best-fit decreasing; ties and the final order of the bins follow `seed`. Raises ValueError for a record longer than
    `capacity` (truncate first).
    """
    if len(lengths) and int(lengths.max()) > capacity:
        raise ValueError(f"a record of {int(lengths.max())} tokens does not fit a bin of {capacity}: truncate first")
    rng = np.random.Generator(np.random.PCG64(seed))
    shuffled = rng.permutation(len(lengths))
    decreasing = shuffled[np.argsort(-lengths[shuffled].astype(np.int64), kind="stable")]
    bins: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (room left, bin), sorted: the first that is large enough fits best
    for record in decreasing.tolist():
        length = int(lengths[record])
        at = bisect.bisect_left(free, (length, -1))
        if at == len(free):
            bins.append([record])
            bisect.insort(free, (capacity - length, len(bins) - 1))
        else:
            room, chosen = free.pop(at)
            bins[chosen].append(record)
            bisect.insort(free, (room - length, chosen))
    return [bins[i] for i in rng.permutation(len(bins))]
