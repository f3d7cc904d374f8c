"""What an evaluation task is: a function from a `Subject` to a `Result`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from etils import epath


class Completion(Protocol):
    """What was generated for one prompt."""

    @property
    def text(self) -> str: ...

    @property
    def finish_reason(self) -> str: ...


class Generator(Protocol):
    """A model that completes and scores token ids; `oc_jax.decode.Engine` is one."""

    @property
    def tokenizer(self) -> Any: ...

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> Sequence[Completion]:
        """One completion for each prompt; equal prompts at different places draw from different random streams."""
        ...

    def score(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """For each sequence of n tokens float32 [n − 1]: natural log of the probability of each after the first."""
        ...


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is evaluated, and on what."""

    engine: Generator
    heldout: epath.Path  # dataset directory of kind text: repositories that were kept out of training


@dataclasses.dataclass(frozen=True)
class Result:
    """headline: the one number to quote; numbers: all of them, JSON-able; samples: {"prompt", "completion", "kind"}."""

    headline: float | None
    numbers: dict[str, Any]
    samples: list[dict[str, str]] = dataclasses.field(default_factory=list)


Task = Callable[[Subject], Result]
