"""The optimizer: AdamW with global-norm clipping. It returns a direction; `step.py` multiplies by the learning rate."""

from __future__ import annotations

import gin
import jax
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
