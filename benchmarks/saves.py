#!/usr/bin/env python
"""Host memory and threads over a thousand asynchronous checkpoint saves, which should stay where they are.

python benchmarks/saves.py [--saves=1000] [--megabytes=4]
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saves", type=int, default=1000)
    parser.add_argument("--megabytes", type=int, default=4, help="size of the state")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    import jax.numpy as jnp
    from etils import epath

    from oc_jax.checkpoint import Saver
    from oc_jax.metrics import host_rss_gb

    state = {"params": jnp.arange(args.megabytes * 250_000, dtype=jnp.float32), "step": jnp.int32(0)}
    with tempfile.TemporaryDirectory() as scratch, Saver(epath.Path(scratch) / "checkpoints", keep=2) as saver:
        started = time.monotonic()
        for step in range(1, args.saves + 1):
            saver.save(step, state, {"step": step}, required=True)
            if step % max(1, args.saves // 10) == 0:
                seconds = (time.monotonic() - started) / step
                memory, threads = 1024 * host_rss_gb(), threading.active_count()
                print(f"{step} saves: {memory:.0f} MiB, {threads} threads, {seconds:.2f} s each", flush=True)


if __name__ == "__main__":
    main()
