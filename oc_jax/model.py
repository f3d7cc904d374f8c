"""The OpenCoder Transformer (paper Table 4): a Llama-style decoder with RMSNorm, GQA, RoPE and SwiGLU.

Flax NNX holds the parameters and nothing else: `abstract` splits a model once into a graph definition and a tree of
shapes, `apply` merges them again inside a plain `jax.jit`. Layers are stored stacked (leading axis ``layers``) and run
under `jax.lax.scan`; there is no other layout. Axes have logical names only; `sharding.Layout` maps them to devices.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import gin
import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from oc_jax.attention import attention
from oc_jax.sharding import Layout

Params = dict[str, Any]  # nested dict of arrays, the tree that is trained, saved and exported

# What the backward pass keeps of a layer (besides its input) and what it computes again.
REMAT = {
    "none": jax.checkpoint_policies.everything_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
# In order: q, k, v as attention reads them; its output; the residual stream after attention; halves of SwiGLU.
ACTIVATIONS = ("query", "key", "value", "context", "middle", "gate", "up")


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Architecture, in the names of Hugging Face's `LlamaConfig`."""

    vocab_size: int = gin.REQUIRED
    hidden_size: int = gin.REQUIRED
    intermediate_size: int = gin.REQUIRED
    num_hidden_layers: int = gin.REQUIRED
    num_attention_heads: int = gin.REQUIRED
    num_key_value_heads: int = gin.REQUIRED
    head_dim: int = gin.REQUIRED
    max_position_embeddings: int = gin.REQUIRED
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    attention_backend: str = "auto"
    remat: str | Sequence[str] = "none"  # none | dots | full, or the ACTIVATIONS to keep

    def __post_init__(self):
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"ModelConfig: {self.num_attention_heads} query heads do not divide over "
                f"{self.num_key_value_heads} key-value heads"
            )
        if not isinstance(self.remat, str):
            object.__setattr__(self, "remat", tuple(self.remat))  # hashable, so that a config can be a static argument
        known = self.remat in REMAT if isinstance(self.remat, str) else not set(self.remat) - set(ACTIVATIONS)
        if not known:
            raise ValueError(
                f"ModelConfig.remat = {self.remat!r} is unknown: use one of {sorted(REMAT)} or a list of {ACTIVATIONS}"
            )

    @property
    def remat_policy(self):
        """The policy of `jax.checkpoint` that `remat` stands for."""
        if isinstance(self.remat, str):
            return REMAT[self.remat]
        return jax.checkpoint_policies.save_only_these_names(*self.remat)


def _place(layout: Layout | None, x: jax.Array, *names: str) -> jax.Array:
    return x if layout is None else layout.constrain(x, *names)


def rotations(positions: jax.Array, head_dim: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of rotary embedding at `positions` [batch, length]: fp32 [batch, length, 1, head_dim / 2]."""
    half = head_dim // 2
    inverse_frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions[..., None, None].astype(jnp.float32) * inverse_frequency
    return jnp.cos(angle), jnp.sin(angle)


def rope(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotary embedding of `x` [batch, length, heads, head_dim] by its `rotations`.

    Rotates the first half of head_dim against the second, as Hugging Face's Llama does. Computed in fp32.
    """
    x1, x2 = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1).astype(x.dtype)


def project(spec: str, x: jax.Array, w: jax.Array, layout: Layout | None) -> jax.Array:
    """`jnp.einsum(spec, x, w)` whose gradient for `w` is one einsum in the layout of `w`.

    Automatic differentiation contracts the other way round and transposes, which XLA runs 1.8 times slower on CPU.
    """
    return _project(spec, layout is None or layout.mesh.size == 1, x, w)  # pyright: ignore[reportReturnType]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _project(spec, one_device, x, w):
    return jnp.einsum(spec, x, w)


def _project_forward(spec, one_device, x, w):
    return jnp.einsum(spec, x, w), (x, w)


def _project_backward(spec, one_device, residuals, g):
    (x_axes, w_axes), y_axes = spec.split("->")[0].split(","), spec.split("->")[1]
    x, w = residuals
    if one_device:  # as matrices, without a transposition; a mesh may split batch, length and heads differently
        tokens = math.prod(x.shape[:2])
        flat_x, flat_g = x.reshape(tokens, -1), g.reshape(tokens, -1)
        w_grad = jnp.einsum("li,lo->io", flat_x, flat_g).reshape(w.shape)
        return jnp.einsum("lo,io->li", flat_g, w.reshape(flat_x.shape[1], -1)).reshape(x.shape), w_grad
    return jnp.einsum(f"{y_axes},{w_axes}->{x_axes}", g, w), jnp.einsum(f"{x_axes},{y_axes}->{w_axes}", x, g)


