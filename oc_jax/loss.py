"""Cross-entropy from hidden states, in chunks, so that the logits of a whole batch never exist at once."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp


def token_log_probs(hidden: jax.Array, lm_head: jax.Array, targets: jax.Array, constrain: Callable) -> jax.Array:
    """Natural-log probability of each target, fp32: hidden [b, l, d], lm_head [d, vocab], targets [b, l] → [b, l]."""
    logits = jnp.einsum("bld,dv->blv", hidden, lm_head, preferred_element_type=jnp.float32)
    logits = constrain(logits, "batch", "length", "act_vocab")
    picked = jnp.sum(jnp.where(_is_target(logits, targets), logits, 0.0), axis=-1)
    return picked - jax.nn.logsumexp(logits, axis=-1)


def _is_target(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """One-hot of `targets` as a comparison: unlike a gather it fuses, and works where the vocabulary is split."""
    return jax.lax.broadcasted_iota(targets.dtype, logits.shape, 2) == targets[..., None]


def split_length(x: jax.Array, chunk: int) -> jax.Array:
    """[batch, length, …] → [chunks, batch, c, …], where c is the largest divisor of the length up to `chunk`."""
    length = x.shape[1]
    c = next(c for c in range(min(chunk, length), 0, -1) if length % c == 0)
    return x.reshape(x.shape[0], length // c, c, *x.shape[2:]).swapaxes(0, 1)


def join_length(x: jax.Array) -> jax.Array:
    """The inverse of `split_length`."""
    x = x.swapaxes(0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def cross_entropy(
    hidden: jax.Array,  # [batch, length, hidden_size]
    lm_head: jax.Array,  # [hidden_size, vocab]
    targets: jax.Array,  # [batch, length] int32
    weights: jax.Array,  # [batch, length] fp32, 0 where the token is not trained on; not differentiated
    chunk: int,  # positions whose logits exist at the same time
    constrain: Callable[..., jax.Array],
) -> jax.Array:
    """Sum of weighted −log p in nats, fp32. Never a mean: batches of unequal weight must add up."""

    def total(xs):
        hidden, targets, weights = xs
        return -jnp.sum(weights * token_log_probs(hidden, lm_head, targets, constrain))

    return jnp.sum(jax.lax.map(total, [split_length(x, chunk) for x in (hidden, targets, weights)]))


def _forward(hidden, lm_head, targets, weights, chunk, constrain):
    """The loss, and already its gradients: the loss is linear in its cotangent, so no logits are kept or redone."""

    def accumulate(carry, xs):
        total, lm_head_grad = carry
        hidden, targets, weights = xs
        logits = jnp.einsum("bld,dv->blv", hidden, lm_head, preferred_element_type=jnp.float32)
        logits = constrain(logits, "batch", "length", "act_vocab")
        largest = jnp.max(logits, axis=-1, keepdims=True)
        exp = jnp.exp(logits - largest)
        normaliser = jnp.sum(exp, axis=-1, keepdims=True)
        is_target = _is_target(logits, targets)
        log_probs = jnp.sum(jnp.where(is_target, logits - largest, 0.0), axis=-1) - jnp.log(normaliser[..., 0])
        # d loss / d logits = (p − one-hot) · weight
        slope = ((exp / normaliser - is_target) * weights[..., None]).astype(hidden.dtype)
        hidden_grad = jnp.einsum("blv,dv->bld", slope, lm_head)
        lm_head_grad += jnp.einsum("bld,blv->dv", hidden, slope, preferred_element_type=jnp.float32)
        return (total - jnp.sum(weights * log_probs), lm_head_grad), hidden_grad

    start = (jnp.float32(0), constrain(jnp.zeros(lm_head.shape, jnp.float32), "embed", "vocab"))
    pieces = [split_length(x, chunk) for x in (hidden, targets, weights)]
    (total, lm_head_grad), hidden_grad = jax.lax.scan(accumulate, start, pieces)
    return total, (join_length(hidden_grad), lm_head_grad.astype(lm_head.dtype))


def _backward(chunk, constrain, gradients, cotangent):
    hidden_grad, lm_head_grad = gradients
    return (
        (hidden_grad * cotangent).astype(hidden_grad.dtype),
        (lm_head_grad * cotangent).astype(lm_head_grad.dtype),
        None,
        None,
    )


cross_entropy.defvjp(_forward, _backward)
