"""RefineCode in small parts: raw source in, ArrayRecord shards out. Imports no jax."""
