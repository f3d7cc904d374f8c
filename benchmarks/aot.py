#!/usr/bin/env python
"""Compiles every training step that docs/aot describes once more and says what became worse.

    python benchmarks/aot.py [NAME…]

NAME: only the reports whose name holds it. Needs libtpu, not a TPU; one to three minutes each. Ends with 1 if any needs
more memory, more FLOPs or a longer step than the report says, by more than 1 or 2 % (oc_jax.aot.TOLERANCES). A change
that is meant is recorded by running the report's own command, which writes into docs/aot.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import pathlib
import shlex
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]


def again(golden: pathlib.Path) -> dict:
    """The report that the same command writes now."""
    with tempfile.TemporaryDirectory() as scratch:
        command = shlex.split(json.loads(golden.read_text())["command"])[1:]
        command = [f"--workdir={scratch}" if part.startswith("--workdir=") else part for part in command]
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return json.loads((pathlib.Path(scratch) / golden.name).read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    names = parser.parse_args().names
    if not importlib.util.find_spec("libtpu"):
        return print("skipped: libtpu is not installed (pip install -r requirements-tpu.txt)")
    sys.path.insert(0, str(ROOT))
    from oc_jax import aot

    worse = 0
    for path in sorted((ROOT / "docs" / "aot").glob("*.json")):
        if names and not any(name in path.stem for name in names):
            continue
        now = again(path)
        found = aot.regressions(json.loads(path.read_text()), now)
        worse += bool(found)
        peak, share, seconds = now["memory"]["peak"], now["recomputed_share"], now["compile_seconds"]
        said = f"{peak:.1f} GiB, {share:.1%} recomputed, compiled in {seconds:.0f} s"
        print(f"{path.stem}: {said}; {'; '.join(found) or 'as before'}", flush=True)
    sys.exit(bool(worse))


if __name__ == "__main__":
    main()
