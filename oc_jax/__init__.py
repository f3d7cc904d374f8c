"""OpenCoder's model, training, decoding and evaluation in JAX."""
