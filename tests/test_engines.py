"""The data stages of the recipes on Spark: the bytes of the local engine."""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

sys.path[:0] = [os.path.dirname(__file__), os.path.join(os.path.dirname(__file__), "data_prep")]
import small_recipe  # noqa: E402
import test_recall  # noqa: E402

pytestmark = pytest.mark.slow

COOKBOOK = """
run.recipe = [@preprocess, @exact_dedup, @fuzzy_dedup, @transform, @score, @quality_filter, @sample, @star_filter,
  @decontaminate, @split, @tokenizer, @chunks, @chunk/fuzzy_dedup, @algorithmic, @functions, @instructions,
  @conversations, @data/corpus/shards, @data/sft1/shards]
VOCAB_SIZE = 1024
split.heldout_fraction = 0.3
star_filter.engine = %ENGINE
chunks.engine = %ENGINE
chunks.chunk_tokens = 256
chunk/fuzzy_dedup.documents = "chunks"
chunk/fuzzy_dedup.unit = "repository"
conversations.engine = %ENGINE
"""
RECALL = """
recall.rounds = 2
recall.vocab_size = 900
FastText.dim = 8
FastText.epochs = 2
FastText.min_steps = 1500
FastText.min_count = 1
FastText.buckets = 4096
"""


def cookbook(top: pathlib.Path) -> list[str]:
    corpus = small_recipe.write_corpus(top / "modules")
    answer = {"role": "assistant", "content": "yes"}
    turns = [{"messages": [{"role": "user", "content": f"{n % 40}"}, answer]} for n in range(60)]
    (top / "turns.jsonl").write_text("\n".join(map(json.dumps, turns)))
    sources = [f'preprocess.sources = ["{corpus}"]', f'conversations.sources = ["{top / "turns.jsonl"}"]']
    return ["gin/runs/cookbook.gin", COOKBOOK, *sources]


def recall(top: pathlib.Path) -> list[str]:
    pages = [{"text": row["text"], "url": row["url"]} for row in test_recall.rows()]
    seed = [page for page in pages if "code-a.com" in page["url"]]
    sources = []
    for name, stage, rows in (("crawl", "preprocess", pages), ("seed", "seed_raw/preprocess", seed)):
        (top / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        sources.append(f'{stage}.sources = ["{top / name}.jsonl"]')
    return ["gin/runs/recall.gin", RECALL, *sources]


def digests(workdir: pathlib.Path) -> dict[str, str]:
    kinds = (".parquet", ".model", ".bin")
    files = [path for path in workdir.rglob("*") if path.suffix in kinds or ".array_record" in path.name]
    return {str(path.relative_to(workdir)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("recipe, stages", [(cookbook, {"chunk", "conversations", "data/sft1"}), (recall, {"recall"})])
def test_spark_writes_what_the_local_engine_writes(recipe, stages, tmp_path):
    pytest.importorskip("pyspark", reason="pyspark is not installed")
    if not shutil.which("java"):
        pytest.skip("Spark needs Java 17")
    gin_file, *bindings = recipe(tmp_path)
    command = [sys.executable, "run.py", f"--gin_file={gin_file}", *(f"--gin_bindings={b}" for b in bindings)]
    for name, engine in (("local", "@LocalEngine()"), ("spark", "@SparkEngine()")):
        job = [*command, f"--workdir={tmp_path / name}", f"--gin_bindings=ENGINE = {engine}"]
        finished = subprocess.run(job, capture_output=True, text=True, cwd=small_recipe.ROOT)
        assert finished.returncode == 0, finished.stderr[-3000:]
        assert small_recipe.done(tmp_path / name).keys() >= stages
    local = digests(tmp_path / "local")
    assert len(local) > 8 and local == digests(tmp_path / "spark")
