#!/usr/bin/env python
"""Peak memory of --mode=import on a synthetic checkpoint of OpenCoder-1.5B's shape (3.8 GB in bfloat16).

    python benchmarks/import.py --scratch=/tmp/import

Bar: at most 1.5 times the size of the weights. The peak is the resident set of the importing process, kept by
the kernel (VmHWM), with what Python and JAX take before they begin.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHAPE = {
    "vocab_size": 96640,
    "hidden_size": 2240,
    "intermediate_size": 6144,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 14,
    "head_dim": 160,
    "max_position_embeddings": 4096,
}


def write(directory: pathlib.Path, layers: int) -> int:
    """A model of random bits in files of 2 GB; returns the bytes of its weights."""
    import numpy as np
    from etils import epath

    from oc_jax import hf, model
    from oc_jax.hf import safetensors

    shape = SHAPE | {"num_hidden_layers": layers}
    config = model.ModelConfig(**shape)
    rng = np.random.default_rng(0)
    planned = []
    for weight in hf.WEIGHTS:
        leaf = model.abstract(config)[1]
        for key in weight.path.split("/"):
            leaf = leaf[key]
        for layer in range(layers) if weight.stacked else [0]:
            size = weight.their_shape(leaf.shape[1:] if weight.stacked else leaf.shape)
            value = lambda size=size: rng.standard_normal(size, np.float32)
            planned.append(safetensors.Planned(weight.name.format(layer), size, value))
    directory.mkdir(parents=True)
    safetensors.write_directory(epath.Path(directory), planned, safetensors.DTYPES["BF16"], 2 * 10**9)
    described = {"architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-5, **shape}
    (directory / "config.json").write_text(json.dumps(described))
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))


CHILD = """
import re, sys
sys.path.insert(0, sys.argv[1])
import jax
from etils import epath
from oc_jax import hf
from oc_jax.sharding import MeshConfig, make_layout
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
source = epath.Path(sys.argv[2])
jax.devices()
before = peak()
if sys.argv[3] == "arrays":
    jax.block_until_ready(hf.load_params(source, hf.read_config(source), make_layout(MeshConfig())))
else:
    hf.import_model(source, epath.Path(sys.argv[3]))
print(before, peak())
"""


def measure(source: pathlib.Path, out: str) -> tuple[float, float, float]:
    """(GB before, GB at the peak, seconds)."""
    started = time.monotonic()
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(ROOT), str(source), out], check=True, stdout=subprocess.PIPE, text=True
    )
    before, peak = child.stdout.split()
    return int(before) / 1e9, int(peak) / 1e9, time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=pathlib.Path, help="directory with room for twice the weights")
    parser.add_argument("--layers", type=int, default=SHAPE["num_hidden_layers"])
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    scratch = pathlib.Path(tempfile.mkdtemp(dir=args.scratch))
    try:
        size = write(scratch / "source", args.layers) / 1e9
        tokenizer = scratch / "source" / "tokenizer.json"
        tokenizer.write_text(json.dumps(TOKENIZER))
        (scratch / "source" / "tokenizer_config.json").write_text(json.dumps({"eos_token": "a"}))
        for name, out in (("to arrays", "arrays"), ("to a checkpoint", str(scratch / "out" / "base"))):
            before, peak, seconds = measure(scratch / "source", out)
            print(
                f"{name}: weights {size:.2f} GB, peak {peak:.2f} GB ({before:.2f} GB of it before), "
                f"{peak / size:.2f} × the weights (at most 1.5), {seconds:.0f} s",
                flush=True,
            )
    finally:
        shutil.rmtree(scratch)


TOKENIZER = {
    "version": "1.0",
    "added_tokens": [],
    "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
    "decoder": {"type": "Fuse"},
}

if __name__ == "__main__":
    main()
