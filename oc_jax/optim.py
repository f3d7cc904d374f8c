"""The optimizer: AdamW with clipping, guarded against spikes. It returns a direction; `step.py` scales it."""

from __future__ import annotations

from typing import Any, NamedTuple

import gin
import jax
import jax.numpy as jnp
import optax


def decay_mask(params):
    """True for the matrices and embeddings that weight decay applies to, False for norm scales."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key != "scale", params)


@gin.configurable
def adamw(
    b1: float = 0.9, b2: float = 0.95, eps: float = 1e-8, weight_decay: float = 0.1, clip_norm: float = 1.0
) -> optax.GradientTransformation:
    """AdamW. The paper does not name its optimizer; these are the values that its peers print."""
    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        optax.add_decayed_weights(weight_decay, mask=decay_mask),
    )


class SpikeState(NamedTuple):
    """State of `skip_spikes`."""

    inner: Any
    history: jax.Array  # [2, window] fp32: losses and gradient norms of the last finite steps
    seen: jax.Array  # int32: finite steps so far
    skipped: jax.Array  # int32: steps without an update so far
    nonfinite: jax.Array  # int32: how many steps in a row, up to now, had a loss or gradient that is not finite


@gin.configurable
def skip_spikes(
    optimizer: optax.GradientTransformation = gin.REQUIRED, window: int = 128, sigma: float = 6.0
) -> optax.GradientTransformationExtraArgs:
    """`optimizer`, but without any update where the loss or the gradient norm jumps or is not finite.

    A jump is more than `sigma` standard deviations above the mean of the last `window` finite steps; nothing is a jump
    before half a window is seen (as OLMo 2 does). The decision stays on the devices: no step waits for the host.
    `update` takes the extra argument `loss`.
    """

    def init(params):
        zero = jnp.zeros((), jnp.int32)
        return SpikeState(optimizer.init(params), jnp.zeros((2, window)), zero, zero, zero)

    def update(grads, state: SpikeState, params=None, *, loss, **_):
        now = jnp.stack([loss, optax.global_norm(grads)]).astype(jnp.float32)
        finite = jnp.all(jnp.isfinite(now))
        filled = jnp.arange(window) < state.seen
        count = jnp.maximum(jnp.minimum(state.seen, window), 1)
        mean = jnp.sum(state.history, axis=1) / count
        deviation = jnp.sqrt(jnp.sum(jnp.where(filled, state.history - mean[:, None], 0.0) ** 2, axis=1) / count)
        spike = (state.seen >= window // 2) & jnp.any(now > mean + sigma * deviation)
        good = finite & ~spike

        direction, inner = optimizer.update(jax.tree.map(lambda g: jnp.where(good, g, 0), grads), state.inner, params)
        choose = lambda new, old: jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)
        history = jnp.where(finite, state.history.at[:, state.seen % window].set(now), state.history)
        return choose(direction, jax.tree.map(jnp.zeros_like, direction)), SpikeState(
            choose(inner, state.inner),
            history,
            state.seen + finite,
            state.skipped + ~good,
            jnp.where(finite, 0, state.nonfinite + 1),
        )

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def counters(opt_state: Any) -> dict[str, jax.Array]:
    """{"skipped", "nonfinite"} of a state of `skip_spikes`, nothing of any other."""
    return {k: getattr(opt_state, k) for k in ("skipped", "nonfinite")} if isinstance(opt_state, SpikeState) else {}
