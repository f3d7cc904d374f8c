"""Causal grouped-query attention behind one function.

`attention(..., backend=)` is the only door. A back end that cannot honour the mask it is given must raise: silently
attending across packed documents is the classic bug of this field.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from oc_jax import cpu
from oc_jax.sharding import Layout

_MASKED = -1e30  # finite, so that a row with nothing to attend to gives numbers, not NaN
_SPLASH_BLOCK = 512  # queries and keys per tile; smaller where the sequence is


def attention(
    q: jax.Array,  # [batch, length, heads, head_dim]
    k: jax.Array,  # [batch, length, kv_heads, head_dim]
    v: jax.Array,  # [batch, length, kv_heads, head_dim]
    *,
    positions: jax.Array,  # [batch, length] int32
    segments: jax.Array | None = None,  # [batch, length] int32; None: one document per row
    backend: str = "reference",
    layout: Layout | None = None,  # how the arrays are spread; None: one device
) -> jax.Array:  # [batch, length, heads, head_dim], dtype of q
    """Softmax attention over keys of the same segment whose position is not later than the query's.

    Positions restart in each packed document and grow along it, segments tell documents apart; together they are the
    causal mask. Back ends: reference (anywhere), native (CPU), splash (TPU), cudnn (GPU), or auto, which goes by the
    platform of `layout` or else of the process; on CPU it is reference where native cannot be.

    Raises ValueError for an unknown back end, and for a mask or a layout that the back end cannot honour.
    """
    if backend == "auto":
        backend = {"tpu": "splash", "gpu": "cudnn", "cuda": "cudnn"}.get(_platform(layout), "native")
        if backend == "native" and _not_native(q, layout):
            backend = "reference"
    if backend not in BACKENDS:
        raise ValueError(f"attention back end '{backend}' is unknown: use auto or one of {sorted(BACKENDS)}")
    return BACKENDS[backend](q, k, v, positions, segments, layout)


def _platform(layout: Layout | None) -> str:
    return jax.default_backend() if layout is None else layout.mesh.devices.flat[0].platform


def _reference(q, k, v, positions, segments, layout):
    """Plain einsums with fp32 softmax: the truth that the other back ends are held to."""
    batch, length, heads, head_dim = q.shape
    q = q.reshape(batch, length, k.shape[2], -1, head_dim)
    scores = jnp.einsum("bqkgd,bskd->bkgqs", q, k, preferred_element_type=jnp.float32) * head_dim**-0.5
    mask = positions[:, None, :] <= positions[:, :, None]
    if segments is not None:
        mask &= segments[:, None, :] == segments[:, :, None]
    scores = jnp.where(mask[:, None, None], scores, _MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("bkgqs,bskd->bqkgd", weights, v).reshape(batch, length, heads, head_dim)
    return checkpoint_name(out, "context")


def _native(q, k, v, positions, segments, layout):
    """Our own kernel for CPU, in float32: each device on its own rows and heads."""
    reason = _not_native(q, layout)
    if reason:
        raise ValueError(f"attention back end 'native' {reason}: use reference")
    dtype = q.dtype
    segments = jnp.zeros_like(positions) if segments is None else segments
    q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    run = cpu.attention
    if layout is not None and layout.mesh.size > 1:
        queries = layout.spec("batch", "length", "act_heads", "head_dim")
        keys = layout.spec("batch", "length", "act_kv_heads", "head_dim")
        ids = layout.spec("batch", "length")
        specs = (queries, keys, keys, ids, ids)
        run = jax.shard_map(run, mesh=layout.mesh, in_specs=specs, out_specs=queries, check_vma=False)
    return run(q, k, v, positions, segments).astype(dtype)


def _not_native(q, layout) -> str:
    """Why the kernel for CPU cannot do this; empty if it can."""
    if layout is not None and layout.ways("length") > 1:
        return "cannot split the sequence (MeshConfig.context > 1)"
    if q.shape[-1] % cpu.LANES:
        return f"needs a head_dim that is a multiple of {cpu.LANES}, not {q.shape[-1]}"
    return "" if cpu.available() else "needs a C++ compiler"


def _splash(q, k, v, positions, segments, layout):
    """The Pallas flash attention of JAX for TPU, each device on its own heads and queries and on all keys.

    On any other platform the kernel is interpreted, which is slow and only good for tests.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash

    length, heads, head_dim = q.shape[1:]
    context = 1 if layout is None else layout.ways("length")
    interpret = _platform(layout) != "tpu"
    padding = -length % (128 * context)
    if padding:  # at the end, where causality hides it
        pad = lambda x: jnp.pad(x, ((0, 0), (0, padding), *((0, 0),) * (x.ndim - 2)))
        q, k, v = pad(q), pad(k), pad(v)
        segments = None if segments is None else pad(segments)
    local_heads = heads if layout is None else heads // layout.ways("act_heads")
    kernel = _splash_kernel(length + padding, local_heads, context, interpret)

    def local(kernel, q, k, v, q_segments, kv_segments):
        ids = None if q_segments is None else splash.SegmentIds(q_segments, kv_segments)
        heads_first = lambda x: x.swapaxes(1, 2)
        out = jax.vmap(kernel)(heads_first(q), heads_first(k), heads_first(v), ids)
        return heads_first(out)

    q = q * jnp.asarray(head_dim**-0.5, q.dtype)
    if layout is None:
        out = local(kernel, q, k, v, segments, segments)
    else:
        queries = layout.spec("batch", "length", "act_heads", "head_dim")
        keys = layout.spec("batch", None, "act_kv_heads", "head_dim")
        ids = (None, None)
        if segments is not None:
            ids = (layout.spec("batch", "length"), layout.spec("batch", None))
        kernel_spec = kernel.manual_sharding_spec(layout.sharding(None, "length"))
        out = jax.shard_map(
            local,
            mesh=layout.mesh,
            in_specs=(kernel_spec, queries, keys, keys, *ids),
            out_specs=queries,
            check_vma=False,
        )(kernel, q, k, v, segments, segments)
    return out[:, :length]


@functools.cache
def _splash_kernel(length: int, heads: int, context: int, interpret: bool):
    """The kernel for a causal mask of `length` keys whose queries are cut into `context` parts."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    def block(size: int) -> int:
        return next(b for b in range(min(_SPLASH_BLOCK, size), 0, -128) if size % b == 0)

    queries, keys = block(length // context), block(length)
    with jax.ensure_compile_time_eval():
        return splash.make_splash_mha(
            masks.MultiHeadMask([masks.CausalMask((length, length))] * heads),
            block_sizes=splash.BlockSizes(
                block_q=queries,
                block_kv=keys,
                block_q_dkv=queries,
                block_kv_dkv=keys,
                block_q_dq=queries,
                block_kv_dq=keys,
            ),
            head_shards=1,
            q_seq_shards=context,
            residual_checkpoint_name="context",
            interpret=interpret,
        )


def _cudnn(q, k, v, positions, segments, layout):
    """cuDNN's flash attention. Packed documents are told apart by a mask of [batch, 1, length, length]."""
    if layout is not None and layout.ways("length") > 1:
        raise ValueError("attention back end 'cudnn' cannot split the sequence: set MeshConfig.context = 1")
    mask = None if segments is None else segments[:, None, :, None] == segments[:, None, None, :]
    out = jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=True, implementation="cudnn")
    return checkpoint_name(out, "context")


BACKENDS: dict[str, Callable[..., jax.Array]] = {
    "reference": _reference,
    "native": _native,
    "splash": _splash,
    "cudnn": _cudnn,
}
