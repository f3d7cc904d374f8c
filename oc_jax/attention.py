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

from oc_jax.sharding import Layout

_MASKED = -1e30  # finite, so that a row with nothing to attend to gives numbers, not NaN
_SPLASH_BLOCK = 512  # queries and keys per tile; smaller where the sequence is
_CPU_BLOCK = 128  # queries whose scores stay in a core's cache


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
    causal mask. Back ends: reference (anywhere), blocked (CPU), splash (TPU), cudnn (GPU), or auto, which goes by the
    platform of `layout` or else of the process.

    Raises ValueError for an unknown back end, and for a mask or a layout that the back end cannot honour.
    """
    if backend == "auto":
        backend = {"tpu": "splash", "gpu": "cudnn", "cuda": "cudnn"}.get(_platform(layout), "blocked")
    if backend not in BACKENDS:
        raise ValueError(f"attention back end '{backend}' is unknown: use auto or one of {sorted(BACKENDS)}")
    return BACKENDS[backend](q, k, v, positions, segments, layout)


def _platform(layout: Layout | None) -> str:
    return jax.default_backend() if layout is None else layout.mesh.devices.flat[0].platform


def _reference(q, k, v, positions, segments, layout):
    """Plain einsums with fp32 softmax: the truth that the other back ends are held to."""
    return checkpoint_name(_masked_softmax(q, positions, segments, k, v, positions, segments), "context")


def _masked_softmax(q, q_positions, q_segments, k, v, kv_positions, kv_segments):
    batch, q_length, heads, head_dim = q.shape
    kv_heads = k.shape[2]
    q = q.reshape(batch, q_length, kv_heads, heads // kv_heads, head_dim)
    scores = jnp.einsum("bqkgd,bskd->bkgqs", q, k, preferred_element_type=jnp.float32) * head_dim**-0.5
    mask = kv_positions[:, None, :] <= q_positions[:, :, None]
    if q_segments is not None:
        mask &= kv_segments[:, None, :] == q_segments[:, :, None]
    scores = jnp.where(mask[:, None, None], scores, _MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bkgqs,bskd->bqkgd", weights, v).reshape(batch, q_length, heads, head_dim)


def _blocked(q, k, v, positions, segments, layout):
    """Flash attention in plain JAX: 128 queries at a time, with the keys up to the last of them.

    On CPU the reference spends most of its time writing scores to memory, half of them only to mask them out, and the
    automatic gradient passes over them twice as often as the one below.
    """
    batch, length, heads, head_dim = q.shape
    block = length if layout is not None and layout.ways("length") > 1 else _CPU_BLOCK
    segments = jnp.zeros_like(positions) if segments is None else segments
    q, k, v = (x.swapaxes(1, 2) for x in (q * jnp.asarray(head_dim**-0.5, q.dtype), k, v))
    q = q.reshape(batch, k.shape[1], -1, length, head_dim)
    out: jax.Array = _flash(q, k, v, positions, segments, block)  # pyright: ignore[reportAssignmentType]
    return out.reshape(batch, heads, length, head_dim).swapaxes(1, 2)


_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def _blocks(length: int, block: int) -> list[tuple[int, int]]:
    """(first, one after the last) query of each block."""
    return [(start, min(start + block, length)) for start in range(0, length, block)]


def _mask(positions, segments, start: int, stop: int) -> jax.Array:
    """Whether queries start … stop see each of the first `stop` keys: [batch, 1, 1, queries, keys]."""
    mask = positions[:, None, :stop] <= positions[:, start:stop, None]
    return (mask & (segments[:, None, :stop] == segments[:, start:stop, None]))[:, None, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _flash(q, k, v, positions, segments, block: int):
    """q [batch, kv_heads, group, length, head_dim], scaled; k, v [batch, kv_heads, length, head_dim] → as q."""
    return _flash_forward(q, k, v, positions, segments, block)[0]


def _flash_forward(q, k, v, positions, segments, block: int):
    outs, log_sums = [], []
    for start, stop in _blocks(q.shape[3], block):
        scores = _product("bkgqd,bksd->bkgqs", q[..., start:stop, :], k[..., :stop, :])
        scores = jnp.where(_mask(positions, segments, start, stop), scores, _MASKED)
        largest = jnp.max(scores, axis=-1, keepdims=True)
        weights = jnp.exp(scores - largest)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        out = _product("bkgqs,bksd->bkgqd", weights.astype(v.dtype), v[..., :stop, :]) / total
        outs.append(out.astype(q.dtype))
        log_sums.append(largest + jnp.log(total))
    out = checkpoint_name(jnp.concatenate(outs, axis=3), "context")
    log_sum = checkpoint_name(jnp.concatenate(log_sums, axis=3), "context")
    return out, (q, k, v, positions, segments, out, log_sum)


def _flash_backward(block: int, residuals, g):
    """FlashAttention-2's, with scores as [keys, queries], where two of its three products need no transposition."""
    q, k, v, positions, segments, out, log_sum = residuals
    slope = jnp.sum(g.astype(jnp.float32) * out, axis=-1, keepdims=True).swapaxes(3, 4)
    log_sum = log_sum.swapaxes(3, 4)
    dq, dk, dv = [], jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
    for start, stop in _blocks(q.shape[3], block):
        queries, gradient, keys = q[..., start:stop, :], g[..., start:stop, :], k[..., :stop, :]
        scores = _product("bksd,bkgqd->bkgsq", keys, queries)
        scores = jnp.where(_mask(positions, segments, start, stop).swapaxes(3, 4), scores, _MASKED)
        weights = jnp.exp(scores - log_sum[..., start:stop])
        pull = _product("bksd,bkgqd->bkgsq", v[..., :stop, :], gradient) - slope[..., start:stop]
        pull = (weights * pull).astype(q.dtype)
        dq.append(_product("bkgsq,bksd->bkgqd", pull, keys))
        dk = dk.at[..., :stop, :].add(_product("bkgsq,bkgqd->bksd", pull, queries))
        dv = dv.at[..., :stop, :].add(_product("bkgsq,bkgqd->bksd", weights.astype(v.dtype), gradient))
    return jnp.concatenate(dq, axis=3).astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None, None


_flash.defvjp(_flash_forward, _flash_backward)


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
    "blocked": _blocked,
    "splash": _splash,
    "cudnn": _cudnn,
}
