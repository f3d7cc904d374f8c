"""The data stages of a recipe on Spark: the bytes of the local engine."""

import hashlib
import os
import shutil
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))
import small_recipe  # noqa: E402

pytestmark = pytest.mark.slow

STAGES = (
    "run.recipe = [@preprocess, @exact_dedup, @fuzzy_dedup, @transform, @score, @quality_filter, @sample, "
    "@decontaminate, @split, @tokenizer, @algorithmic, @functions, @instructions, @data/corpus/shards, "
    "@data/sft1/shards]"
)


def digests(workdir):
    files = [path for path in workdir.rglob("*") if path.suffix == ".parquet" or ".array_record" in path.name]
    return {str(path.relative_to(workdir)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_spark_writes_what_the_local_engine_writes(tmp_path, monkeypatch):
    pytest.importorskip("pyspark", reason="pyspark is not installed")
    if not shutil.which("java"):
        pytest.skip("Spark needs Java 17")
    monkeypatch.setattr(small_recipe, "BINDINGS", ["VOCAB_SIZE = 1024", "split.heldout_fraction = 0.3"])
    corpus = small_recipe.write_corpus(tmp_path / "modules")
    found = {}
    for name, bindings in (("local", []), ("spark", ["ENGINE = @SparkEngine()"])):
        finished = small_recipe.run(corpus, tmp_path / name, STAGES, *bindings)
        assert finished.returncode == 0, finished.stderr[-3000:]
        found[name] = digests(tmp_path / name)
        assert {r["stage"] for r in small_recipe.done(tmp_path / name).values()} >= {"fuzzy_dedup", "data/sft1"}
    assert len(found["local"]) > 20 and found["local"] == found["spark"]
