"""Cross-entropy from hidden states, in chunks, so that the logits of a whole batch never exist at once.

Each device works on its own tokens and its own part of the vocabulary. The output projection is gathered once before
the chunks and its gradient is summed over the devices once after them.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from oc_jax.sharding import Layout


def _is_target(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """One-hot of `targets` as a comparison: unlike a gather it fuses, and works where the vocabulary is split."""
    return jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1) == targets[..., None]


def largest_divisor(n: int, limit: int) -> int:
    """The largest divisor of `n` that is at most `limit`."""
    return next(c for c in range(min(limit, n), 0, -1) if n % c == 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def cross_entropy(
    hidden: jax.Array,  # [batch, length, hidden_size]
    lm_head: jax.Array,  # [hidden_size, vocab]
    targets: jax.Array,  # [batch, length] int32
    weights: jax.Array,  # [batch, length] fp32, 0 where the token is not trained on; not differentiated
    chunk: int,  # tokens per device whose logits exist at the same time
    z_loss: float,
    layout: Layout,
) -> tuple[jax.Array, jax.Array]:
    """(objective, loss), sums over the batch in fp32. Never means: batches of unequal weight must add up.

    The loss is the weighted sum of −log p in nats. The objective, which alone has a gradient, adds z_loss · log² Z
    for each token (PaLM §5), which keeps the logits from drifting.
    """
    sums, _ = _forward(hidden, lm_head, targets, weights, chunk, z_loss, layout)
    return sums


def _forward(hidden, lm_head, targets, weights, chunk, z_loss, layout: Layout):
    """The sums, and already the gradients: they are linear in the cotangent, so no logits are kept or redone."""
    tokens = layout.spec("batch", "length")
    vectors, matrix = layout.spec("batch", "length", "act_embed"), layout.spec("embed", "vocab")
    local = functools.partial(_local, chunk=chunk, z_loss=z_loss, layout=layout)
    sums, *gradients = jax.shard_map(
        local,
        mesh=layout.mesh,
        in_specs=(vectors, matrix, tokens, tokens),
        out_specs=(layout.spec(), vectors, matrix),
        check_vma=False,
    )(hidden, lm_head, targets, weights)
    return (sums[0], sums[1]), gradients


def _local(hidden, lm_head, targets, weights, *, chunk: int, z_loss: float, layout: Layout):
    """One device's part: (sums over all devices, gradient for its hidden states, gradient for its part of lm_head)."""
    of_tokens, of_embed, of_vocab = (
        (*layout.axes("batch"), *layout.axes("length")),
        layout.axes("embed"),
        layout.axes("vocab"),
    )
    lm_head = layout.gather(lm_head, "embed", axis=0)
    targets = targets - jax.lax.axis_index(of_vocab) * lm_head.shape[1]  # numbered from this device's first entry
    count = targets.size
    size = largest_divisor(count, chunk)

    def step(carry, xs):
        sums, lm_head_grad = carry
        hidden, targets, weights = xs
        logits = jnp.dot(hidden, lm_head, preferred_element_type=jnp.float32)
        largest = jax.lax.pmax(jnp.max(logits, axis=-1, keepdims=True), of_vocab)
        exp = jnp.exp(logits - largest)
        is_target = _is_target(logits, targets)
        normaliser, picked = jax.lax.psum(
            (jnp.sum(exp, axis=-1), jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)), of_vocab
        )
        log_z = jnp.log(normaliser) + largest[:, 0]
        loss = jnp.sum(weights * (log_z - picked))
        sums += jnp.stack([loss + z_loss * jnp.sum(weights * log_z**2), loss])
        # d loss / d logits = (p − one-hot) · weight; d log Z / d logits = p
        pull = (1 + 2 * z_loss * log_z) / normaliser
        slope = ((exp * pull[:, None] - is_target) * weights[:, None]).astype(hidden.dtype)
        lm_head_grad += jnp.einsum("td,tv->dv", hidden, slope, preferred_element_type=jnp.float32)
        return (sums, lm_head_grad), jnp.einsum("tv,dv->td", slope, lm_head)

    start = (jnp.zeros(2), jnp.zeros(lm_head.shape, jnp.float32))
    pieces = [x.reshape(count // size, size, *x.shape[2:]) for x in (hidden, targets, weights)]
    (sums, lm_head_grad), hidden_grad = jax.lax.scan(step, start, pieces)
    hidden_grad = jax.lax.psum(hidden_grad.reshape(hidden.shape), of_vocab)
    lm_head_grad = layout.sum_scatter(lm_head_grad, "embed", axis=0)
    lm_head_grad = jax.lax.psum(lm_head_grad, tuple(a for a in of_tokens if a not in of_embed)).astype(lm_head.dtype)
    # Summed before the layers see their gradient: else the whole of it, in fp32, lives until they are through.
    hidden_grad, lm_head_grad = jax.lax.optimization_barrier((hidden_grad, lm_head_grad))
    return jax.lax.psum(sums, of_tokens), hidden_grad, lm_head_grad


def _backward(chunk, z_loss, layout, gradients, cotangents):
    of_objective, _ = cotangents
    return *((g * of_objective).astype(g.dtype) for g in gradients), None, None


cross_entropy.defvjp(_forward, _backward)
