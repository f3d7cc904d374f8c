"""Causal grouped-query attention behind one function.

`attention(..., backend=)` is the only door. A back end that cannot honour the mask it is given must raise: silently
attending across packed documents is the classic bug of this field.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

_MASKED = -1e30  # finite, so that a row with nothing to attend to gives numbers, not NaN


def attention(
    q: jax.Array,  # [batch, q_length, heads, head_dim]
    k: jax.Array,  # [batch, kv_length, kv_heads, head_dim]
    v: jax.Array,  # [batch, kv_length, kv_heads, head_dim]
    *,
    q_positions: jax.Array,  # [batch, q_length] int32
    kv_positions: jax.Array,  # [batch, kv_length] int32
    q_segments: jax.Array | None = None,  # [batch, q_length] int32
    kv_segments: jax.Array | None = None,  # [batch, kv_length] int32
    backend: str = "reference",
) -> jax.Array:  # [batch, q_length, heads, head_dim], dtype of q
    """Softmax attention over keys of the same segment whose position is not later than the query's.

    Positions restart in each packed document, segments tell documents apart; together they are the causal mask, for
    training (packed or not), prefill and decoding from a cache alike. Raises ValueError for an unknown back end.
    """
    try:
        function = BACKENDS[backend]
    except KeyError:
        raise ValueError(f"attention back end '{backend}' is unknown: use one of {sorted(BACKENDS)}") from None
    return function(q, k, v, q_positions, kv_positions, q_segments, kv_segments)


def _reference(q, k, v, q_positions, kv_positions, q_segments, kv_segments):
    """Plain einsums with fp32 softmax: the truth that the other back ends are held to."""
    batch, q_length, heads, head_dim = q.shape
    kv_heads = k.shape[2]
    q = q.reshape(batch, q_length, kv_heads, heads // kv_heads, head_dim)
    scores = jnp.einsum("bqkgd,bskd->bkgqs", q, k, preferred_element_type=jnp.float32) * head_dim**-0.5
    mask = kv_positions[:, None, :] <= q_positions[:, :, None]
    if q_segments is not None:
        mask &= kv_segments[:, None, :] == q_segments[:, :, None]
    scores = jnp.where(mask[:, None, None], scores, _MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("bkgqs,bskd->bqkgd", weights, v)
    return out.reshape(batch, q_length, heads, head_dim)


BACKENDS: dict[str, Callable[..., jax.Array]] = {"reference": _reference}
