import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from oc_jax.attention import attention
from oc_jax.model import ModelConfig, abstract, init_params, rope, rotations

TINY = ModelConfig(
    vocab_size=512,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=64,
)


@pytest.fixture(scope="module")
def params():
    return init_params(TINY, jax.random.key(0))


def forward(params, tokens, positions, segments=None):
    return nnx.merge(abstract(TINY)[0], params)(tokens, positions, segments)


def numpy_forward(params, tokens):
    """The same block written with NumPy loops over heads and positions, from the paper's description."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    norm = lambda x, scale: x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * scale
    x = p["embedding"][tokens]
    length = len(tokens)
    for layer in range(TINY.num_hidden_layers):
        w = jax.tree.map(lambda a, layer=layer: a[layer], p["layers"])
        y = norm(x, w["attention_norm"]["scale"])
        out = np.zeros_like(x)
        for head in range(4):
            q, k, v = (y @ w["attention"][n][:, h] for n, h in (("q", head), ("k", head // 2), ("v", head // 2)))
            frequency = 10000.0 ** (-np.arange(8) / 8)
            angle = np.arange(length)[:, None] * frequency
            cos, sin = np.cos(angle), np.sin(angle)
            halves = [(z[:, :8], z[:, 8:]) for z in (q, k)]
            q, k = (np.hstack([a * cos - b * sin, b * cos + a * sin]) for a, b in halves)
            scores = q @ k.T / 4.0
            scores[np.triu_indices(length, 1)] = -np.inf
            weights = np.exp(scores - scores.max(1, keepdims=True))
            out += (weights / weights.sum(1, keepdims=True)) @ v @ w["attention"]["o"][head]
        x = x + out
        y = norm(x, w["mlp_norm"]["scale"])
        gate, up = y @ w["mlp"]["gate"], y @ w["mlp"]["up"]
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w["mlp"]["down"]
    return norm(x, p["norm"]["scale"])


def test_forward_equals_a_plain_numpy_transformer(params):
    tokens = np.random.default_rng(0).integers(0, 512, 24)
    hidden = forward(params, jnp.asarray(tokens)[None], jnp.arange(24)[None])
    np.testing.assert_allclose(hidden[0], numpy_forward(params, tokens), atol=2e-5)


def test_packed_documents_do_not_see_each_other(params):
    rng = np.random.default_rng(2)
    first, second = rng.integers(0, 512, 9), rng.integers(0, 512, 14)
    packed = jnp.asarray(np.concatenate([first, second]))[None]
    positions = jnp.asarray(np.concatenate([np.arange(9), np.arange(14)]))[None]
    segments = jnp.asarray([1] * 9 + [2] * 14)[None]
    hidden = forward(params, packed, positions, segments)
    alone = forward(params, jnp.asarray(second)[None], jnp.arange(14)[None])
    np.testing.assert_allclose(hidden[0, 9:], alone[0], atol=1e-5)


def test_rope_depends_on_distance_only():
    rng = np.random.default_rng(3)
    q, k = jnp.asarray(rng.normal(size=(2, 1, 1, 1, 16)), jnp.float32)
    turned = lambda x, i: rope(x, *rotations(jnp.array([[i]]), 16, 1e4))
    dot = lambda i, j: float(jnp.sum(turned(q, i) * turned(k, j)))
    assert dot(5, 3) == pytest.approx(dot(45, 43), abs=1e-4)
    assert dot(5, 3) != pytest.approx(dot(5, 4), abs=1e-3)


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_remat_does_not_change_the_gradient(params, remat):
    import dataclasses

    tokens, positions = jnp.arange(16)[None], jnp.arange(16)[None]

    def grad(config):
        graphdef = abstract(config)[0]
        return jax.grad(lambda p: jnp.sum(nnx.merge(graphdef, p)(tokens, positions) ** 2))(params)

    ours = jax.tree.leaves(grad(dataclasses.replace(TINY, remat=remat)))
    for a, b in zip(ours, jax.tree.leaves(grad(TINY)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_unknown_backend_and_impossible_heads_say_what_to_change():
    x = jnp.zeros((1, 2, 4, 8))
    with pytest.raises(ValueError, match="attention back end 'flash' is unknown"):
        attention(x, x, x, positions=jnp.zeros((1, 2)), backend="flash")
    with pytest.raises(ValueError, match="do not divide"):
        ModelConfig(512, 64, 128, 3, 4, 3, 16, 64)
