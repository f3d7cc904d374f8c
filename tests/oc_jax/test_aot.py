"""The arithmetic behind the ahead-of-time reports."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from oc_jax import aot, flops, hlo
from oc_jax.model import ModelConfig
from oc_jax.optim import adamw
from oc_jax.sharding import MeshConfig, make_layout

CONFIG = ModelConfig(
    vocab_size=512,
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=256,
    attention_backend="splash",
)


def arguments(**model):
    return {
        "model": dataclasses.replace(CONFIG, **model),
        "optimizer": adamw(),
        "schedule": lambda step: 1e-3,
        "compute_dtype": "float32",
        "loss_chunk": 64,
        "z_loss": 0.0,
        "batch_size": 8,
        "accumulation": 2,
        "seq_len": 256,
    }


@pytest.mark.parametrize(
    "remat, again",
    [
        ("none", ()),
        ("full", ("query", "key", "value", "context", "out", "gate", "up")),
        (["context"], ("query", "key", "value", "out", "gate", "up")),
        (["context", "query", "key", "value", "middle"], ("gate", "up")),
    ],
)
def test_recomputed_flops_are_those_of_the_products_that_are_not_kept(remat, again):
    layout = make_layout(MeshConfig(fsdp=2, tensor=2, context=2))
    traced, _ = aot.lower(arguments(remat=remat), layout)
    tokens, d, heads = 8 * 256, 128, 4 * 32
    once = {
        "query": d * heads,
        "key": d * heads // 2,
        "value": d * heads // 2,
        "out": d * heads,
        "gate": d * 256,
        "up": d * 256,
    }
    one = 2.0 * tokens * 3
    scores = one * heads * 256 / 2  # queries times keys, its causal half
    expected = sum(one * once[name] for name in again if name in once)
    expected += one * heads  # the row sums of output times its gradient
    expected += scores * (3 + 2 * ("context" in again))  # the backward kernels compute 3 products twice
    model = tokens * flops.train_flops_per_token(CONFIG, 256)
    assert aot.executed_flops(traced) - model == pytest.approx(expected, rel=1e-6)


def test_collectives_of_a_compiled_loop_are_counted_with_their_axes_and_bytes():
    layout = make_layout(MeshConfig(dcn=2, fsdp=4))
    weights = jax.ShapeDtypeStruct((5, 64, 64), jnp.float32, sharding=layout.sharding(None, "embed", None))
    x = jax.ShapeDtypeStruct((16, 64), jnp.float32, sharding=layout.sharding("batch", None))

    def layer(x, w):
        return jnp.tanh(x @ layout.constrain(w, None, None)), None

    def f(x, weights):
        return jnp.sum(jax.lax.scan(layer, x, weights)[0])

    text = jax.jit(f).lower(x, weights).compile().as_text()
    found = hlo.collectives(text, dict(layout.mesh.shape))
    gathers = [c for c in found if c.kind == "all-gather"]
    weights_moved = [c for c in gathers if c.axes == ("fsdp",)]
    assert sum(c.bytes for c in weights_moved) == 5 * 64 * 64 * 4 * 3 / 4
    (reduction,) = [c for c in found if c.kind == "all-reduce"]
    assert reduction.axes == ("dcn", "fsdp") and reduction.bytes == 2 * 7 / 8 * 4


@pytest.mark.parametrize(
    "text, group",
    [
        ("replica_groups={{0,4},{1,5}}", [0, 4]),
        ("replica_groups=[2,4]<=[8]", [0, 1, 2, 3]),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", [0, 4]),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}", [0, 4]),
        ("replica_groups=mesh['a'=1,'b'=4,'c'=1,'d'=2], device_ids=([2,4]T(1,0)) {'b'}", [0, 1, 2, 3]),
        ("source_target_pairs={{0,1},{1,2}}", [0, 1]),
    ],
)
def test_every_notation_of_groups_is_read(text, group):
    assert hlo.group_of(text, 8) == group
