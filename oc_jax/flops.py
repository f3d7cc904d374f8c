"""Arithmetic of a model: parameters, FLOPs per token, and the peak of the device that runs it.

XLA's own cost analysis counts a scanned layer once, so the FLOPs of a step come from here.
"""

from __future__ import annotations

import math
from typing import Any

# Dense bf16 peak, FLOP/s per device, as the vendors print it. Keys are `jax.Device.device_kind`.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 2307e12 / 2,  # a chip is two devices
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}


def parameter_count(config) -> int:
    """Parameters of a `ModelConfig`: embedding, output; q, k, v, o, SwiGLU and two norms a layer; a last norm."""
    d, h = config.hidden_size, config.head_dim
    attention = d * h * (2 * config.num_attention_heads + 2 * config.num_key_value_heads)
    layer = attention + 3 * d * config.intermediate_size + 2 * d
    return 2 * config.vocab_size * d + config.num_hidden_layers * layer + d


def train_flops_per_token(config, seq_len: int) -> float:
    """Model FLOPs (forward + backward, nothing recomputed) for one token of a sequence of `seq_len`.

    6 per parameter of a matrix product (not the embedding look-up, not the norms), plus
    12 · heads · head_dim · seq_len / 2 per layer for causal attention scores and values.
    """
    d = config.hidden_size
    multiplied = parameter_count(config) - config.vocab_size * d - (2 * config.num_hidden_layers + 1) * d
    attention = 6 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * seq_len
    return 6.0 * multiplied + attention


def peak_flops(device_kind: str) -> float | None:
    """Peak of one device in FLOP/s; None for a kind that is not in the table (CPUs): MFU is then not reported."""
    return PEAK_FLOPS.get(device_kind)


# Products of queries and keys, or of the same size, that each kernel of splash attention does; backward recomputes two.
_SPLASH_PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}


def executed_flops(jaxpr: Any) -> float:
    """FLOPs of the matrix products that a jaxpr runs on all devices together, what it recomputes included.

    Loops count as often as they run. The splash kernel counts its causal half.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            sizes = [equation.invars[0].aval.shape[axis] for axis in contracted]
            total += 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(sizes)
        elif name == "pallas_call":
            q, k = [v.aval.shape for v in equation.invars if v.aval.ndim > 2 and v.aval.dtype.kind not in "iub"][:2]
            kernel = equation.params["name"]
            products = next(n for part, n in _SPLASH_PRODUCTS.items() if f"_{part}" in kernel)
            total += products * 2.0 * math.prod(q) * k[-2] / 2
        else:
            times = equation.params.get("length", 1) if name == "scan" else 1
            times *= equation.params["mesh"].size if name == "shard_map" else 1
            inner = [
                getattr(p, "jaxpr", p) for p in equation.params.values() if hasattr(getattr(p, "jaxpr", p), "eqns")
            ]
            total += times * sum(executed_flops(j) for j in inner)
    return total
