"""The CPU kernels of decoding against NumPy in float64 (attention's are tested with the other back ends)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oc_jax import cpu

pytestmark = pytest.mark.skipif(not cpu.available(), reason="no C++ compiler")


def normal(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 130), st.integers(1, 90), st.integers(1, cpu.MOST_COLUMNS))
def test_products_of_any_shape(rows, depth, columns):
    w, x = normal(rows, depth), normal(depth, columns)
    np.testing.assert_allclose(cpu.product(jnp.asarray(w), jnp.asarray(x)), np.float64(w) @ x, atol=1e-4)


def test_a_column_is_the_same_bits_in_any_company():
    w, x = jnp.asarray(normal(300, 96)), jnp.asarray(normal(96, 64))
    together = cpu.product(w, x)
    for columns in (2, 16, 17, 40):
        np.testing.assert_array_equal(cpu.product(w, x[:, :columns]), together[:, :columns])


@pytest.mark.parametrize("heads, kv_heads, head_dim", [(9, 3, 64), (4, 4, 16), (40, 2, 160)])
def test_a_step_of_attention_over_a_cache(heads, kv_heads, head_dim):
    batch, places = 5, 33
    q, k, v = (normal(batch, n, head_dim) for n in (heads, kv_heads, kv_heads))
    keys, values = normal(kv_heads * batch, places, head_dim), normal(kv_heads * batch, places, head_dim) + 1
    positions = np.array([0, 7, 31, 32, 40], np.int32)  # the last one has ended, beyond the cache
    angle = normal(batch, 1, head_dim // 2)
    out, new_keys, new_values = jax.jit(cpu.step)(q, k, v, np.cos(angle), np.sin(angle), positions, keys, values)

    def turned(x):  # [batch, heads, head_dim], as complex numbers
        real, imaginary = np.split(np.float64(x), 2, axis=-1)
        x = (real + 1j * imaginary) * np.exp(1j * np.float64(angle))
        return np.concatenate([x.real, x.imag], axis=-1)

    q, k = turned(q), turned(k)
    for row, position in enumerate(np.minimum(positions, places - 1)):
        for head in range(kv_heads):
            at, group = head * batch + row, heads // kv_heads
            keys[at, position], values[at, position] = k[row, head], v[row, head]
            for h in range(head * group, (head + 1) * group):
                scores = np.float64(keys[at, : position + 1]) @ q[row, h] / np.sqrt(head_dim)
                shares = np.exp(scores - scores.max())
                np.testing.assert_allclose(out[row, h], shares / shares.sum() @ values[at, : position + 1], atol=1e-5)
    np.testing.assert_allclose(new_keys, keys, atol=1e-6)
    np.testing.assert_array_equal(new_values, values)
