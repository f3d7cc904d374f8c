"""Learning-rate schedules: functions from the global step (int32 scalar array) to a learning rate (fp32).

The global step goes on from pretraining into annealing, so the same `wsd` serves both stages. Supervised fine-tuning
starts again at step 0.
"""

from __future__ import annotations

from collections.abc import Callable

import gin
import jax
import jax.numpy as jnp

Schedule = Callable[[jax.Array], jax.Array]

# share of the decay that is done → share of the way from peak (0) to final (1); `exponential` is handled in log space
_SHAPES = {
    "linear": lambda t: t,
    "cosine": lambda t: 0.5 * (1 - jnp.cos(jnp.pi * t)),
    "sqrt": lambda t: jnp.sqrt(t),
}


def _decay(kind: str, peak: float, final: float, done: jax.Array) -> jax.Array:
    done = jnp.clip(done, 0.0, 1.0)
    if kind == "exponential":  # paper §3.2: lr(p) = peak · (final / peak)^p
        return peak * (final / peak) ** done
    if kind in _SHAPES:
        return peak + (final - peak) * _SHAPES[kind](done)
    raise ValueError(f"decay '{kind}' is unknown: use exponential or one of {sorted(_SHAPES)}")


def _warmup(step: jax.Array, steps: int) -> jax.Array:
    # Step 0 already learns: the first update happens at 1 / steps of the peak.
    return jnp.minimum(1.0, (step + 1) / max(steps, 1))


@gin.configurable
def wsd(
    peak: float = gin.REQUIRED,
    warmup_steps: int = gin.REQUIRED,
    decay_start: int = gin.REQUIRED,
    decay_steps: int = gin.REQUIRED,
    final: float = gin.REQUIRED,
    decay: str = "exponential",
) -> Schedule:
    """Warm-up, stable, decay (paper §3.2): linear to `peak`, constant to `decay_start`, then `decay` to `final`."""

    def schedule(step: jax.Array) -> jax.Array:
        return _warmup(step, warmup_steps) * _decay(decay, peak, final, (step - decay_start) / decay_steps)

    return schedule


@gin.configurable
def anneal_from(
    step: int = gin.REQUIRED,
    steps: int = gin.REQUIRED,
    peak: float = gin.REQUIRED,
    final: float = gin.REQUIRED,
    decay: str = "exponential",
) -> Schedule:
    """Decay from `peak` at global `step` to `final`, for annealing any checkpoint of a stable phase."""
    return wsd(peak, warmup_steps=0, decay_start=step, decay_steps=steps, final=final, decay=decay)


@gin.configurable
def cosine(
    peak: float = gin.REQUIRED, warmup_steps: int = gin.REQUIRED, steps: int = gin.REQUIRED, final: float = 0.0
) -> Schedule:
    """Linear warm-up, then half a cosine to `final` at `steps` (paper §4: both stages of fine-tuning)."""

    def schedule(step: jax.Array) -> jax.Array:
        done = (step - warmup_steps) / max(steps - warmup_steps, 1)
        return _warmup(step, warmup_steps) * _decay("cosine", peak, final, done)

    return schedule
