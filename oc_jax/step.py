"""One optimization step as a pure function, and the state it carries."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from oc_jax import model as model_lib
from oc_jax.loss import cross_entropy
from oc_jax.model import ModelConfig, Params
from oc_jax.optim import counters
from oc_jax.packing import Batch
from oc_jax.schedule import Schedule
from oc_jax.sharding import Layout


class TrainState(NamedTuple):
    step: Any  # int32 scalar: updates done so far, over all stages that carry the optimizer on
    params: Params  # fp32 master weights
    opt_state: Any


BATCH_AXES = (None, "batch", "length")


def state_shardings(config: ModelConfig, optimizer: optax.GradientTransformation, layout: Layout):
    """(shapes, NamedShardings) of a TrainState; the optimizer's moments are laid out as their parameters are.

    Raises ValueError when a parameter does not divide over the mesh.
    """
    _, shapes, axes = model_lib.abstract(config)
    params = layout.tree(axes, shapes)
    opt_shapes = jax.eval_shape(optimizer.init, shapes)
    replicated = layout.sharding()
    opt = optax.tree.map_params(
        optimizer, lambda _, s: s, opt_shapes, params, transform_non_params=lambda _: replicated
    )
    step = jax.ShapeDtypeStruct((), jnp.int32)
    return TrainState(step, shapes, opt_shapes), TrainState(replicated, params, opt)


def init_state(config: ModelConfig, optimizer: optax.GradientTransformation, layout: Layout, seed: int) -> TrainState:
    """A fresh state, created where it will live: no device ever holds the whole of it."""

    def init(key):
        params = model_lib.init_params(config, key)
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    _, shardings = state_shardings(config, optimizer, layout)
    return jax.jit(init, out_shardings=shardings)(jax.random.key(seed))


def make_train_step(
    config: ModelConfig,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    layout: Layout,
    *,
    compute_dtype: str,
    loss_chunk: int,
    z_loss: float = 0.0,
):
    """Jitted (TrainState, Batch) → (TrainState, metrics); the state is donated.

    Micro-batches are summed before anything is divided: the gradient is that of the token mean over the global batch,
    however the batch is cut (accumulation) or spread (devices, hosts). metrics: fp32 scalars `loss` (nats per target
    token), `tokens` (target tokens), `grad_norm`, `param_norm` (of the parameters that this step began with),
    `learning_rate`, and what `optim.counters` finds in the optimizer.
    """
    graphdef, _, axes = model_lib.abstract(config)

    def loss_sum(params: Params, batch: Batch):
        # Cast where the parameter is still sharded: what is gathered over fsdp is half as large.
        params = jax.tree.map(lambda p, names: layout.constrain(p.astype(compute_dtype), *names), params, axes)
        model = nnx.merge(graphdef, params)
        hidden = model(batch.tokens, batch.positions, batch.segment_ids, layout=layout)
        return cross_entropy(hidden, params["lm_head"], batch.targets, batch.weights, loss_chunk, z_loss, layout)

    def sums(params: Params, batch: Batch):
        (_, loss), grads = jax.value_and_grad(loss_sum, has_aux=True)(params, batch)
        return loss, jnp.sum(batch.weights), grads

    def accumulate(params: Params, totals, batch: Batch):
        # The barrier: else libtpu tries to sum over devices after the loop, and crashes.
        return jax.tree.map(jnp.add, totals, jax.lax.optimization_barrier(sums(params, batch))), None

    def train_step(state: TrainState, batch: Batch):
        if len(batch.tokens) == 1:
            loss, weight, grads = sums(state.params, jax.tree.map(lambda x: x[0], batch))
        else:
            zeros = (jnp.float32(0), jnp.float32(0), jax.tree.map(jnp.zeros_like, state.params))
            (loss, weight, grads), _ = jax.lax.scan(functools.partial(accumulate, state.params), zeros, batch)
        weight = jnp.maximum(weight, 1.0)  # a batch without a single target leaves the weights to decay alone
        grads = jax.tree.map(lambda g: g / weight, grads)
        update = optax.with_extra_args_support(optimizer).update
        direction, opt_state = update(grads, state.opt_state, state.params, loss=loss / weight)
        learning_rate = schedule(state.step)
        params = jax.tree.map(lambda p, d: p - learning_rate * d, state.params, direction)
        metrics = {
            "loss": loss / weight,
            "tokens": weight,
            "grad_norm": optax.global_norm(grads),
            "param_norm": optax.global_norm(state.params),
            "learning_rate": jnp.float32(learning_rate),
            **counters(opt_state),
        }
        return TrainState(state.step + 1, params, opt_state), metrics

    _, shardings = state_shardings(config, optimizer, layout)
    batch_shardings = Batch(*[layout.sharding(*BATCH_AXES)] * len(Batch._fields))
    return jax.jit(
        train_step,
        in_shardings=(shardings, batch_shardings),
        out_shardings=(shardings, layout.sharding()),
        donate_argnums=0,
    )
