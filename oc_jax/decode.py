"""Text from a checkpoint: prefill, then sampling from a KV cache, a batch of prompts at a time.

`Engine` holds the weights on the mesh that training would use. Every request draws from its own random stream (seed and
its index), so what it samples does not depend on the requests it shares a batch with.
"""

from __future__ import annotations

import argparse
import functools
import math
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx

from oc_jax import chat
from oc_jax import checkpoint as checkpoint_lib
from oc_jax import model as model_lib
from oc_jax.metrics import ProgressLine
from oc_jax.model import Cache, ModelConfig, Params
from oc_jax.sharding import Layout, MeshConfig, make_layout
from oc_jax.step import make_score_step
from oc_jax.tokenizer import Tokenizer

SMALLEST_WIDTH = 128  # prompts are padded to this times a power of two, so that few shapes are compiled
STEPS_PER_CALL = 32  # tokens sampled on the device between two looks for stop strings on the host


class Completion(NamedTuple):
    tokens: list[int]  # sampled ids, without the end token; with what was sampled behind a stop string
    text: str  # their text, cut before the first stop string
    finish_reason: str  # "stop" (an end token or a stop string) or "length"


class Sampled(NamedTuple):
    """Device state of a batch being decoded."""

    cache: Cache
    logits: jax.Array  # [batch, vocab] fp32, of the next token
    position: jax.Array  # [batch] int32, of the next token
    done: jax.Array  # [batch] bool
    tokens: jax.Array  # [batch, room for the longest completion] int32
    count: jax.Array  # [batch] int32, tokens sampled so far


