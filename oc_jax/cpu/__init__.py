"""Three kernels for CPU where XLA has no fast program: kernels.cc, compiled on first use and kept in the user's cache.

The programs they are part of are XLA's, and so are the threads they run on (`jax.ffi`). Without a C++ compiler
`available` is False, and what would use them is left to XLA.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import pathlib
import platform
import shutil
import subprocess
import tempfile

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

SOURCE = pathlib.Path(__file__).with_name("kernels.cc")
LANES = 16  # floats of the widest register; sizes that are a multiple suit every machine
MOST_COLUMNS = 64  # for which `product` is faster than XLA, see benchmarks/decoding.py
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-shared", "-w")


@functools.cache
def available() -> bool:
    """Whether the kernels are here; the first call of a machine compiles them, which takes seconds."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    try:
        library = ctypes.CDLL(str(_compiled(compiler or "c++")))
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        logging.getLogger(__name__).warning(
            "CPU kernels are left to XLA, which is slower: %s (install g++, or set CXX)", said.strip().splitlines()[0]
        )
        return False
    for name in ("oc_product", "oc_step", "oc_attention", "oc_attention_gradient"):
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    return True


def _compiled(compiler: str) -> pathlib.Path:
    """The library for this source, compiler and processor. Raises OSError or CalledProcessError without one."""
    command = [compiler, *_FLAGS, "-I", jax.ffi.include_dir(), str(SOURCE)]
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True).stdout
    cpu = pathlib.Path("/proc/cpuinfo")
    features = next((x for x in cpu.read_text().splitlines() if x.startswith("flags")), "") if cpu.exists() else ""
    facts = (SOURCE.read_bytes(), version, repr((command, jax.__version__, platform.machine(), features)).encode())
    digest = hashlib.sha256(b"\0".join(facts)).hexdigest()[:16]
    folder = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "oc_jax"
    target = folder / f"kernels-{digest}.so"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:  # renamed when whole: others may be at it, too
            output = pathlib.Path(scratch) / target.name
            subprocess.run([*command, "-o", str(output)], check=True, capture_output=True, text=True)
            output.replace(target)
    return target


def product(w: jax.Array, x: jax.Array) -> jax.Array:
    """w [rows, depth] times x [depth, columns], both float32, for a `w` that is read from memory but once.

    Each number is the sum of its terms in their order, however many columns there are.
    """
    columns = x.shape[1]
    x = jnp.pad(x, ((0, 0), (0, -columns % LANES)))
    shape = jax.ShapeDtypeStruct((w.shape[0], x.shape[1]), jnp.float32)
    return jax.ffi.ffi_call("oc_product", shape)(w, x)[:, :columns]


def step(q, k, v, cos, sin, positions, keys, values):
    """Attention of one new token for each sequence: (context, keys, values) with what is new written in place.

    q [batch, heads, head_dim], k and v [batch, kv_heads, head_dim], `model.rotations` cos and sin [batch, 1, half],
    positions [batch] int32, keys and values [kv_heads · batch, places, head_dim], which it consumes.
    """
    call = jax.ffi.ffi_call("oc_step", (_like(q), _like(keys), _like(values)), input_output_aliases={6: 1, 7: 2})
    return call(q, k, v, cos, sin, positions, keys, values)


@jax.custom_vjp
def attention(q, k, v, positions, segments):
    """As `oc_jax.attention.attention` on one device: float32 q [batch, length, heads, head_dim] → the same shape.

    k and v [batch, length, kv_heads, head_dim], positions and segments [batch, length] int32; head_dim is a multiple
    of `LANES`. The gradient is FlashAttention-2's.
    """
    return _forward(q, k, v, positions, segments)[0]


def _forward(q, k, v, positions, segments):
    batch, length, heads, _ = q.shape
    shapes = _like(q), jax.ShapeDtypeStruct((batch, heads, length), jnp.float32)
    found = jax.ffi.ffi_call("oc_attention", shapes)(q, k, v, positions, segments)
    out, log_sum = (checkpoint_name(x, "context") for x in found)
    return out, (q, k, v, positions, segments, out, log_sum)


def _backward(residuals, g):
    q, k, v, *_ = residuals
    return *jax.ffi.ffi_call("oc_attention_gradient", (_like(q), _like(k), _like(v)))(*residuals, g), None, None


def _like(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


attention.defvjp(_forward, _backward)