_project.defvjp(_project_forward, _project_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def look_up(table: jax.Array, tokens: jax.Array, layout: Layout) -> jax.Array:
    """Rows of `table` [vocab, embed] for `tokens` [batch, length] → [batch, length, embed].

    Each device looks its own tokens up in its own part of the vocabulary. The gradient adds up in fp32, for a frequent
    token occurs thousands of times in a batch, and is summed over the devices once.
    """
    return _look_up_forward(table, tokens, layout)[0]


def _look_up_forward(table, tokens, layout: Layout):
    def local(table, tokens):
        table = layout.gather(table, "embed", axis=1)
        rows = _own_rows(tokens, len(table), layout)
        x = jnp.where((rows < len(table))[..., None], table.at[rows].get(mode="clip"), 0)
        return jax.lax.psum(x, layout.axes("vocab"))

    vocab_embed, batch_length = layout.spec("vocab", "embed"), layout.spec("batch", "length")
    x = jax.shard_map(
        local,
        mesh=layout.mesh,
        in_specs=(vocab_embed, batch_length),
        out_specs=layout.spec("batch", "length", "act_embed"),
        check_vma=False,
    )(table, tokens)
    return x, (jnp.zeros((0, len(table)), table.dtype), tokens)


def _look_up_backward(layout: Layout, residuals, gradient):
    like, tokens = residuals
    vocab, of_embed = like.shape[1] // layout.ways("vocab"), layout.axes("embed")

    def local(tokens, gradient):
        total = jnp.zeros((vocab, gradient.shape[-1]), jnp.float32)
        total = total.at[_own_rows(tokens, vocab, layout)].add(gradient.astype(jnp.float32), mode="drop")
        total = layout.sum_scatter(total, "embed", axis=1)
        rest = {*layout.axes("batch"), *layout.axes("length")} - set(of_embed)
        return jax.lax.psum(total, tuple(sorted(rest))).astype(like.dtype)

    table_gradient = jax.shard_map(
        local,
        mesh=layout.mesh,
        in_specs=(layout.spec("batch", "length"), layout.spec("batch", "length", "act_embed")),
        out_specs=layout.spec("vocab", "embed"),
        check_vma=False,
    )(tokens, gradient)
    return table_gradient, None


def _own_rows(tokens: jax.Array, rows: int, layout: Layout) -> jax.Array:
    """`tokens` counted from this device's first of `rows` rows; `rows` where another device has it."""
    own = tokens - jax.lax.axis_index(layout.axes("vocab")) * rows
    return jnp.where((own >= 0) & (own < rows), own, rows)


look_up.defvjp(_look_up_forward, _look_up_backward)


class RMSNorm(nnx.Module):
    def __init__(self, config: ModelConfig):
        self.scale = nnx.Param(jnp.ones((config.hidden_size,)), axes=("norm",))
        self.eps = config.rms_norm_eps

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.astype(jnp.float32)
        y *= jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
        return y.astype(x.dtype) * self.scale[...]


def _weight(rngs: nnx.Rngs, config: ModelConfig, shape: tuple[int, ...], axes: tuple[str, ...]) -> nnx.Param:
    return nnx.Param(config.initializer_range * jax.random.normal(rngs.params(), shape), axes=axes)


class Attention(nnx.Module):
    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        d, n, k, h = config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.q = _weight(rngs, config, (d, n, h), ("embed", "heads", "head_dim"))
        self.k = _weight(rngs, config, (d, k, h), ("embed", "kv_heads", "head_dim"))
        self.v = _weight(rngs, config, (d, k, h), ("embed", "kv_heads", "head_dim"))
        self.o = _weight(rngs, config, (n, h, d), ("heads", "head_dim", "embed"))
        self.config = config

    def __call__(self, x, positions, segment_ids, layout: Layout | None) -> jax.Array:
        """x [batch, length, embed] → same."""
        config = self.config
        q = project("bld,dnh->blnh", x, self.q[...], layout)
        k = project("bld,dkh->blkh", x, self.k[...], layout)
        v = checkpoint_name(project("bld,dkh->blkh", x, self.v[...], layout), "value")
        turn = rotations(positions, config.head_dim, config.rope_theta)
        q = _place(layout, rope(q, *turn), "batch", "length", "act_heads", "head_dim")
        k = _place(layout, rope(k, *turn), "batch", "length", "act_kv_heads", "head_dim")
        q, k = checkpoint_name(q, "query"), checkpoint_name(k, "key")
        out = attention(
            q, k, v, positions=positions, segments=segment_ids, backend=config.attention_backend, layout=layout
        )
        return project("blnh,nhd->bld", out, self.o[...], layout)


@jax.custom_vjp
def swiglu(gate: jax.Array, up: jax.Array) -> jax.Array:
    """silu(gate) · up, of which a backward pass keeps `gate` and `up` alone."""
    return jax.nn.silu(gate) * up


def _swiglu_backward(residuals, g):
    # The barrier makes XLA hold three arrays of this size instead of four: what follows fuses into the products.
    gate, up, g = jax.lax.optimization_barrier((*residuals, g))
    _, pull = jax.vjp(lambda gate, up: jax.nn.silu(gate) * up, gate, up)
    return pull(g)


swiglu.defvjp(lambda gate, up: (swiglu(gate, up), (gate, up)), _swiglu_backward)


class MLP(nnx.Module):
    """SwiGLU."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        d, m = config.hidden_size, config.intermediate_size
        self.gate = _weight(rngs, config, (d, m), ("embed", "mlp"))
        self.up = _weight(rngs, config, (d, m), ("embed", "mlp"))
        self.down = _weight(rngs, config, (m, d), ("mlp", "embed"))

    def __call__(self, x: jax.Array, layout: Layout | None) -> jax.Array:
        gate = checkpoint_name(project("bld,dm->blm", x, self.gate[...], layout), "gate")
        up = checkpoint_name(project("bld,dm->blm", x, self.up[...], layout), "up")
        hidden = _place(layout, swiglu(gate, up), "batch", "length", "act_mlp")
        return project("blm,md->bld", hidden, self.down[...], layout)


class Block(nnx.Module):
    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config)
        self.attention = Attention(config, rngs)
        self.mlp_norm = RMSNorm(config)
        self.mlp = MLP(config, rngs)

    def __call__(self, x, positions, segment_ids, layout: Layout | None) -> jax.Array:
        attended = self.attention(self.attention_norm(x), positions, segment_ids, layout)
        x = checkpoint_name(_place(layout, x + attended, "batch", "length", "act_embed"), "middle")
        x = x + self.mlp(self.mlp_norm(x), layout)
        return _place(layout, x, "batch", "length", "act_embed")


class Transformer(nnx.Module):
    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.embedding = _weight(rngs, config, (config.vocab_size, config.hidden_size), ("vocab", "embed"))
        stack = nnx.vmap(lambda rngs: Block(config, rngs), in_axes=0, out_axes=0)
        self.layers = nnx.split_rngs(splits=config.num_hidden_layers)(stack)(rngs)
        self.norm = RMSNorm(config)
        self.lm_head = _weight(rngs, config, (config.hidden_size, config.vocab_size), ("embed", "vocab"))
        self.config = config

    def __call__(
        self,
        tokens: jax.Array,  # [batch, length] int32
        positions: jax.Array,  # [batch, length] int32
        segment_ids: jax.Array | None = None,  # [batch, length] int32; None: one document per row
        layout: Layout | None = None,  # how everything is spread over devices; None: all of it on one
    ) -> jax.Array:
        """Hidden states [batch, length, hidden_size] before the output projection."""
        table = self.embedding[...]
        x = table[tokens] if layout is None else look_up(table, tokens, layout)
        graphdef, layers = nnx.split(self.layers)

        def block(x, params):
            return nnx.merge(graphdef, params)(x, positions, segment_ids, layout), None

        if self.config.remat != "none":
            block = jax.checkpoint(block, policy=self.config.remat_policy, prevent_cse=False)
        x, _ = jax.lax.scan(block, x, layers)
        return self.norm(x)


def abstract(config: ModelConfig) -> tuple[nnx.GraphDef, Params, Params]:
    """(graph definition, tree of shapes, tree of logical axis names) of a model, without allocating it."""
    model = nnx.eval_shape(lambda: Transformer(config, nnx.Rngs(0)))
    graphdef, state = nnx.split(model)

    def axes(path, variable):
        return ("layers", *variable.axes) if path[0].key == "layers" else variable.axes

    names = jax.tree_util.tree_map_with_path(axes, state, is_leaf=lambda x: isinstance(x, nnx.Variable))
    return graphdef, nnx.to_pure_dict(state), nnx.to_pure_dict(names)


def init_params(config: ModelConfig, key: jax.Array) -> Params:
    """Fresh fp32 parameters from N(0, initializer_range²), norms at one. Jit it with `out_shardings`."""
    return nnx.to_pure_dict(nnx.state(Transformer(config, nnx.Rngs(key))))
