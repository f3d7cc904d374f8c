from __future__ import annotations

import hashlib
import inspect
import json
import pathlib
import random
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from array_record.python.array_record_data_source import ArrayRecordDataSource
from etils import epath
from tensorflow_datasets.proto import tf_example_pb2

from data_prep import conversations, shards
from data_prep.engine import LocalEngine
from data_prep.files import write_parquet
from data_prep.tokenizer import Encoder, tokenizer

rng = random.Random(3)
WORDS = textwrap.__doc__.split() + ["\n    ", "é", "\u2581", "x_1"]
ROWS = [
    {"path": f"{i}.py", "text": " ".join(rng.choices(WORDS, k=rng.randrange(60))), "split": "train"} for i in range(60)
]
OTHERS = [
    {"path": "held.c", "text": "held\0 out", "split": "heldout", "repo": "other", "language": "c"},
    {"path": "bad.py", "text": "dropped", "split": "train", "reasons": ["too_bad"]},
]


@pytest.fixture
def tokenizer_dir(write_documents: Callable[..., epath.Path], tmp_path: pathlib.Path) -> epath.Path:
    documents = write_documents("corpus", [{"path": "x", "text": inspect.getsource(textwrap), "split": "train"}])
    (tmp_path / "tokenizer").mkdir()
    tokenizer(epath.Path(tmp_path / "tokenizer"), documents=documents, vocab_size=600)
    return epath.Path(tmp_path / "tokenizer")


@pytest.fixture
def build(tmp_path: pathlib.Path, tokenizer_dir: epath.Path) -> Callable[..., epath.Path]:
    def build(documents: epath.Path, name: str = "a/code", workers: int = 1, **parameters: Any) -> epath.Path:
        out = epath.Path(tmp_path / name)
        out.mkdir(parents=True, exist_ok=True)
        engine = LocalEngine(workers=workers)
        result = shards.shards(out, documents=documents, tokenizer=tokenizer_dir, engine=engine, **parameters)
        assert result["digest"] == manifest(out)["digest"]
        return out

    return build


def manifest(directory: epath.Path) -> dict[str, Any]:
    return json.loads((directory / "manifest.json").read_text())


