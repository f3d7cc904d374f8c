"""The model as decoding runs it: weights laid out for being read once per token, keys and values in a cache.

`model.Transformer` says what the model is. Here every layer's arrays stand on their own (a slice of a stacked array
would be copied before it is used, which takes as long as using it), those that read the same input are one array, and
all are matrices of outputs by inputs. Activations stand in columns, one for each token: then CPUs read the weights as
they lie, where XLA would transpose them at every step.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from oc_jax.attention import attention
from oc_jax.model import ModelConfig, Params, rope
from oc_jax.sharding import Layout

_MASKED = -1e30  # finite, so that an empty slot gives numbers, not NaN


class Layer(NamedTuple):
    attention_norm: Any  # [embed]
    qkv: Any  # [kv_heads · (group + 2) · head_dim, embed]: the queries that share a key, that key and its value
    o: Any  # [embed, heads · head_dim]
    mlp_norm: Any  # [embed]
    gate_up: Any  # [mlp · 2, embed]
    down: Any  # [embed, mlp]


class Weights(NamedTuple):
    embedding: Any  # [vocab, embed]
    layers: list[Layer]
    norm: Any  # [embed]
    lm_head: Any  # [vocab, embed]


class Cache(NamedTuple):
    """Keys and values of one layer; place i of a row holds position i.

    One axis for heads and slots, since XLA would take an axis of one slot off before each use, by a copy. Keys stand as
    a matrix product reads them, which is several times as fast on CPU.
    """

    k: jax.Array  # [kv_heads · slots, head_dim, places]
    v: jax.Array  # [kv_heads · slots, places, head_dim]


def lay_out(config: ModelConfig, params: Params, layout: Layout) -> Weights:
    """`params` as decoding reads them, split over devices as in training."""
    group = config.num_attention_heads // config.num_key_value_heads
    heads = (config.num_key_value_heads, group, config.head_dim)
    names = Layer(("norm",), ("kv_heads", "embed"), ("embed", "heads"), ("norm",), ("mlp", "embed"), ("embed", "mlp"))

    @functools.partial(jax.jit, out_shardings=Layer(*(layout.sharding(*axes) for axes in names)))
    def layer(stacked: Params, i) -> Layer:
        one = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), stacked)
        parts, mlp, embed = one["attention"], one["mlp"], config.hidden_size
        q = parts["q"].reshape(embed, *heads)
        k, v = parts["k"][:, :, None], parts["v"][:, :, None]
        return Layer(
            one["attention_norm"]["scale"],
            jnp.concatenate([q, k, v], axis=2).reshape(embed, -1).T,
            parts["o"].reshape(-1, embed).T,
            one["mlp_norm"]["scale"],
            jnp.stack([mlp["gate"], mlp["up"]], axis=-1).reshape(embed, -1).T,
            mlp["down"].T,
        )

    layers = [layer(params["layers"], i) for i in range(config.num_hidden_layers)]
    return Weights(params["embedding"], layers, params["norm"]["scale"], params["lm_head"].T)


def empty_caches(config: ModelConfig, slots: int, length: int, dtype: Any, layout: Layout) -> list[Cache]:
    """Split over heads as in training, where they divide."""
    heads = "act_kv_heads" if config.num_key_value_heads % layout.ways("act_kv_heads") == 0 else None
    sharding = layout.sharding(heads, None, None)
    empty = lambda *shape: jax.device_put(jnp.zeros((config.num_key_value_heads * slots, *shape), dtype), sharding)
    one = lambda: Cache(empty(config.head_dim, length), empty(length, config.head_dim))
    return [one() for _ in range(config.num_hidden_layers)]


def grown(caches: Sequence[Cache], length: int) -> list[Cache]:
    """The same with `length` places."""

    def one(cache: Cache) -> Cache:
        more = (0, length - cache.v.shape[1])
        return Cache(jnp.pad(cache.k, ((0, 0), (0, 0), more)), jnp.pad(cache.v, ((0, 0), more, (0, 0))))

    return [one(cache) for cache in caches]


def forward(
    config: ModelConfig, weights: Weights, tokens: jax.Array, positions: jax.Array, caches: Sequence[Cache | None]
) -> tuple[jax.Array, list[Any]]:
    """Hidden states [embed, batch · length] of `tokens` at `positions` [batch, length], and the caches with them.

    Without caches (None for each layer) a row is a text from its beginning.
    """
    x = weights.embedding[tokens.reshape(-1)].T
    after = []
    for layer, cache in zip(weights.layers, caches, strict=True):
        attended, cache = _attend(config, layer, _norm(config, x, layer.attention_norm), positions, cache)
        x = x + attended
        gate_up = (layer.gate_up @ _norm(config, x, layer.mlp_norm)).reshape(-1, 2, x.shape[1])
        x = x + layer.down @ (jax.nn.silu(gate_up[:, 0]) * gate_up[:, 1])
        after.append(cache)
    return _norm(config, x, weights.norm), after


def logits(weights: Weights, hidden: jax.Array) -> jax.Array:
    """fp32 [vocab, tokens] of hidden states [embed, tokens]."""
    return jnp.matmul(weights.lm_head, hidden, preferred_element_type=jnp.float32)


def _attend(config: ModelConfig, layer: Layer, x, positions, cache: Cache | None) -> tuple[jax.Array, Cache | None]:
    batch, length = positions.shape
    heads = (layer.qkv @ x).reshape(config.num_key_value_heads, -1, config.head_dim, batch, length)
    heads = heads.transpose(3, 4, 0, 1, 2)  # [batch, length, kv_heads, group + 2, head_dim]
    turned = heads[..., :-1, :].reshape(batch, length, -1, config.head_dim)
    turned = rope(turned, positions, config.rope_theta).reshape(heads[..., :-1, :].shape)
    q, k, v = turned[..., :-1, :].reshape(batch, length, -1, config.head_dim), turned[..., -1, :], heads[..., -1, :]
    if cache is None:
        out = attention(q, k, v, positions=positions, backend=config.attention_backend)
    else:
        cache = _written(cache, k, v, positions)
        out = _attend_to_cache(q, positions, cache)
    return layer.o @ out.reshape(x.shape[1], -1).T, cache


def _written(cache: Cache, k: jax.Array, v: jax.Array, positions: jax.Array) -> Cache:
    """`cache` with `k` and `v` [batch, length, kv_heads, head_dim] at `positions`.

    Only a row that has ended may lie beyond the last place; nobody reads what it writes instead.
    """
    batch, _, kv_heads, head_dim = k.shape
    if batch == 1:  # XLA would copy the cache for a scatter of one row
        put, start = jax.lax.dynamic_update_slice_in_dim, positions[0, 0]
        return Cache(put(cache.k, k[0].transpose(1, 2, 0), start, 2), put(cache.v, v[0].swapaxes(0, 1), start, 1))
    rows = jnp.arange(batch)[:, None]
    keys = cache.k.reshape(kv_heads, batch, head_dim, -1).at[:, rows, :, positions].set(k, mode="clip")
    values = (
        cache.v.reshape(kv_heads, batch, -1, head_dim).at[:, rows, positions].set(v.transpose(2, 0, 1, 3), mode="clip")
    )
    return Cache(keys.reshape(cache.k.shape), values.reshape(cache.v.shape))


def _attend_to_cache(q: jax.Array, positions: jax.Array, cache: Cache) -> jax.Array:
    """q [batch, length, heads, head_dim] → [batch, length, kv_heads, group, head_dim], of places up to the position."""
    batch, length, _, head_dim = q.shape
    kv_heads, places = len(cache.k) // batch, cache.v.shape[1]
    q = q.reshape(batch, length, kv_heads, -1, head_dim).transpose(2, 0, 3, 1, 4)  # [kv_heads, batch, group, length, …]
    rows = q.reshape(kv_heads * batch, -1, head_dim)
    scores = jnp.matmul(rows, cache.k, preferred_element_type=jnp.float32) * head_dim**-0.5
    seen = jnp.arange(places) <= positions[:, None, :, None]
    scores = jnp.where(seen, scores.reshape(*q.shape[:-1], places), _MASKED)
    shares = jax.nn.softmax(scores, axis=-1).astype(cache.v.dtype).reshape(*rows.shape[:2], places)
    return jnp.matmul(shares, cache.v).reshape(q.shape).transpose(1, 3, 0, 2, 4)


def _norm(config: ModelConfig, x: jax.Array, scale: jax.Array) -> jax.Array:
    y = x.astype(jnp.float32)
    y *= jax.lax.rsqrt(jnp.mean(y * y, axis=0, keepdims=True) + config.rms_norm_eps)
    return y.astype(x.dtype) * scale[:, None]
