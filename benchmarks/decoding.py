#!/usr/bin/env python
"""Greedy decoding of SmolLM2-135M beside transformers, in fp32 on this CPU, and beside what its memory allows.

    python benchmarks/decoding.py [MODEL]

MODEL is a Hugging Face directory; by default benchmarks/smollm2.py writes one to out/smollm2. For batches of 1 and 32
prompts of 32 tokens it counts the tokens per second after the first one, ours and theirs, and how many of ours are
equal. The bound: a token needs every weight once, so the bandwidth that the better of two ways of reading memory
reaches, over the bytes of the weights. Each number is the best of --repeats, taken in turns.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import math
import os
import pathlib
import sys
import tempfile
import time
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PROMPT = 32
TEXT = '''def primes(n):
    """Returns the prime numbers below n, in order."""
    sieve = [True] * n
    for i in range(2, int(n ** 0.5) + 1):
        if sieve[i]:
            for j in range(i * i, n, i):
                sieve[j] = False
    return [i for i in range(2, n) if sieve[i]]

The capital of France is Paris, which lies on the Seine. In the nineteenth century the city was rebuilt with wide
avenues, parks and a new water supply. Its population grew from half a million to more than two and a half million.
Once upon a time there was a farmer who had three sons, and each of them wanted to see the world. The eldest said:
'''


def bandwidth() -> float:
    """Bytes per second that all cores together read, the better of NumPy's sum and PyTorch's."""
    import torch

    cores = os.cpu_count() or 1
    array = np.ones(1 << 27, np.float32)
    parts, best = np.array_split(array, cores), 0.0
    with concurrent.futures.ThreadPoolExecutor(cores) as pool:
        for action in [lambda: list(pool.map(np.add.reduce, parts)), torch.from_numpy(array).sum] * 3:
            started = time.perf_counter()
            action()
            best = max(best, array.nbytes / (time.perf_counter() - started))
    return best


class Ours:
    def __init__(self, model: pathlib.Path, batch: int, scratch: pathlib.Path):
        from etils import epath

        from oc_jax import hf
        from oc_jax.decode import Engine

        if not (scratch / "model").exists():
            hf.import_model(epath.Path(model), epath.Path(scratch / "model"))
        self.engine = Engine.load(epath.Path(scratch / "model"), epath.Path(scratch / "tokenizer"), slots=batch)

    def __call__(self, prompts: list[list[int]], count: int) -> list[list[int]]:
        return [completion.tokens for completion in self.engine.generate(prompts, max_new_tokens=count)]


class Theirs:
    def __init__(self, model: pathlib.Path):
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        self.torch = torch
        self.model: Any = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()

    def __call__(self, prompts: list[list[int]], count: int) -> list[list[int]]:
        ids = self.torch.tensor(prompts)
        settings = dict(attention_mask=self.torch.ones_like(ids), do_sample=False, max_new_tokens=count)
        with self.torch.inference_mode():
            found = self.model.generate(ids, **settings, min_new_tokens=count)
        return found[:, ids.shape[1] :].tolist()


def measure(generate, prompts: list[list[int]], count: int) -> tuple[float, float, list[list[int]]]:
    """(tokens per second after the first ones, with them, the tokens)."""
    started = time.perf_counter()
    generate(prompts, 1)
    first = time.perf_counter()
    tokens = generate(prompts, count)
    whole, made = time.perf_counter() - first, sum(map(len, tokens))
    return (made - len(prompts)) / (whole - (first - started)), made / whole, tokens


def compare(model: pathlib.Path, batch: int, count: int, repeats: int, bound: float, scratch: pathlib.Path) -> None:
    ours, theirs = Ours(model, batch, scratch), Theirs(model)
    ids = ours.engine.tokenizer.encode(TEXT)
    prompts = [ids[3 * i : 3 * i + PROMPT] for i in range(batch)]
    ours(prompts, count)  # compiles
    best: dict[str, tuple[float, float]] = {"transformers": (0.0, 0.0), "ours": (0.0, 0.0)}
    found = {}
    for _ in range(repeats):
        for name, generate in (("transformers", theirs), ("ours", ours)):
            rate, whole, found[name] = measure(generate, prompts, count)
            best[name] = max(best[name][0], rate), max(best[name][1], whole)
    for name, (rate, whole) in best.items():
        share = f", {rate / bound:.0%} of the bound" if batch == 1 else ""
        ratio = "" if name == "transformers" else f", {rate / best['transformers'][0]:.2f} times transformers'{share}"
        print(f"batch {batch:2}  {name:12} {rate:7.1f} tokens/s ({whole:.1f} with the prompts){ratio}", flush=True)
    pairs = [list(zip(a, b, strict=False)) for a, b in zip(found["ours"], found["transformers"], strict=True)]
    whole = sum(all(a == b for a, b in pair) for pair in pairs)
    print(f"batch {batch:2}  {whole} of {batch} completions are the same, token for token", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, nargs="?")
    parser.add_argument("--tokens", type=int, default=97, help="drawn for each prompt")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    args = parser.parse_args()
    model = args.model or pathlib.Path("out/smollm2")
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401

        if not args.model and not model.exists():
            sys.path.insert(0, str(ROOT / "benchmarks"))
            import smollm2

            smollm2.write(model)
    except ImportError as error:
        sys.exit(f"skipped: {error}")
    from safetensors import safe_open

    with safe_open(model / "model.safetensors", "np") as file:
        size = sum(4 * math.prod(file.get_slice(name).get_shape()) for name in file.keys())
    speed = bandwidth()
    bound = speed / size
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; memory reads {speed / 1e9:.1f} GB/s, weights are")
    print(f"{size / 1e6:.0f} MB: at most {bound:.1f} tokens/s at batch 1", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        for batch in args.batches:
            compare(model, batch, args.tokens, args.repeats, bound, pathlib.Path(scratch))


if __name__ == "__main__":
    main()
