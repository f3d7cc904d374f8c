#!/usr/bin/env python
"""The loader: packed tokens per second of CPU time, and how long a resume takes to find its place.

    python benchmarks/loader.py [DATASET]

Bars: 1,000,000 tokens per second of one core at 8,192 (a host of TPU v5p consumes about 25,000), less than a second to
the first batch at step 1,000,000. Without DATASET a synthetic one of the shape of code is written first.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil
import statistics
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
SEQ_LEN, BATCH = 8192, 8


def write(directory: pathlib.Path, tokens: int) -> None:
    """Token records of log-normal length (median 700), four shards."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    rng = np.random.default_rng(0)
    directory.mkdir(parents=True)
    lengths, shards = [], []
    for shard in range(4):
        name = f"synthetic-train.array_record-{shard:05}-of-00004"
        writer = ArrayRecordWriter(str(directory / name), "group_size:1")
        records = 0
        while sum(lengths) < tokens * (shard + 1) / 4:
            length = int(np.clip(rng.lognormal(6.5, 1.2), 20, 200_000))
            example = tf_example_pb2.Example()
            ids = rng.integers(4, 96_000, length, dtype=np.uint32).tobytes()
            example.features.feature["tokens"].bytes_list.value.append(ids)
            example.features.feature["id"].bytes_list.value.append(b"%064d" % len(lengths))
            writer.write(example.SerializeToString())
            lengths.append(length)
            records += 1
        writer.close()
        shards.append({"file": name, "records": records})
    np.save(directory / "lengths.npy", np.asarray(lengths, np.uint32))
    (directory / "manifest.json").write_text(json.dumps({"kind": "tokens", "shards": shards}))


def measure(directory: pathlib.Path, steps: int) -> None:
    from etils import epath

    from oc_jax.data import PackedDocuments, batches

    examples = PackedDocuments(epath.Path(directory), seq_len=SEQ_LEN, seed=0, mask_documents=False)
    open_at = lambda step: batches({"x": (examples, 1.0)}, batch_size=BATCH, accumulation=1, seed=0, start=step)
    stream = open_at(0)
    for _ in range(5):
        next(stream)
    rates = []
    for _ in range(5):
        cpu = time.process_time()
        for _ in range(steps):
            next(stream)
        rates.append(steps * BATCH * SEQ_LEN / (time.process_time() - cpu))
    print(f"{statistics.median(rates):,.0f} packed tokens per second of CPU time (bar: 1,000,000)", flush=True)
    for step in (0, 10**6):
        wall, cpu = time.monotonic(), time.process_time()
        next(open_at(step))
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
        print(f"first batch at step {step:,}: {wall:.2f} s, {cpu:.2f} s of CPU time (bar: 1)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", nargs="?", type=pathlib.Path, help="a dataset directory of kind tokens")
    parser.add_argument("--tokens", type=int, default=20_000_000, help="of the synthetic data set")
    parser.add_argument("--steps", type=int, default=20, help="batches per measurement, of which there are five")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if args.dataset:
        return measure(args.dataset, args.steps)
    scratch = pathlib.Path(tempfile.mkdtemp())
    try:
        write(scratch / "data", args.tokens)
        measure(scratch / "data", args.steps)
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