def contents(directory: epath.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def features(directory: epath.Path) -> list[dict[str, bytes]]:
    source = ArrayRecordDataSource([str(directory / shard["file"]) for shard in manifest(directory)["shards"]])
    examples = [tf_example_pb2.Example.FromString(source[i]) for i in range(len(source))]
    return [{name: f.bytes_list.value[0] for name, f in example.features.feature.items()} for example in examples]


def test_a_record_holds_the_tokens_of_one_training_document(
    write_documents: Callable[..., epath.Path], build: Callable[..., epath.Path], tokenizer_dir: epath.Path
) -> None:
    documents = write_documents("split", ROWS + OTHERS)
    out = build(documents, num_shards=3)
    encoder = Encoder(tokenizer_dir)
    wanted = sorted([*encoder.encode(row["text"]).tolist(), 2] for row in ROWS)
    records = [np.frombuffer(record["tokens"], "<u4") for record in features(out)]
    assert sorted(record.tolist() for record in records) == wanted
    assert np.load(out / "lengths.npy").tolist() == list(map(len, records))
    assert len({record["id"] for record in features(out)}) == len(ROWS)
    assert [record.tolist() for record in records] != wanted


def test_manifest_describes_the_files(
    write_documents: Callable[..., epath.Path], build: Callable[..., epath.Path], tokenizer_dir: epath.Path
) -> None:
    out = build(write_documents("split", ROWS + OTHERS), num_shards=2)
    described = manifest(out)
    files = [shard["file"] for shard in described["shards"]]
    assert files == ["code-train.array_record-00000-of-00002", "code-train.array_record-00001-of-00002"]
    beside = "README.md corpus_index.parquet dataset_info.json features.json lengths.npy manifest.json".split()
    assert {path.name for path in out.iterdir()} == {*files, *beside}
    for shard in described["shards"]:
        data = (out / shard["file"]).read_bytes()
        assert (shard["bytes"], shard["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    tokenizer_json = json.loads((tokenizer_dir / "tokenizer.json").read_text())
    digests = "".join(shard["sha256"] for shard in described["shards"])
    assert {key: value for key, value in described.items() if key != "shards"} == {
        "name": "code",
        "kind": "tokens",
        "tokenizer_digest": tokenizer_json["digest"],
        "vocab_size": 600,
        "records": len(ROWS),
        "tokens": int(np.load(out / "lengths.npy").sum()),
        "bytes": sum(len(row["text"].encode()) for row in ROWS),
        "lengths_sha256": hashlib.sha256((out / "lengths.npy").read_bytes()).hexdigest(),
        "digest": hashlib.sha256(digests.encode()).hexdigest(),
    }


def test_bytes_depend_neither_on_workers_nor_on_the_order_of_documents(
    write_documents: Callable[..., epath.Path], build: Callable[..., epath.Path]
) -> None:
    one = build(write_documents("one", ROWS), "1/code", num_shards=4)
    shuffled = random.Random(1).sample(ROWS, len(ROWS))
    parts = write_documents("two", shuffled[:7], [], shuffled[7:])
    assert contents(one) == contents(build(parts, "2/code", workers=2, num_shards=4))
    assert contents(one) != contents(build(parts, "3/code", num_shards=4, salt="another"))


def test_a_run_that_was_cut_off_ends_with_the_same_bytes(
    write_documents: Callable[..., epath.Path], build: Callable[..., epath.Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = write_documents("split", ROWS)
    undisturbed = build(documents, "1/code", num_shards=3)
    with monkeypatch.context() as patch:
        patch.setattr(shards, "_write_tfds_metadata", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build(documents, "2/code", num_shards=3)
    half_done = pathlib.Path(undisturbed).parents[1] / "2" / "code"
    (half_done / "_scratch" / "shards" / "part-00001.parquet").unlink()
    (half_done / "code-train.array_record-00001-of-00003").unlink()
    assert contents(build(documents, "2/code", num_shards=3)) == contents(undisturbed)


READ_WITH_TFDS = """
import json, sys
import tensorflow_datasets as tfds
source = tfds.builder_from_directory(sys.argv[1]).as_data_source(split=sys.argv[2])
rows = [{k: v.tolist() if hasattr(v, "tolist") else v.decode() for k, v in row.items()} for row in source]
print(json.dumps({"rows": rows, "tensorflow": "tensorflow" in sys.modules}))
"""


def read_with_tfds(directory: epath.Path, split: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-c", READ_WITH_TFDS, str(directory), split]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert not answer["tensorflow"]
    return answer["rows"]


def test_tfds_reads_every_kind_without_tensorflow(
    write_documents: Callable[..., epath.Path], build: Callable[..., epath.Path], tokenizer_dir: epath.Path
) -> None:
    documents = write_documents("split", ROWS[:5] + OTHERS)
    encoder = Encoder(tokenizer_dir)
    tokens = read_with_tfds(build(documents, "a/code", num_shards=7), "train")  # at least two shards are empty
    assert sorted(row["tokens"] for row in tokens) == sorted([*encoder.encode(r["text"]).tolist(), 2] for r in ROWS[:5])
    out = build(documents, "a/heldout", kind="text", split="heldout")
    (text,) = read_with_tfds(out, "heldout")
    assert {k: v for k, v in text.items() if k != "id"} == {
        k: OTHERS[0][k] for k in ("text", "language", "repo", "path")
    }
    assert np.load(out / "lengths.npy").tolist() == [len(encoder.encode("held\0 out"))]
    turns = [[{"role": "user", "content": f"Why {i}?"}, {"role": "assistant", "content": "é"}] for i in range(4)]
    rows = [conversations.row(t, kind="why", language="python", provenance="{}") for t in turns]
    examples = rows[:3]
    rows[3]["reasons"] = ["too_bad"]
    directory = documents.parent / "instructions"
    directory.mkdir()
    table = pa.Table.from_pylist(rows, conversations.SCHEMA)
    write_parquet(iter([table]), directory / "part-00000.parquet")
    messages = read_with_tfds(build(directory, "a/sft", kind="messages"), "train")
    decoded = sorted(((m["id"], m["kind"], json.loads(m["messages"])) for m in messages), key=lambda m: m[0])
    assert decoded == sorted((e["id"], "why", e["messages"]) for e in examples)


def test_what_cannot_be_written_is_refused(
    write_documents: Callable[..., epath.Path], build: Callable[..., epath.Path]
) -> None:
    documents = write_documents("split", ROWS)
    with pytest.raises(ValueError, match="shards.kind must be one of tokens, text, messages"):
        build(documents, kind="parquet")
    twice = write_documents("twice", ROWS, ROWS[:1])
    with pytest.raises(ValueError, match="two records have the id"):
        build(twice, "b/code")


def test_nothing_to_write_is_an_empty_data_set(
    write_documents: Callable[..., epath.Path], build: Callable[..., epath.Path], caplog: pytest.LogCaptureFixture
) -> None:
    out = build(write_documents("split", ROWS), split="heldout")
    assert "holds no heldout documents" in caplog.text
    assert (manifest(out)["records"], manifest(out)["tokens"], len(manifest(out)["shards"])) == (0, 0, 1)
    assert np.load(out / "lengths.npy").dtype == "uint32"
    assert features(out) == []
