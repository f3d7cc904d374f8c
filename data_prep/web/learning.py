"""From examples to a classifier and its threshold, as every round of the recall and the choice of text files learn."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.compute as pc
from etils import epath

from data_prep import documents as docs
from data_prep.files import atomic
from data_prep.sampling import draw
from data_prep.web import classifier
from data_prep.web.classifier import FastText


@dataclasses.dataclass(frozen=True)
class Lesson:
    """A directory of `batches.EXAMPLES`, of which a draw with the share `heldout` is not learnt from."""

    examples: epath.Path
    heldout: float
    salt: str

    def train(self, fasttext: FastText, model: epath.Path, scratch: epath.Path) -> dict[str, int]:
        """Writes the model of the examples that are not held out. Returns the number of examples of each kind."""
        counts: collections.Counter[str] = collections.Counter()
        lines = scratch / "train.txt"
        with atomic(lines) as file:
            for row in self._rows():
                kind = "code" if row["code"] else "other"
                held = self._held(row["id"])
                counts[f"heldout_{kind}" if held else kind] += 1
                if not held:
                    file.write(f"__label__{kind} {row['line']}\n".encode())
        temporary = scratch / "classifier.bin"
        fasttext.train(lines, counts["code"] + counts["other"], temporary)
        temporary.replace(model)
        return dict(sorted(counts.items()))

    def threshold(self, model: epath.Path, min_precision: float) -> classifier.Threshold:
        """What `classifier.choose_threshold` says of the examples that are held out."""
        held = [(row["line"], row["code"]) for row in self._rows() if self._held(row["id"])]
        scores = classifier.Classifier(model)([line for line, _ in held])
        return classifier.choose_threshold(scores, np.array([code for _, code in held], bool), min_precision)

    def _held(self, identifier: str) -> bool:
        return draw(f"{self.salt} heldout", identifier) < self.heldout

    def _rows(self) -> Iterator[dict[str, Any]]:
        for part in docs.parts(self.examples):
            yield from docs.read_part(part).to_pylist()


def write_segmenter(target: epath.Path, directories: list[epath.Path], vocab_size: int, sample_bytes: int, salt: str):
    """Learns the pieces from texts that a draw with the share `sample_bytes` / all bytes selects."""
    if not target.exists():
        with atomic(target) as file:
            file.write(classifier.train_segmenter(list(_sample(directories, sample_bytes, salt)), vocab_size))


def _sample(directories: list[epath.Path], sample_bytes: int, salt: str) -> Iterator[str]:
    total = sum(pc.sum(t["size"]).as_py() for directory in directories for t in docs.read(directory, ["size"]))
    for directory in directories:
        for table in docs.read(directory, ["id", "text"]):
            for identifier, text in zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True):
                if draw(salt, identifier) * total < sample_bytes:
                    yield text