class Engine:
    """A model ready to complete and to score."""

    def __init__(
        self, config: ModelConfig, params: Params, tokenizer: Tokenizer, layout: Layout, *, batch_size: int = 32
    ):
        self.config, self.params, self.tokenizer, self.layout = config, params, tokenizer, layout
        self.batch_size = batch_size
        self.dtype = jax.tree.leaves(params)[0].dtype
        self._score = make_score_step(config, layout, compute_dtype=self.dtype, loss_chunk=128)

    @classmethod
    def load(cls, checkpoint: epath.Path, tokenizer: epath.Path, *, mesh: MeshConfig = MeshConfig()) -> Engine:
        """The newest checkpoint of a train stage, in the precision of the platform (float32 on CPU, else bfloat16).

        Raises FileNotFoundError if the stage has no checkpoint.
        """
        directory = epath.Path(checkpoint) / "checkpoints"
        config = ModelConfig(**checkpoint_lib.metadata(directory)["model"])
        layout = make_layout(mesh)
        _, shapes, axes = model_lib.abstract(config)
        params = checkpoint_lib.restore_params(directory, shapes, layout.tree(axes, shapes))
        dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
        params = jax.tree.map(lambda p: p.astype(dtype), params)
        return cls(config, params, Tokenizer.load(tokenizer), layout)

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
        """Completes each prompt (token ids); `temperature` 0 is greedy.

        A sequence ends at eos or <|im_end|>, at a stop string, after `max_new_tokens` or at the end of the context. A
        prompt that leaves no room in the context comes back empty with reason "length". Raises ValueError for settings
        out of range.
        """
        if max_new_tokens < 1 or temperature < 0 or not 0 < top_p <= 1:
            raise ValueError(
                f"generation needs max_new_tokens ≥ 1, temperature ≥ 0 and 0 < top_p ≤ 1, not {max_new_tokens}, "
                f"{temperature} and {top_p}"
            )
        completions = [Completion([], "", "length")] * len(prompts)
        fits = [i for i, p in enumerate(prompts) if 0 < len(p) < self.config.max_position_embeddings]
        fits.sort(key=lambda i: len(prompts[i]))  # neighbours share a bucket
        progress, started = ProgressLine("generate", len(fits), unit="prompt"), time.monotonic()
        for at in range(0, len(fits), self.batch_size):
            indices = fits[at : at + self.batch_size]
            batch = [prompts[i] for i in indices]
            options = dict(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
            for index, completion in zip(indices, self._generate_batch(batch, indices, stop, **options), strict=True):
                completions[index] = completion
            done = at + len(indices)
            progress.update(done, (time.monotonic() - started) / done)
        return completions

    def _generate_batch(self, prompts, requests, stop, *, max_new_tokens, temperature, top_p, seed) -> list[Completion]:
        rows = self.batch_size  # short batches are filled with copies, so that one program serves all
        filled = [*prompts, *[prompts[0]] * (rows - len(prompts))]
        requests = np.asarray([*requests, *[0] * (rows - len(prompts))], np.int32)
        lengths = np.asarray([len(p) for p in filled], np.int32)
        width = _bucket(int(lengths.max()))
        tokens = np.full((rows, width), self.tokenizer.pad, np.int32)
        for row, prompt in enumerate(filled):
            tokens[row, : len(prompt)] = prompt
        state = _prefill(self.config, self.params, tokens, lengths, new=_bucket(max_new_tokens))
        state = state._replace(done=jnp.arange(rows) >= len(prompts))
        limits = {"room": max_new_tokens, "temperature": jnp.float32(temperature), "top_p": jnp.float32(top_p)}
        key = jax.random.key(seed)
        while True:
            state = _sample(self.config, self.tokenizer.ends, self.params, state, key, requests, **limits)
            texts = [self._text(t[:n]) for t, n in zip(*jax.device_get((state.tokens, state.count)), strict=True)]
            stopped = np.asarray([any(s in text for s in stop) for text in texts])
            done = np.asarray(state.done) | stopped
            if done.all():
                break
            state = state._replace(done=jnp.asarray(done))
        count, sampled = np.asarray(state.count), np.asarray(state.tokens)
        full = (count >= max_new_tokens) | (lengths + count >= self.config.max_position_embeddings)
        return [
            _finish(sampled[r, : count[r]].tolist(), texts[r], stop, full=bool(full[r])) for r in range(len(prompts))
        ]

    def _text(self, tokens: np.ndarray) -> str:
        return self.tokenizer.decode_text(tokens.tolist())

    def score(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """For each sequence of n ≥ 2 tokens the natural-log probabilities of tokens 1 … n−1, fp32."""
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        scores: list[np.ndarray] = [np.zeros(0, np.float32)] * len(sequences)
        for at in range(0, len(order), self.batch_size):
            indices = order[at : at + self.batch_size]
            width = _bucket(max(len(sequences[i]) for i in indices) - 1)
            tokens = np.full((self.batch_size, width + 1), self.tokenizer.pad, np.int32)
            for row, i in enumerate(indices):
                tokens[row, : len(sequences[i])] = sequences[i]
            positions = np.broadcast_to(np.arange(width, dtype=np.int32), (self.batch_size, width))
            out = np.asarray(self._score(self.params, tokens[:, :-1], tokens[:, 1:], positions))
            for row, i in enumerate(indices):
                scores[i] = out[row, : len(sequences[i]) - 1]
        return scores


def _bucket(n: int) -> int:
    return SMALLEST_WIDTH * 2 ** max(0, math.ceil(math.log2(n / SMALLEST_WIDTH)))


def _finish(tokens: list[int], text: str, stop: Sequence[str], *, full: bool) -> Completion:
    cuts = [at for s in stop if (at := text.find(s)) >= 0]
    if cuts:
        return Completion(tokens, text[: min(cuts)], "stop")
    return Completion(tokens, text, "length" if full else "stop")


@functools.partial(jax.jit, static_argnames=("config", "new"))
def _prefill(config: ModelConfig, params: Params, tokens, lengths, *, new: int) -> Sampled:
    """Runs prompts [batch, width], padded on the right, and leaves the logits after each one's last token.

    There is room for `new` more tokens.

    Padding writes keys beyond a prompt's length; they are later than any position that looks at them, and the sampled
    tokens overwrite them before they come into view.
    """
    graphdef, _, _ = model_lib.abstract(config)
    batch, width = tokens.shape
    positions = jnp.broadcast_to(jnp.arange(width), (batch, width))
    cache = model_lib.make_cache(config, batch, width + new, params["lm_head"].dtype)
    hidden, cache = nnx.merge(graphdef, params)(tokens, positions, cache=cache)
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)
    logits = jnp.einsum("bld,dv->blv", last, params["lm_head"], preferred_element_type=jnp.float32)[:, 0]
    zeros = jnp.zeros((batch,), jnp.int32)
    return Sampled(cache, logits, lengths, zeros.astype(bool), jnp.zeros((batch, new), jnp.int32), zeros)


@functools.partial(jax.jit, static_argnames=("config", "ends"), donate_argnames="state")
def _sample(config: ModelConfig, ends, params, state: Sampled, key, requests, *, room, temperature, top_p) -> Sampled:
    """Samples up to STEPS_PER_CALL tokens for every row that is not done; at most `room` in all."""
    graphdef, _, _ = model_lib.abstract(config)
    rows = jnp.arange(state.tokens.shape[0])

    def body(carry):
        step, state = carry
        token = _draw(state.logits, state.count, key, requests, temperature, top_p)
        ended = jnp.isin(token, jnp.asarray(ends)) | (state.position >= config.max_position_embeddings)
        active = ~state.done & ~ended
        slot = jnp.where(active, state.count, state.tokens.shape[1])  # a row that is done writes out of bounds: dropped
        tokens = state.tokens.at[rows, slot].set(token, mode="drop")
        # A finished row runs along at its last position; nobody reads what it writes.
        hidden, cache = nnx.merge(graphdef, params)(token[:, None], state.position[:, None], cache=state.cache)
        logits = jnp.einsum("bld,dv->blv", hidden, params["lm_head"], preferred_element_type=jnp.float32)[:, 0]
        count = state.count + active
        done = state.done | ended | (count >= room)
        return step + 1, Sampled(cache, logits, state.position + active, done, tokens, count)

    def more(carry):
        return (carry[0] < STEPS_PER_CALL) & ~jnp.all(carry[1].done)

    return jax.lax.while_loop(more, body, (0, state))[1]


def _draw(logits: jax.Array, count, key, requests, temperature, top_p) -> jax.Array:
    """One token per row of `logits`: greedy at temperature 0, else from the fewest tokens that hold `top_p`."""

    def nucleus(scaled):
        """Hides all but the most probable tokens whose probabilities add up to `top_p`."""
        probabilities = jax.nn.softmax(scaled)

        def halve(_, bounds):  # the bits of positive floats are ordered as the floats are
            low, high = bounds
            middle = (low + high) // 2
            least = jax.lax.bitcast_convert_type(middle, jnp.float32)[:, None]
            enough = jnp.sum(jnp.where(probabilities >= least, probabilities, 0.0), axis=-1) >= top_p
            return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

        # Bisection finds the exact threshold in 31 passes; sorting a vocabulary takes far longer.
        bounds = jnp.zeros_like(count), jnp.full_like(count, 0x3F800001)
        least = jax.lax.bitcast_convert_type(jax.lax.fori_loop(0, 31, halve, bounds)[0], jnp.float32)
        return jnp.where(probabilities >= least[:, None], scaled, -jnp.inf)

    def drawn(logits):
        scaled = logits / temperature
        scaled = jax.lax.cond(top_p < 1.0, nucleus, lambda x: x, scaled)
        streams = jax.vmap(lambda request, n: jax.random.fold_in(jax.random.fold_in(key, request), n))(requests, count)
        return jax.vmap(jax.random.categorical)(streams, scaled)

    token = jax.lax.cond(temperature > 0, drawn, lambda x: jnp.argmax(x, axis=-1), logits)
    return token.astype(jnp.int32)


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
    engine = Engine.load(checkpoint, epath.Path(args.tokenizer) if args.tokenizer else checkpoint.parent / "tokenizer")
    prompts = list(_prompts(args, engine.tokenizer))
    options = {k: getattr(args, k) for k in ("max_new_tokens", "temperature", "top_p", "seed")}
    for text, completion in zip(args.prompt, engine.generate(prompts, **options), strict=True):
        print(f"{text if not args.chat else ''}{completion.text}")
