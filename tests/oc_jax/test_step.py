import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from oc_jax import schedule
from oc_jax.loss import cross_entropy
from oc_jax.model import ModelConfig
from oc_jax.optim import adamw, skip_spikes
from oc_jax.packing import Batch
from oc_jax.sharding import MESH_AXES, MeshConfig, make_layout
from oc_jax.step import init_state, make_train_step

CONFIG = ModelConfig(
    vocab_size=512,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    head_dim=16,
    max_position_embeddings=64,
)


def batches(steps, accumulation, masked=True):
    for step in range(steps):
        rng = np.random.default_rng(step)
        tokens = rng.integers(0, 512, (16, 65)).astype(np.int32)
        weights = (rng.random((16, 64)) < 0.7).astype(np.float32) if masked else np.ones((16, 64), np.float32)
        positions = np.broadcast_to(np.concatenate([np.arange(40), np.arange(24)]).astype(np.int32), (16, 64))
        segments = np.broadcast_to(np.repeat([1, 2], [40, 24]).astype(np.int32), (16, 64))
        batch = Batch(tokens[:, :-1], tokens[:, 1:], weights, positions, segments)
        yield Batch(*(x.reshape(accumulation, 16 // accumulation, 64) for x in batch))


def losses(mesh, accumulation=1, steps=12, config=CONFIG):
    layout = make_layout(MeshConfig(**mesh), jax.devices()[: int(np.prod(list(mesh.values())))])
    optimizer = adamw()
    state = init_state(config, optimizer, layout, seed=0)
    step = make_train_step(
        config, optimizer, schedule.wsd(1e-2, 3, 8, 4, 1e-4), layout, compute_dtype="float32", loss_chunk=16
    )
    out = []
    for batch in batches(steps, accumulation):
        state, metrics = step(state, batch)
        out.append(float(metrics["loss"]))
    return np.asarray(out), state


@pytest.fixture(scope="module")
def one_device():
    return losses({"fsdp": 1})[0]


@pytest.mark.parametrize(
    "mesh, accumulation",
    [
        ({"dcn": 2, "fsdp": 2, "context": 2}, 2),
        ({"fsdp": 2, "tensor": 2, "context": 2}, 4),
    ],
)
def test_every_mesh_and_accumulation_has_the_loss_curve_of_one_device(one_device, mesh, accumulation):
    curve, state = losses(mesh, accumulation)
    np.testing.assert_allclose(curve, one_device, rtol=1e-5)
    gate = state.params["layers"]["mlp"]["gate"]
    assert gate.sharding.shard_shape(gate.shape)[1:] == (64 // mesh.get("fsdp", 1), 128 // mesh.get("tensor", 1))


SPLIT = dataclasses.replace(CONFIG, num_attention_heads=8, num_key_value_heads=8, head_dim=8)
EIGHT = [sizes for sizes in itertools.product((1, 2, 4, 8), repeat=4) if np.prod(sizes) == 8]


@pytest.fixture(scope="module")
def one_device_of_eight_heads():
    return losses({"fsdp": 1}, steps=4, config=SPLIT)[0]


@pytest.mark.slow
@pytest.mark.parametrize("sizes", EIGHT, ids=lambda sizes: "x".join(map(str, sizes)))
def test_eight_devices_in_any_arrangement_equal_one(one_device_of_eight_heads, sizes):
    mesh = dict(zip(MESH_AXES, sizes, strict=True))
    accumulation = 1 if mesh["dcn"] * mesh["fsdp"] == 8 else 2
    curve, _ = losses(mesh, accumulation, steps=4, config=SPLIT)
    np.testing.assert_allclose(curve, one_device_of_eight_heads, rtol=1e-5)


def test_step_equals_optax_adamw_on_the_mean_loss():
    """One step against the textbook: jax.grad of the mean loss, optax's own clip and AdamW with the decay mask."""
    from flax import nnx

    from oc_jax.model import abstract
    from oc_jax.optim import decay_mask

    layout = make_layout(MeshConfig(fsdp=1), jax.devices()[:1])
    optimizer = adamw()
    state = init_state(CONFIG, optimizer, layout, seed=3)
    before = jax.tree.map(np.array, state.params)
    batch = next(batches(1, 1))

    def mean_loss(params):
        hidden = nnx.merge(abstract(CONFIG)[0], params)(batch.tokens[0], batch.positions[0], batch.segment_ids[0])
        log_probs = jax.nn.log_softmax(hidden @ params["lm_head"])
        picked = jnp.take_along_axis(log_probs, batch.targets[0][..., None], -1)[..., 0]
        return -jnp.sum(picked * batch.weights[0]) / jnp.sum(batch.weights[0])

    textbook = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(3e-4, b1=0.9, b2=0.95, weight_decay=0.1, mask=decay_mask)
    )
    grads = jax.grad(mean_loss)(before)
    updates, _ = textbook.update(grads, textbook.init(before), before)
    expected = optax.apply_updates(before, updates)
    step = make_train_step(CONFIG, optimizer, lambda step: 3e-4, layout, compute_dtype="float32", loss_chunk=16)
    state, metrics = step(state, batch)
    assert float(metrics["loss"]) == pytest.approx(float(mean_loss(before)), rel=1e-6)
    assert float(metrics["grad_norm"]) == pytest.approx(float(optax.global_norm(grads)), rel=1e-5)
    for ours, theirs in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=3e-6)


def test_norm_scales_are_not_decayed():
    from oc_jax.model import abstract
    from oc_jax.optim import decay_mask

    mask = decay_mask(abstract(CONFIG)[1])
    assert mask["embedding"] and mask["layers"]["mlp"]["gate"]
    assert not mask["norm"]["scale"] and not mask["layers"]["attention_norm"]["scale"]


@pytest.mark.parametrize("chunk", [1, 7, 16, 1000])
def test_chunked_loss_and_gradient_equal_the_dense_ones(chunk):
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(2, 48, 8)), jnp.float32)
    head = jnp.asarray(rng.normal(size=(8, 33)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, 33, (2, 48)))
    weights = jnp.asarray(rng.random((2, 48)), jnp.float32)

    def dense(hidden, head):
        return -jnp.sum(
            weights * jnp.take_along_axis(jax.nn.log_softmax(hidden @ head), targets[..., None], -1)[..., 0]
        )

    layout = make_layout(MeshConfig(fsdp=1), jax.devices()[:1])
    ours = lambda h, w: cross_entropy(h, w, targets, weights, chunk, 0.0, layout)[0]
    np.testing.assert_allclose(ours(hidden, head), dense(hidden, head), rtol=1e-6)
    for a, b in zip(jax.grad(ours, (0, 1))(hidden, head), jax.grad(dense, (0, 1))(hidden, head), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_bf16_compute_keeps_fp32_master_weights_and_a_close_loss(one_device):
    layout = make_layout(MeshConfig(fsdp=1), jax.devices()[:1])
    optimizer = adamw()
    state = init_state(CONFIG, optimizer, layout, seed=0)
    step = make_train_step(
        CONFIG, optimizer, schedule.wsd(1e-2, 3, 8, 4, 1e-4), layout, compute_dtype="bfloat16", loss_chunk=16
    )
    state, metrics = step(state, next(batches(1, 1)))
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert float(metrics["loss"]) == pytest.approx(one_device[0], rel=1e-2)


@pytest.mark.parametrize(
    "mesh, message",
    [
        ({"fsdp": 3}, "does not fit 8 devices"),
        ({"fsdp": -1, "tensor": -1}, "does not fit"),
        ({"rules": {"emb": "fsdp"}}, "unknown"),
    ],
)
def test_a_mesh_that_does_not_fit_says_what_to_change(mesh, message):
    with pytest.raises(ValueError, match=message):
        make_layout(MeshConfig(**mesh))


def test_a_parameter_that_does_not_divide_is_named():
    layout = make_layout(MeshConfig(fsdp=1, tensor=8))
    with pytest.raises(ValueError, match=r"\['attention'\]\['k'\].*does not divide over 8"):
        init_state(CONFIG, adamw(), layout, seed=0)


def train_on(losses, gradients, **options):
    """Directions and the last state of `skip_spikes(scale_by_adam)` fed with one number per step."""
    optimizer = skip_spikes(optax.scale_by_adam(), **options)
    state, directions = optimizer.init({"w": jnp.zeros(1)}), []
    update = jax.jit(optimizer.update)
    for loss, gradient in zip(losses, gradients, strict=True):
        direction, state = update({"w": jnp.full(1, gradient)}, state, {"w": jnp.zeros(1)}, loss=jnp.float32(loss))
        directions.append(float(direction["w"][0]))
    return np.asarray(directions), state


def test_spikes_and_broken_steps_leave_no_trace_in_the_optimizer():
    rng = np.random.default_rng(0)
    losses, gradients = 3 + 0.1 * rng.random(40), 1 + 0.1 * rng.random(40)
    without, expected = train_on(losses, gradients, window=16)
    assert without.all() and int(expected.skipped) == 0
    bad = [(20, 9.0, 1.0), (25, 3.0, 50.0), (30, np.nan, 1.0), (31, 3.0, np.inf)]
    for at, loss, gradient in reversed(bad):
        losses, gradients = np.insert(losses, at, loss), np.insert(gradients, at, gradient)
    directions, state = train_on(losses, gradients, window=16)
    places = [at + i for i, (at, *_) in enumerate(bad)]
    assert not directions[places].any()
    np.testing.assert_allclose(np.delete(directions, places), without)
    np.testing.assert_array_equal(state.inner.mu["w"], expected.inner.mu["w"])
    assert (int(state.skipped), int(state.nonfinite)) == (4, 0)
    _, state = train_on([3.0] * 4 + [np.nan] * 3, [1.0] * 7, window=4)
    assert int(state.nonfinite) == 3


def test_z_loss_pulls_the_logits_and_leaves_the_reported_loss():
    rng = np.random.default_rng(0)
    hidden, head = jnp.asarray(rng.normal(size=(4, 16, 8)), jnp.float32), jnp.asarray(rng.normal(size=(8, 32)))
    targets, weights = jnp.asarray(rng.integers(0, 32, (4, 16))), jnp.asarray(rng.random((4, 16)), jnp.float32)
    layout = make_layout(MeshConfig(fsdp=2, tensor=2, context=2))

    def dense(hidden, head):
        log_z = jax.nn.logsumexp(hidden @ head, -1)
        picked = jnp.take_along_axis(hidden @ head, targets[..., None], -1)[..., 0]
        return jnp.sum(weights * (log_z - picked + 0.1 * log_z**2)), jnp.sum(weights * (log_z - picked))

    ours = lambda h, w: cross_entropy(h, w, targets, weights, 4, 0.1, layout)
    np.testing.assert_allclose(ours(hidden, head), dense(hidden, head), rtol=1e-5)
    split = jax.jit(jax.grad(lambda h, w: ours(h, w)[0], (0, 1)))(hidden, head)
    for a, b in zip(split, jax.grad(lambda h, w: dense(h, w)[0], (0, 1))(hidden, head), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
