#!/usr/bin/env python
"""The training step on CPU in fp32 against transformers and torch, and against the matrix products of XLA itself.

    python benchmarks/train_step.py

8 layers, 512 wide, a vocabulary of 16,384, 2,048 tokens a step in sequences of 256 and of 1,024, AdamW with clipping.
Bars: 0.8 times the tokens per second of torch, and 60 % of what the best large product of XLA reaches here, the FLOPs
counted by oc_jax.flops (no look-up of embeddings, half of attention). A process each, taking turns; medians. Logits
of all 2,048 tokens at once, as torch holds them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
TOKENS = 2048
CONTENDERS = ("ours", "torch", "product")
SHAPE = {
    "vocab_size": 16384,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 1024,
}


def seconds(f: Callable[[], object], times: int) -> float:
    """Of one call, the mean of `times`."""
    started = time.perf_counter()
    for _ in range(times):
        f()
    return (time.perf_counter() - started) / times


def ours(length: int, remat: str) -> Callable[[], object]:
    """One training step of this project."""
    import jax
    import jax.numpy as jnp

    from oc_jax.model import ACTIVATIONS, ModelConfig
    from oc_jax.optim import adamw
    from oc_jax.packing import Batch
    from oc_jax.sharding import MeshConfig, make_layout
    from oc_jax.step import init_state, make_train_step

    kept = ACTIVATIONS if remat == "names" else remat
    config, optimizer, layout = ModelConfig(**SHAPE, remat=kept), adamw(), make_layout(MeshConfig())
    state = init_state(config, optimizer, layout, seed=0)
    step = make_train_step(config, optimizer, lambda step: 1e-3, layout, compute_dtype="float32", loss_chunk=TOKENS)
    ids = np.random.default_rng(0).integers(0, SHAPE["vocab_size"], (1, TOKENS // length, length + 1), np.int32)
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), ids[..., 1:].shape)
    ones = np.ones(positions.shape, np.int32)
    batch = jax.tree.map(jnp.asarray, Batch(ids[..., :-1], ids[..., 1:], ones.astype(np.float32), positions, ones))

    def run():
        nonlocal state
        state, metrics = step(state, batch)
        return jax.block_until_ready(metrics)

    run()
    return run


def theirs(length: int) -> Callable[[], object]:
    """The same step by transformers and torch."""
    import torch
    import transformers
    from transformers import LlamaConfig, LlamaForCausalLM

    transformers.logging.set_verbosity_error()
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=False, use_cache=False)).float().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    ids = torch.randint(0, SHAPE["vocab_size"], (TOKENS // length, length))

    def run():
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    run()
    return run


def products() -> Callable[[], object]:
    """A product of 2,048 cubed by XLA."""
    import jax
    import jax.numpy as jnp

    a = jnp.ones((2048, 2048))
    product = jax.jit(jnp.matmul)
    return lambda: jax.block_until_ready(product(a, a))


def contend(contender: str, length: int, remat: str, pipe: Connection) -> None:
    """Times calls whenever asked, in a process of its own: idle threads of one runtime disturb another."""
    run = {"ours": lambda: ours(length, remat), "torch": lambda: theirs(length), "product": products}[contender]()
    pipe.send(None)
    while pipe.recv():
        run()  # memory that was given back while the others ran is faulted in again
        pipe.send(seconds(run, 3))


def measure(length: int, remat: str, rounds: int) -> dict[str, float]:
    """{contender: seconds of one call}, the median of `rounds` that take turns."""
    context, pipes, processes = multiprocessing.get_context("spawn"), {}, []
    for name in CONTENDERS:
        pipes[name], far = context.Pipe()
        processes.append(context.Process(target=contend, args=(name, length, remat, far)))
        processes[-1].start()
        pipes[name].recv()
    taken: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name, pipe in pipes.items():
            pipe.send(True)
            taken[name].append(pipe.recv())
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(False)
        process.join()
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of three steps each")
    parser.add_argument(
        "--remat", default="names", help="ModelConfig.remat: none, dots, full, or all ACTIVATIONS by name"
    )
    args = parser.parse_args()
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError:
        return print("skipped: torch and transformers are not installed (pip install -r requirements-peers.txt)")
    from oc_jax import flops
    from oc_jax.model import ModelConfig

    for length in (256, 1024):
        time_of = measure(length, args.remat, args.rounds)
        rate = {name: TOKENS / time_of[name] for name in ("ours", "torch")}
        peak = 2 * 2048**3 / time_of["product"]
        used = rate["ours"] * flops.train_flops_per_token(ModelConfig(**SHAPE), length)
        print(
            f"{length}: {rate['ours']:,.0f} tokens/s, torch {rate['torch']:,.0f}: {rate['ours'] / rate['torch']:.2f} "
            f"times (bar 0.8); {used / 1e9:.0f} of {peak / 1e9:.0f} GFLOP/s, {used / peak:.0%} (bar 60 %)",
            flush=True,
        )


if __name__ == "__main__":
    main()
