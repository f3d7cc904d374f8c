"""The model as decoding runs it: weights laid out for being read once per token, keys and values in a cache.

`model.Transformer` says what the model is. Here every layer's arrays stand on their own (a slice of a stacked array
would be copied before it is used, which takes as long as using it), those that read the same input are one array, and
all are matrices of outputs by inputs. Activations stand in columns, one for each token: then CPUs read the weights as
they lie, where XLA would transpose them at every step.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from oc_jax import cpu
from oc_jax.attention import attention
from oc_jax.model import ModelConfig, Params, rope, rotations
from oc_jax.sharding import Layout

_MASKED = -1e30  # finite, so that an empty slot gives numbers, not NaN


@functools.partial(jax.tree_util.register_dataclass, data_fields=["rows"], meta_fields=["native"])
@dataclasses.dataclass(frozen=True)
class Matrix:
    """A weight [outputs, inputs], and whether our kernel for CPU multiplies it where that is faster than XLA."""

    rows: Any
    native: bool

    def __matmul__(self, x: jax.Array) -> jax.Array:
        return self.times(x, x.dtype)

    def times(self, x: jax.Array, dtype: Any) -> jax.Array:
        """The product with `x` [inputs, columns] as `dtype`: [outputs, columns]."""
        if self.native and 1 < x.shape[1] <= cpu.MOST_COLUMNS:
            return cpu.product(self.rows, x)
        return jnp.matmul(self.rows, x, preferred_element_type=dtype)


class Layer(NamedTuple):
    attention_norm: Any  # [embed]
    qkv: Any  # Matrix [kv_heads · (group + 2) · head_dim, embed]: the queries that share a key, that key and its value
    o: Any  # Matrix [embed, heads · head_dim]
    mlp_norm: Any  # [embed]
    gate_up: Any  # Matrix [mlp · 2, embed]
    down: Any  # Matrix [embed, mlp]


class Weights(NamedTuple):
    embedding: Any  # [vocab, embed]
    layers: list[Layer]
    norm: Any  # [embed]
    lm_head: Matrix  # [vocab, embed]


class Cache(NamedTuple):
    """Keys and values of one layer; place i of a row holds position i.

    One axis for heads and slots, since XLA would take an axis of one slot off before each use, by a copy.
    """

    k: jax.Array  # [kv_heads · slots, places, head_dim]
    v: jax.Array  # [kv_heads · slots, places, head_dim]


def lay_out(config: ModelConfig, params: Params, layout: Layout) -> Weights:
    """`params` as decoding reads them, split over devices as in training."""
    group = config.num_attention_heads // config.num_key_value_heads
    heads = (config.num_key_value_heads, group, config.head_dim)
    names = Layer(("norm",), ("kv_heads", "embed"), ("embed", "heads"), ("norm",), ("mlp", "embed"), ("embed", "mlp"))
    one_cpu = layout.mesh.size == 1 and layout.mesh.devices.item().platform == "cpu"
    suits = params["lm_head"].dtype == jnp.float32 and config.head_dim % cpu.LANES == 0
    native = one_cpu and suits and cpu.available()
    matrix = lambda columns: Matrix(columns.T, native)

    @functools.partial(jax.jit, out_shardings=Layer(*(layout.sharding(*axes) for axes in names)))
    def layer(stacked: Params, i) -> Layer:
        one = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), stacked)
        parts, mlp, embed = one["attention"], one["mlp"], config.hidden_size
        q = parts["q"].reshape(embed, *heads)
        k, v = parts["k"][:, :, None], parts["v"][:, :, None]
        return Layer(
            one["attention_norm"]["scale"],
            matrix(jnp.concatenate([q, k, v], axis=2).reshape(embed, -1)),
            matrix(parts["o"].reshape(-1, embed)),
            one["mlp_norm"]["scale"],
            matrix(jnp.stack([mlp["gate"], mlp["up"]], axis=-1).reshape(embed, -1)),
            matrix(mlp["down"]),
        )

    layers = [layer(params["layers"], i) for i in range(config.num_hidden_layers)]
    return Weights(params["embedding"], layers, params["norm"]["scale"], matrix(params["lm_head"]))


def empty_caches(config: ModelConfig, slots: int, length: int, dtype: Any, layout: Layout) -> list[Cache]:
    """Split over heads as in training, where they divide."""
    heads = "act_kv_heads" if config.num_key_value_heads % layout.ways("act_kv_heads") == 0 else None
    sharding = layout.sharding(heads, None, None)
    empty = lambda *shape: jax.device_put(jnp.zeros((config.num_key_value_heads * slots, *shape), dtype), sharding)
    return [Cache(*(empty(length, config.head_dim) for _ in Cache._fields)) for _ in range(config.num_hidden_layers)]


def grown(caches: Sequence[Cache], length: int) -> list[Cache]:
    """The same with `length` places."""
    return jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, length - x.shape[1]), (0, 0))), caches)


def forward(
    config: ModelConfig, weights: Weights, tokens: jax.Array, positions: jax.Array, caches: Sequence[Cache | None]
) -> tuple[jax.Array, list[Any]]:
    """Hidden states [embed, batch · length] of `tokens` at `positions` [batch, length], and the caches with them.

    Without caches (None for each layer) a row is a text from its beginning.
    """
    x = weights.embedding[tokens.reshape(-1)].T
    turn = rotations(positions, config.head_dim, config.rope_theta)
    after = []
    for layer, cache in zip(weights.layers, caches, strict=True):
        attended, cache = _attend(config, layer, _norm(config, x, layer.attention_norm), positions, turn, cache)
        x = x + attended
        gate_up = (layer.gate_up @ _norm(config, x, layer.mlp_norm)).reshape(-1, 2, x.shape[1])
        x = x + layer.down @ (jax.nn.silu(gate_up[:, 0]) * gate_up[:, 1])
        after.append(cache)
    return _norm(config, x, weights.norm), after


def logits(weights: Weights, hidden: jax.Array) -> jax.Array:
    """fp32 [vocab, tokens] of hidden states [embed, tokens]."""
    return weights.lm_head.times(hidden, jnp.float32)


def _attend(config: ModelConfig, layer: Layer, x, positions, turn, cache: Cache | None):
    """What attention adds to the residual stream for normalised `x` [embed, batch · length], and the new cache."""
    batch, length = positions.shape
    heads = (layer.qkv @ x).reshape(config.num_key_value_heads, -1, config.head_dim, batch, length)
    rows = lambda x: x.reshape(-1, *x.shape[-3:]).transpose(2, 3, 0, 1)  # [batch, length, heads, head_dim]
    q, k, v = rows(heads[:, :-2]), rows(heads[:, -2]), rows(heads[:, -1])
    if cache is not None and layer.qkv.native and length == 1:
        cos, sin = turn
        out, *written = cpu.step(q[:, 0], k[:, 0], v[:, 0], cos[:, 0], sin[:, 0], positions[:, 0], cache.k, cache.v)
        cache = Cache(*written)
    else:
        q, k = rope(q, *turn), rope(k, *turn)
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
    batch, _, kv_heads, _ = k.shape
    if batch == 1:  # XLA would copy the cache for a scatter of one row
        put = jax.lax.dynamic_update_slice_in_dim
        k, v = k[0].swapaxes(0, 1), v[0].swapaxes(0, 1)
        return Cache(put(cache.k, k, positions[0, 0], axis=1), put(cache.v, v, positions[0, 0], axis=1))
    rows = jnp.arange(batch)[:, None]

    def scattered(old, new):
        places = old.reshape(kv_heads, batch, *old.shape[1:])
        return places.at[:, rows, positions].set(new.transpose(2, 0, 1, 3), mode="clip").reshape(old.shape)

    return Cache(scattered(cache.k, k), scattered(cache.v, v))


def _attend_to_cache(q: jax.Array, positions: jax.Array, cache: Cache) -> jax.Array:
    """q [batch, length, heads, head_dim] → [batch, length, kv_heads, group, head_dim], of places up to the position."""
    batch, length, _, head_dim = q.shape
    kv_heads, places = len(cache.k) // batch, cache.v.shape[1]
    q = q.reshape(batch, length, kv_heads, -1, head_dim).transpose(2, 0, 3, 1, 4)  # [kv_heads, batch, group, length, …]
    rows = q.reshape(kv_heads * batch, -1, head_dim)
    scores = jnp.einsum("nqd,nsd->nqs", rows, cache.k, preferred_element_type=jnp.float32) * head_dim**-0.5
    seen = jnp.arange(places) <= positions[:, None, :, None]
    scores = jnp.where(seen, scores.reshape(*q.shape[:-1], places), _MASKED)
    shares = jax.nn.softmax(scores, axis=-1).astype(cache.v.dtype).reshape(*rows.shape[:2], places)
    return jnp.matmul(shares, cache.v).reshape(q.shape).transpose(1, 3, 0, 2, 4)


def _norm(config: ModelConfig, x: jax.Array, scale: jax.Array) -> jax.Array:
    y = x.astype(jnp.float32)
    y *= jax.lax.rsqrt(jnp.mean(y * y, axis=0, keepdims=True) + config.rms_norm_eps)
    return y.astype(x.dtype) * scale[:, None]
