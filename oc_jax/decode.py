"""Text from a checkpoint: continuous batching over a fixed number of slots.

`Engine.submit` queues a request; each `Engine.step` fills free slots from the queue, draws a few tokens for every slot
and hands finished sequences back. `generate` does so for a list, the server for whoever calls. `Engine` holds the
weights on the mesh that training would use.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from oc_jax import chat, inference, sampling
from oc_jax import checkpoint as checkpoint_lib
from oc_jax import model as model_lib
from oc_jax.metrics import ProgressLine
from oc_jax.model import ModelConfig, Params
from oc_jax.sharding import Layout, MeshConfig, make_layout
from oc_jax.tokenizer import Tokenizer

SMALLEST_LENGTH = 128  # of the caches; it doubles, so that few shapes are compiled
PIECE = 512  # tokens of a prompt that are read at once; its rest in the powers of two that fit, down to …
SMALLEST_PIECE = 32  # to which the last tokens are padded


@dataclasses.dataclass(frozen=True)
class Request:
    """A prompt (token ids) and how to go on from it; `temperature` 0 is greedy.

    Raises ValueError for settings out of range.
    """

    prompt: Sequence[int]
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0  # names the random stream, modulo 2³²
    stop: Sequence[str] = ()
    logprobs: bool = False

    def __post_init__(self):
        if self.max_new_tokens < 1 or not 0 <= self.temperature < math.inf or not 0 < self.top_p <= 1:
            raise ValueError(
                f"generation needs max_new_tokens ≥ 1, temperature ≥ 0 and 0 < top_p ≤ 1, not {self.max_new_tokens}, "
                f"{self.temperature} and {self.top_p}"
            )


@dataclasses.dataclass
class Completion:
    """What a request has become so far; it is whole once `finish_reason` is set."""

    request: Request
    tokens: list[int] = dataclasses.field(default_factory=list)  # without the end token; may go on behind a stop string
    text: str = ""  # their text, cut before the first stop string
    finish_reason: str = ""  # "stop" (an end token or a stop string), "length" or "cancelled"
    logprobs: list[float] = dataclasses.field(default_factory=list)  # of `tokens`, where asked for
    top: list[dict[int, float]] = dataclasses.field(default_factory=list)  # token → log-probability of the best ones

    def cancel(self) -> None:
        """Gives its slot back at the next step."""
        self.finish_reason = self.finish_reason or "cancelled"


@dataclasses.dataclass(frozen=True)
class Score:
    """Of tokens 1 … n − 1 of a sequence: log-probabilities, those of the best token at each place, and that token."""

    logprobs: np.ndarray  # fp32 [n − 1]
    best_logprobs: np.ndarray  # fp32 [n − 1]
    best_tokens: np.ndarray  # int32 [n − 1]


class Engine:
    """A model ready to complete and to score. Not for several threads at once."""

    def __init__(self, config: ModelConfig, params: Params, tokenizer: Tokenizer, layout: Layout, *, slots: int = 32):
        self.config, self.tokenizer, self.layout, self.slots = config, tokenizer, layout, slots
        self.weights = inference.lay_out(config, params, layout)
        self._dtype = params["lm_head"].dtype
        self._state: sampling.Slots | None = None
        self._length = 0  # of the caches
        self._waiting: collections.deque[Completion] = collections.deque()
        self._running: list[Completion | None] = [None] * slots

    @classmethod
    def load(
        cls,
        checkpoint: epath.Path,
        tokenizer: epath.Path,
        *,
        step: int | None = None,
        mesh: MeshConfig = MeshConfig(),
        slots: int = 32,
    ) -> Engine:
        """A checkpoint of a train stage (None: the newest), in the platform's precision: on CPU float32, else bfloat16.

        Raises FileNotFoundError if the stage has no checkpoint, or not this one.
        """
        directory = epath.Path(checkpoint) / "checkpoints"
        described = checkpoint_lib.metadata(directory, step)
        config, step = ModelConfig(**described["model"]), described["step"]
        layout = make_layout(mesh)
        _, shapes, axes = model_lib.abstract(config)
        params = checkpoint_lib.restore_params(directory, shapes, layout.tree(axes, shapes), step)
        dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
        params = jax.tree.map(lambda p: p.astype(dtype), params)
        return cls(config, params, Tokenizer.load(tokenizer), layout, slots=slots)

    def submit(self, request: Request) -> Completion:
        """Queues a request. A prompt that leaves no room in the context is finished at once, empty, for "length"."""
        completion = Completion(request)
        if 0 < len(request.prompt) < self.config.max_position_embeddings:
            self._waiting.append(completion)
        else:
            completion.finish_reason = "length"
        return completion

    def step(self) -> list[Completion]:
        """Admits waiting requests, draws up to `sampling.STEPS` tokens for each sequence; those that got any."""
        self._admit()
        running = [(slot, c) for slot, c in enumerate(self._running) if c is not None]
        if not running:
            return []
        self._reserve(max(len(c.request.prompt) + len(c.tokens) for _, c in running) + sampling.STEPS)
        active = np.zeros(self.slots, bool)
        active[[slot for slot, _ in running]] = True
        logprobs = any(c.request.logprobs for _, c in running)
        assert self._state is not None
        state, drawn = sampling.sample(
            self.config, self.tokenizer.ends, self.weights, self._state, active, logprobs=logprobs
        )
        self._state = state
        drawn, going_on = jax.device_get((drawn, state.active))
        for slot, completion in running:
            self._extend(completion, drawn, slot, ended=not going_on[slot])
            if completion.finish_reason:
                self._running[slot] = None
        return [c for _, c in running]

    def reset(self) -> None:
        """Forgets all sequences, and the device state, which a step that failed half-way has consumed."""
        self._state, self._length = None, 0
        self._waiting.clear()
        self._running = [None] * self.slots

    @property
    def idle(self) -> bool:
        return not self._waiting and not any(self._running)

    def _admit(self) -> None:
        for slot, completion in enumerate(self._running):
            if completion is not None and completion.finish_reason:  # cancelled
                self._running[slot] = None
        if not any(self._running) and self._length > SMALLEST_LENGTH:
            self._state, self._length = None, 0  # the next ones may be short
        for slot in range(self.slots):
            while self._running[slot] is None and self._waiting:
                completion = self._waiting.popleft()
                if not completion.finish_reason:
                    self._read(completion.request, slot)
                    self._running[slot] = completion

    def _read(self, request: Request, slot: int) -> None:
        """Prefill: the prompt into the caches of `slot`."""
        total = len(request.prompt)
        self._reserve(total)
        settings = sampling.Settings(
            np.int32(request.max_new_tokens),
            np.float32(request.temperature),
            np.float32(request.top_p),
            np.uint32(request.seed % 2**32),
        )
        for start, width in _pieces(total):
            piece = request.prompt[start : start + width]
            tokens = np.full(width, self.tokenizer.pad, np.int32)
            tokens[: len(piece)] = piece
            where = np.int32(slot), tokens, np.int32(start), np.int32(total)
            assert self._state is not None
            self._state = sampling.admit(self.config, self.weights, self._state, *where, settings)

    def _reserve(self, length: int) -> None:
        """Makes the caches at least `length` long, or as the context if that is shorter.

        Every step reads them whole, so they grow with what stands in them, not with what a request may ask for.
        """
        length = min(length, self.config.max_position_embeddings)
        if length <= self._length:
            return
        self._length = _power_of_two(length, SMALLEST_LENGTH)  # so the padding of a prompt's last piece fits, too
        if self._state is None:
            self._state = sampling.empty_slots(self.config, self.slots, self._length, self._dtype, self.layout)
        else:
            self._state = sampling.grown(self._state, length=self._length)

    def _extend(self, completion: Completion, drawn: sampling.Drawn, slot: int, *, ended: bool) -> None:
        new = int(drawn.count[slot])
        completion.tokens += drawn.tokens[slot, :new].tolist()
        request = completion.request
        if request.logprobs and drawn.logprobs is not None:
            completion.logprobs += drawn.logprobs[slot, :new].tolist()
            for tokens, values in zip(drawn.top_tokens[slot, :new], drawn.top_logprobs[slot, :new], strict=True):  # type: ignore[index]
                completion.top.append(dict(zip(tokens.tolist(), values.tolist(), strict=True)))
        text = self.tokenizer.decode_text(completion.tokens)
        cuts = [at for stop in request.stop if (at := text.find(stop)) >= 0]
        completion.text = text[: min(cuts)] if cuts else text
        if cuts:
            completion.finish_reason = "stop"
        elif ended:
            count = len(completion.tokens)
            full = count >= request.max_new_tokens
            full |= len(request.prompt) + count >= self.config.max_position_embeddings
            completion.finish_reason = "length" if full else "stop"

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> list[Completion]:
        """Completes each prompt (token ids), each from a random stream of its own (seed and place in the list).

        A sequence ends at eos or <|im_end|>, at a stop string, after `max_new_tokens` or at the end of the context.
        Raises ValueError for settings out of range.
        """
        options: dict[str, Any] = dict(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, stop=stop)
        streams = [int(np.random.SeedSequence([seed, i]).generate_state(1)[0]) for i in range(len(prompts))]
        completions = [
            self.submit(Request(prompt, **options, seed=stream))
            for prompt, stream in zip(prompts, streams, strict=True)
        ]
        progress, started = ProgressLine("generate", len(prompts), unit="prompt"), time.monotonic()
        while not self.idle:
            self.step()
            if done := sum(bool(c.finish_reason) for c in completions):
                progress.update(done, (time.monotonic() - started) / done)
        return completions

    def score(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """For each sequence of n ≥ 2 tokens the natural-log probabilities of tokens 1 … n − 1, fp32."""
        return [score.logprobs for score in self.scores(sequences)]

    def scores(self, sequences: Sequence[Sequence[int]]) -> list[Score]:
        """As `score`, with the best alternatives."""
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        results: dict[int, Score] = {}
        for at in range(0, len(order), self.slots):
            indices = order[at : at + self.slots]
            width = _power_of_two(max(len(sequences[i]) for i in indices) - 1, 128)
            rows = min(self.slots, _power_of_two(len(indices), 1))
            tokens = np.full((rows, width + 1), self.tokenizer.pad, np.int32)
            for row, i in enumerate(indices):
                tokens[row, : len(sequences[i])] = sequences[i]
            found = jax.device_get(sampling.score(self.config, self.weights, tokens[:, :-1], tokens[:, 1:]))
            for row, i in enumerate(indices):
                results[i] = Score(*(x[row, : len(sequences[i]) - 1] for x in found))
        return [results[i] for i in range(len(sequences))]


def _power_of_two(n: int, least: int) -> int:
    return max(least, 1 << (n - 1).bit_length())


def _pieces(total: int) -> Iterator[tuple[int, int]]:
    """(start, width) of the pieces in which a prompt of `total` tokens is read."""
    start = 0
    while start < total:
        width = min(PIECE, max(SMALLEST_PIECE, 1 << (total - start).bit_length() - 1))
        yield start, width
        start += width


def _prompts(args: argparse.Namespace, tokenizer: Tokenizer) -> Iterator[list[int]]:
    for text in args.prompt:
        if args.chat:
            yield chat.render([{"role": "user", "content": text}], tokenizer, generation_prompt=True)[0]
        else:
            yield [*tokenizer.prefix, *tokenizer.encode(text)]


def main(argv: list[str]) -> None:
    """python run.py --mode=generate"""
    parser = argparse.ArgumentParser(
        prog="run.py --mode=generate", description="Samples completions from a checkpoint."
    )
    parser.add_argument(
        "--checkpoint", required=True, help="directory of a finished train stage, e.g. out/cookbook/sft2"
    )
    parser.add_argument("--tokenizer", help="tokenizer directory (default: beside the checkpoint)")
    parser.add_argument("--prompt", action="append", required=True, help="text to complete; may be given several times")
    parser.add_argument("--chat", action="store_true", help="put the prompt into the chat template as a user's turn")
    parser.add_argument("--max_new_tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.0, help="0: greedy")
    parser.add_argument("--top_p", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    checkpoint = epath.Path(args.checkpoint)
    tokenizer = epath.Path(args.tokenizer) if args.tokenizer else checkpoint.parent / "tokenizer"
    engine = Engine.load(checkpoint, tokenizer, slots=min(len(args.prompt), 32))
    prompts = list(_prompts(args, engine.tokenizer))
    options = {k: getattr(args, k) for k in ("max_new_tokens", "temperature", "top_p", "seed")}
    for text, completion in zip(args.prompt, engine.generate(prompts, **options), strict=True):
        print(f"{text if not args.chat else ''}{completion.text}")
