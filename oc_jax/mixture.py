"""Mixtures of data sets: which source the next example comes from, and an account of the tokens each has given."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from grain.transforms import DatasetSelectionMap

from oc_jax.distributed import leads, sum_of_parts

_SCALE = 1 << 40


class Interleaved(DatasetSelectionMap):
    """Place in the mixture → (source, number of the example in it), such that all beginnings have the wanted shares.

    The rule is Grain's, with weights that stay what they are: Grain cuts them down to whole numbers of which the
    smallest is 100, which takes up to 1 % from a source. Of n examples each source has its share, give or take as many
    examples as there are sources.
    """

    def __init__(self, weights: Sequence[float]):
        self.weights = [max(1, round(_SCALE * weight / sum(weights))) for weight in weights]

    def __len__(self) -> int:
        return _SCALE

    def __getitem__(self, index: int) -> tuple[int, int]:
        rest, here, after = sum(self.weights), index, index + 1
        for source, weight in enumerate(self.weights):
            # How many of the first `here`, and of the first `after`, examples are left to the sources behind this one.
            left_here, left_after = here * (rest - weight) // rest, after * (rest - weight) // rest
            if here - left_here != after - left_after:
                return source, here - left_here
            here, after, rest = left_here, left_after, rest - weight
        raise AssertionError("the last source takes what is left")


class Account:
    """Tokens, padding aside, that a training stage has read of each source, over all processes and restarts.

    Args:
      mixture: dataset directory → wanted share of the tokens, also of those that are left out.
      available: tokens that one epoch of each source has, for those that are not.
      part, parts: which of how many parts of the batches this process reads.
      read: what was read before a restart, as `write` returned it.
    """

    def __init__(
        self,
        mixture: Mapping[epath.Path, float],
        available: Mapping[str, float],
        *,
        part: int,
        parts: int,
        read: Mapping[str, int],
    ):
        names = {os.fspath(path): path.name for path in mixture}
        self._wanted = {path.name: weight / sum(mixture.values()) for path, weight in mixture.items()}
        self._available = {names[path]: tokens for path, tokens in available.items()}
        self._before = {name: read.get(name, 0) for name in self._available}
        self._here = np.zeros(len(available), np.int64)
        self._part, self._parts = part, parts

    def add(self, tokens: np.ndarray) -> None:
        """Counts a batch: tokens [sources] of this process's part."""
        self._here += tokens

    def write(self, target: epath.Path) -> dict[str, int]:
        """Writes the mixture file and returns the tokens read so far by source. Every process has to call this."""
        here = sum_of_parts(self._here, self._part, self._parts).tolist()
        read = {name: self._before[name] + count for name, count in zip(self._available, here, strict=True)}
        if leads():
            temporary = target.with_name(target.name + ".tmp")
            temporary.write_text(json.dumps(self._described(read), indent=1) + "\n")
            temporary.replace(target)
        return read

    def epochs(self, read: Mapping[str, int]) -> dict[str, float]:
        return {name: round(read[name] / tokens, 3) for name, tokens in self._available.items()}

    def _described(self, read: Mapping[str, int]) -> dict[str, Any]:
        total, epochs = sum(read.values()), self.epochs(read)
        sources = {}
        for name, share in self._wanted.items():
            sources[name] = {
                "wanted_share": share,
                "wanted_tokens": round(share * total),
                "reached_tokens": read.get(name, 0),
                "available_tokens": round(self._available.get(name, 0)),
                "epochs": epochs.get(name, 0.0),
            }
        return {"tokens": total, "sources": sources}
