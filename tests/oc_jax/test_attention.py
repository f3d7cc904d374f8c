"""Every back end against a softmax written out in NumPy, on packed documents, forward and gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oc_jax import cpu
from oc_jax.attention import attention
from oc_jax.sharding import MeshConfig, make_layout

compiled = pytest.mark.skipif(not cpu.available(), reason="no C++ compiler")
LENGTH = 200  # no multiple of a tile
ENDS = (0, 70, 131, LENGTH)


def packed(batch=1):
    segments = np.zeros((batch, LENGTH), np.int32)
    positions = np.zeros((batch, LENGTH), np.int32)
    for number, (start, stop) in enumerate(zip(ENDS, ENDS[1:], strict=False)):
        segments[:, start:stop], positions[:, start:stop] = number + 1, np.arange(stop - start)
    return jnp.asarray(positions), jnp.asarray(segments)


def inputs(head_dim, batch=1, heads=4, kv_heads=2):
    rng = np.random.default_rng(head_dim)
    shapes = [(batch, LENGTH, n, head_dim) for n in (heads, kv_heads, kv_heads, heads)]
    return [jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes]


def by_document(q, k, v):
    """Plain softmax attention, one document and one head at a time."""
    out = np.zeros(q.shape)
    group = q.shape[2] // k.shape[2]
    for b in range(q.shape[0]):
        for start, stop in zip(ENDS, ENDS[1:], strict=False):
            for h in range(q.shape[2]):
                scores = np.float64(q[b, start:stop, h]) @ np.float64(k[b, start:stop, h // group]).T
                scores = scores / np.sqrt(q.shape[-1]) + np.triu(np.full(scores.shape, -np.inf), 1)
                weights = np.exp(scores - scores.max(1, keepdims=True))
                out[b, start:stop, h] = (
                    weights / weights.sum(1, keepdims=True) @ np.float64(v[b, start:stop, h // group])
                )
    return out


def gradients(q, k, v, weights, **options):
    positions, segments = packed(q.shape[0])

    def loss(q, k, v):
        return jnp.sum(attention(q, k, v, positions=positions, segments=segments, **options) * weights)

    return jax.jit(jax.grad(loss, (0, 1, 2)))(q, k, v)


@pytest.mark.parametrize("backend", ["reference", pytest.param("native", marks=compiled), "splash"])
@pytest.mark.parametrize("head_dim", [64, 128, 160])
def test_packed_grouped_query_attention(backend, head_dim):
    q, k, v, _ = inputs(head_dim)
    positions, segments = packed()
    out = attention(q, k, v, positions=positions, segments=segments, backend=backend)
    np.testing.assert_allclose(out, by_document(q, k, v), atol=1e-5)


@pytest.mark.parametrize(
    "backend, head_dim",
    [("splash", 64), ("splash", 160), *(pytest.param("native", n, marks=compiled) for n in (64, 160))],
)
def test_gradients_are_those_of_the_reference(backend, head_dim):
    *qkv, weights = inputs(head_dim)
    expected = gradients(*qkv, weights, backend="reference")
    for ours, theirs in zip(gradients(*qkv, weights, backend=backend), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("mesh", [{"dcn": 2, "tensor": 2, "context": 2}, {"fsdp": 2, "context": 4}])
def test_splash_split_over_devices_equals_the_reference(mesh):
    *qkv, weights = inputs(64, batch=2)
    layout = make_layout(MeshConfig(**({"fsdp": 1} | mesh)))
    expected = gradients(*qkv, weights, backend="reference")
    split = gradients(*qkv, weights, backend="splash", layout=layout)
    for ours, theirs in zip(split, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@compiled
def test_native_split_over_devices_equals_the_reference():
    *qkv, weights = inputs(64, batch=4)
    layout = make_layout(MeshConfig(dcn=2, fsdp=2, tensor=2))
    expected = gradients(*qkv, weights, backend="reference")
    for ours, theirs in zip(gradients(*qkv, weights, backend="native", layout=layout), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("backend", ["splash", pytest.param("native", marks=compiled)])
def test_without_segments_a_row_is_one_document(backend):
    q, k, v, _ = inputs(64)
    positions = jnp.arange(LENGTH)[None]
    reference = attention(q, k, v, positions=positions, backend="reference")
    np.testing.assert_allclose(attention(q, k, v, positions=positions, backend=backend), reference, atol=1e-5)


def test_kernels_refuse_what_they_cannot_honour():
    q, k, v, _ = inputs(64)
    positions, segments = packed()
    with pytest.raises(ValueError, match="unknown: use auto or one of"):
        attention(q, k, v, positions=positions, backend="flash")
    with pytest.raises(ValueError, match="context = 1"):
        layout = make_layout(MeshConfig(fsdp=4, context=2))
        attention(q, k, v, positions=positions, segments=segments, backend="cudnn", layout=layout)
    with pytest.raises(ValueError, match="cannot split the sequence"):
        attention(q, k, v, positions=positions, segments=segments, backend="native", layout=layout)
    with pytest.raises(ValueError, match="a multiple of 16, not 40"):
        attention(*inputs(40)[:3], positions=positions, backend="native")


def test_without_a_compiler_the_reference_stands_in(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    monkeypatch.setattr(cpu, "available", functools.cache(cpu.available.__wrapped__))
    q, k, v, _ = inputs(64)
    positions, segments = packed()
    out = attention(q, k, v, positions=positions, segments=segments, backend="auto")
    np.testing.assert_array_equal(out, attention(q, k, v, positions=positions, segments=segments, backend="reference"))
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler"):
        attention(q, k, v, positions=positions, backend="native")
    assert len(caplog.records) == 1 and "install g++, or set CXX" in caplog.text


def test_cudnn_gets_the_causal_mask_and_the_documents(monkeypatch):
    """Lowered for CUDA without one: the call of the kernel carries the mask as a bias and is causal."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91100)
    q, k, v, _ = (x.astype(jnp.bfloat16) for x in inputs(128))
    positions, segments = packed()

    def text(segments):
        f = lambda q, k, v: attention(q, k, v, positions=positions, segments=segments, backend="cudnn")
        return jax.jit(f).trace(q, k, v).lower(lowering_platforms=("cuda",)).as_text()

    masked, plain = text(segments), text(None)
    assert "__cudnn$fmhaScaleBiasSoftmax" in masked and "__cudnn$fmhaScaleBiasSoftmax" not in plain
    assert "__cudnn$fmhaSoftmax" in plain
    assert "CAUSAL" in plain
    assert f"1x1x{LENGTH}x{LENGTH}xbf16" in masked
