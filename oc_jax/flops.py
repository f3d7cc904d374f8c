"""Arithmetic of a model: parameters, FLOPs per token, and the peak of the device that runs it.

XLA's own cost analysis counts a scanned layer once, so the FLOPs of a step come from here.
"""

from __future__ import annotations

# Dense bf16 peak, FLOP/s per chip, as the vendors print it. Keys are `jax.Device.device_kind`.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 2307e12,
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

    6 per parameter that multiplies (all but the embedding look-up), plus 12 · heads · head_dim · seq_len / 2 per layer
    for causal attention scores and values.
    """
    multiplied = parameter_count(config) - config.vocab_size * config.hidden_size
    attention = 6 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * seq_len
    return 6.0 * multiplied + attention


def peak_flops(device_kind: str) -> float | None:
    """Peak of one device in FLOP/s; None for a kind that is not in the table (CPUs): MFU is then not reported."""
    return PEAK_FLOPS.get(device_kind)
