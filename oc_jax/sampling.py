"""The programs of decoding: `admit` reads a prompt into a slot, `sample` draws tokens for all slots, `score` reads.

A slot is a row of the device state that holds one sequence at a time; sequences come and go while their neighbours go
on. Each has its own settings and its own random stream, and a prompt is read alone, in pieces whose width depends on
nothing but its length: what a sequence becomes does not depend on its neighbours.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from oc_jax import inference
from oc_jax.inference import Cache, Weights, forward
from oc_jax.model import ModelConfig
from oc_jax.sharding import Layout

STEPS = 16  # tokens drawn on the device between two looks from the host
TOP = 5  # alternatives reported with each token, where log-probabilities are asked for


class Settings(NamedTuple):
    """How a sequence is sampled: scalars for one, arrays [slots] in the device state."""

    room: Any  # int32: tokens that it may still get
    temperature: Any  # fp32; 0 is greedy
    top_p: Any  # fp32
    seed: Any  # uint32: names its random stream


class Slots(NamedTuple):
    """Device state."""

    caches: list[Cache]  # of each layer
    hidden: jax.Array  # [embed, slots], of the last token
    position: jax.Array  # [slots] int32, of the next token
    count: jax.Array  # [slots] int32, tokens drawn so far
    active: jax.Array  # [slots] bool
    settings: Settings


class Drawn(NamedTuple):
    """What `sample` drew; `count[i]` of the STEPS tokens of row i count."""

    tokens: jax.Array  # [slots, STEPS] int32
    count: jax.Array  # [slots] int32
    logprobs: jax.Array | None  # [slots, STEPS] fp32: natural log of each token's probability at temperature 1
    top_tokens: jax.Array | None  # [slots, STEPS, TOP] int32: the most probable ones, and
    top_logprobs: jax.Array | None  # [slots, STEPS, TOP] fp32: theirs


class Scores(NamedTuple):
    """Of each target: the natural log of its probability and of the largest one, and the token that has it."""

    logprobs: jax.Array  # [batch, length] fp32
    best_logprobs: jax.Array  # [batch, length] fp32
    best_tokens: jax.Array  # [batch, length] int32


def empty_slots(config: ModelConfig, slots: int, length: int, dtype: Any, layout: Layout) -> Slots:
    """Device state for sequences of at most `length` tokens."""
    caches = inference.empty_caches(config, slots, length, dtype, layout)
    whole = jnp.zeros((slots,), jnp.int32)
    fraction = jnp.zeros((slots,), jnp.float32)
    settings = Settings(whole, fraction, fraction + 1, whole.astype(jnp.uint32))
    hidden = jnp.zeros((config.hidden_size, slots), dtype)
    rest = (hidden, whole, whole, whole.astype(bool), settings)
    # Copies: each array is donated on its own.
    return Slots(caches, *jax.tree.map(lambda x: jax.device_put(jnp.copy(x), layout.sharding()), rest))


@functools.partial(jax.jit, static_argnames="length")
def grown(slots: Slots, *, length: int) -> Slots:
    """The same state with room for sequences of `length` tokens."""
    return slots._replace(caches=inference.grown(slots.caches, length))


@functools.partial(jax.jit, static_argnames="config", donate_argnames="slots")
def admit(config: ModelConfig, weights: Weights, slots: Slots, slot, tokens, start, total, settings: Settings) -> Slots:
    """Reads tokens [width] of a prompt of `total`, from position `start` on, into row `slot`, and lets it begin.

    The last piece may be padded on the right. What padding writes lies later than any position that looks at it, and
    sampled tokens overwrite it before it comes into view.
    """
    positions = start + jnp.arange(tokens.shape[0])
    rows = slot + len(slots.count) * jnp.arange(config.num_key_value_heads)
    caches = jax.tree.map(lambda whole: whole[rows], slots.caches)
    hidden, caches = forward(config, weights, tokens[None], positions[None], caches)
    last = jnp.minimum(total - 1 - start, tokens.shape[0] - 1)
    return Slots(
        # Not an update along an axis of slots: for the reshape that makes one, XLA would copy the caches.
        caches=jax.tree.map(lambda whole, row: whole.at[rows].set(row), slots.caches, caches),
        hidden=slots.hidden.at[:, slot].set(hidden[:, last]),
        position=slots.position.at[slot].set(total),
        count=slots.count.at[slot].set(0),
        active=slots.active.at[slot].set(True),
        settings=Settings(*(x.at[slot].set(value) for x, value in zip(slots.settings, settings, strict=True))),
    )


@functools.partial(jax.jit, static_argnames=("config", "ends", "logprobs"), donate_argnames="slots")
def sample(
    config: ModelConfig, ends: tuple[int, ...], weights: Weights, slots: Slots, active, *, logprobs: bool
) -> tuple[Slots, Drawn]:
    """Draws up to STEPS tokens for each row that is `active` [slots]; a row ends at an id of `ends`, which is not kept.

    Rows also end without room and at the end of the context.
    """
    rows = jnp.arange(active.shape[0])
    slots = slots._replace(active=slots.active & active)

    def write(array, step, value, kept):
        return None if array is None else array.at[jnp.where(kept, rows, len(rows)), step].set(value, mode="drop")

    def body(carry):
        step, slots, drawn = carry
        logits = inference.logits(weights, slots.hidden)
        token = draw(logits, slots.count, slots.settings)
        kept = slots.active & ~jnp.isin(token, jnp.asarray(ends)) & (slots.position < config.max_position_embeddings)
        drawn = drawn._replace(tokens=write(drawn.tokens, step, token, kept), count=drawn.count + kept)
        if logprobs:
            log_probs = jax.nn.log_softmax(logits.T)
            own = jnp.take_along_axis(log_probs, token[:, None], axis=1)[:, 0]
            best, best_tokens = jax.lax.top_k(log_probs, TOP)
            drawn = drawn._replace(
                logprobs=write(drawn.logprobs, step, own, kept),
                top_tokens=write(drawn.top_tokens, step, best_tokens, kept),
                top_logprobs=write(drawn.top_logprobs, step, best, kept),
            )
        # A row that has ended runs along at its last position; nobody reads what it writes.
        hidden, caches = forward(config, weights, token[:, None], slots.position[:, None], slots.caches)
        count = slots.count + kept
        active = kept & (count < slots.settings.room)
        slots = Slots(caches, hidden, slots.position + kept, count, active, slots.settings)
        return step + 1, slots, drawn

    def more(carry):
        return (carry[0] < STEPS) & jnp.any(carry[1].active)

    many = (len(rows), STEPS)
    drawn = Drawn(jnp.zeros(many, jnp.int32), jnp.zeros(len(rows), jnp.int32), None, None, None)
    if logprobs:
        drawn = drawn._replace(
            logprobs=jnp.zeros(many),
            top_tokens=jnp.zeros((*many, TOP), jnp.int32),
            top_logprobs=jnp.zeros((*many, TOP)),
        )
    _, slots, drawn = jax.lax.while_loop(more, body, (0, slots, drawn))
    return slots, drawn


@functools.partial(jax.jit, static_argnames=("config", "chunk"))
def score(config: ModelConfig, weights: Weights, tokens, targets, *, chunk: int = 128) -> Scores:
    """Scores of `targets` [batch, length], each after the `tokens` up to its place; `chunk` bounds the logits."""
    batch, length = tokens.shape
    positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
    hidden, _ = forward(config, weights, tokens, positions, [None] * config.num_hidden_layers)

    def of(xs):
        hidden, targets = xs
        log_probs = jax.nn.log_softmax(inference.logits(weights, hidden.T), axis=0)
        own = jnp.take_along_axis(log_probs, targets[None], axis=0)[0]
        return Scores(own, jnp.max(log_probs, axis=0), jnp.argmax(log_probs, axis=0).astype(jnp.int32))

    pieces = hidden.T.reshape(-1, min(chunk, length), hidden.shape[0]), targets.reshape(-1, min(chunk, length))
    return jax.tree.map(lambda x: x.reshape(batch, length), jax.lax.map(of, pieces))


def draw(logits: jax.Array, count: jax.Array, settings: Settings) -> jax.Array:
    """A token for each column of `logits` [vocab, n]: the best at temperature 0, else from the fewest with `top_p`."""
    greedy, all_of_them = settings.temperature == 0, settings.top_p >= 1

    def best(logits):  # in two passes, which CPUs do several times as fast as argmax
        here = logits == jnp.max(logits, axis=0)
        return jnp.min(jnp.where(here, jnp.arange(len(logits))[:, None], len(logits)), axis=0)

    def nucleus(scaled):
        """Hides all but the most probable tokens whose probabilities add up to `top_p`."""
        probabilities = jax.nn.softmax(scaled)

        def halve(_, bounds):  # the bits of positive floats are ordered as the floats are
            low, high = bounds
            middle = (low + high) // 2
            least = jax.lax.bitcast_convert_type(middle, jnp.float32)[:, None]
            enough = jnp.sum(jnp.where(probabilities >= least, probabilities, 0.0), axis=-1) >= settings.top_p
            return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

        # Bisection finds the exact threshold in 31 passes; sorting a vocabulary takes far longer.
        bounds = jnp.zeros_like(count), jnp.full_like(count, 0x3F800001)
        least = jax.lax.bitcast_convert_type(jax.lax.fori_loop(0, 31, halve, bounds)[0], jnp.float32)
        return jnp.where(all_of_them[:, None] | (probabilities >= least[:, None]), scaled, -jnp.inf)

    def drawn(logits):
        scaled = logits.T / jnp.where(greedy, 1.0, settings.temperature)[:, None]
        scaled = jax.lax.cond(jnp.all(all_of_them), lambda x: x, nucleus, scaled)
        streams = jax.vmap(lambda seed, n: jax.random.fold_in(jax.random.key(seed), n))(settings.seed, count)
        return jnp.where(greedy, best(logits), jax.vmap(jax.random.categorical)(streams, scaled))

    token = jax.lax.cond(jnp.all(greedy), best, drawn, logits)
    return token.astype(jnp.int32)
