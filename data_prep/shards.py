"""Dataset directories: globally shuffled ArrayRecord shards with TFDS metadata, record lengths and a manifest.

The design is that of TFDS's BeamWriter: a record's key is a salted hash of its id, its shard a hash bucket of the key,
and a shard holds its records sorted by key. So the order is a uniform shuffle that depends on nothing but ids and salt:
the bytes are the same on every run and for any number of workers.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import logging
import os
import re
import tempfile
from collections.abc import Callable

import gin
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tensorflow_datasets as tfds
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]
from etils import epath
from tensorflow_datasets.core import dataset_info, example_serializer, naming
from tensorflow_datasets.core.features import FeatureConnector, FeaturesDict

from data_prep import corpus_index, data_card
from data_prep import documents as docs
from data_prep.engine import Engine, LocalEngine
from data_prep.files import atomic, write_json
from data_prep.tasks import bucket_of
from data_prep.tokenizer import EOS, Encoder

LOGGER = logging.getLogger("data_prep")

SHARD_BYTES = 64 << 20  # of records before compression, where num_shards is 0
WRITER_OPTIONS = "group_size:1"  # one record per chunk, as random access needs; zstd level 3

Row = dict  # a row of the input as Python values
Record = tuple[dict, bytes, int]  # (features of the example, the bytes it stands for, its tokens)


@gin.configurable
def shards(
    out: epath.Path,
    *,
    documents: epath.Path = epath.Path("split"),
    tokenizer: epath.Path = epath.Path("tokenizer"),
    kind: str = "tokens",
    split: str | None = "train",
    num_shards: int = 0,
    salt: str = "shards",
    engine: Engine = LocalEngine(),
) -> dict:
    """Writes one record per kept document (or conversation) of `split` into a dataset directory.

    | kind | features of a record | lengths.npy |
    | tokens | tokens: uint32 [n], ending with eos, as little-endian bytes; id | n |
    | text | text: bytes; language; repo; path; id | tokens of the text, without eos |
    | messages | messages: JSON list of {"role", "content"}; id; kind | tokens of the contents, without the template |

    Args:
      out: dataset directory to write; its last name is the data set's name.
      documents: documents, or for kind "messages" a directory of conversations.
      tokenizer: tokenizer directory.
      kind: "tokens" to train on, "text" to evaluate on, "messages" for instruction tuning.
      split: value of column `split` to take, and the name of the TFDS split; None takes every row, as split "train".
        Conversations have no such column: `split` only names the TFDS split there.
      num_shards: number of shards, or 0 for one per 64 MiB of uncompressed records.
      salt: another salt gives another order.

    corpus_index.parquet lists what the records are made of, see `corpus_index`; README.md is the card of the data set.

    Raises:
      ValueError: `kind` is unknown, or two records have the same id.
    """
    if kind not in _KINDS:
        raise ValueError(f"shards.kind must be one of {', '.join(_KINDS)}, not {kind!r}")
    scratch = out / "_scratch"
    records, written = scratch / "records", scratch / "shards"
    for directory in (records, written):
        directory.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"\W+", "_", out.name)
    make = functools.partial(_records, kind=kind, tokenizer=os.fspath(tokenizer), split=split, salt=salt)
    engine.map(make, docs.parts(documents), records, label=f"{name}: {kind}")
    record_bytes = sum(pc.sum(_column(part, "record_bytes")).as_py() or 0 for part in docs.parts(records))
    if not record_bytes:
        LOGGER.warning("%s holds no %s documents: %s will be an empty data set", documents, split or "kept", out)
    num_shards = num_shards or max(1, -(-record_bytes // SHARD_BYTES))
    target = _Target(os.fspath(out), name, split or "train", num_shards)
    write = functools.partial(_write_bucket, target=target)
    engine.reduce(
        write, docs.parts(records), written, key="key", buckets=num_shards, label=f"{name}: {num_shards} shards"
    )
    table = pa.concat_tables(_described(part, target, i) for i, part in enumerate(docs.parts(written)))
    _write_tfds_metadata(target, _KINDS[kind].features, table)
    manifest = _write_manifest(target, kind, tokenizer, table)
    facts = {key: manifest[key] for key in ("name", "kind", "records", "tokens", "tokenizer_digest", "digest")}
    facts |= {"split": split, "num_shards": num_shards, "salt": salt}
    corpus_index.write(out, documents, scratch / "index", split, facts, engine)
    data_card.write(out, documents, manifest)
    scratch.rmtree()
    return {key: manifest[key] for key in ("records", "tokens", "bytes", "digest")} | {"shards": num_shards}


@dataclasses.dataclass(frozen=True)
class _Kind:
    columns: tuple[str, ...]
    features: dict[str, FeatureConnector]
    record: Callable[[Row, Encoder], Record]


def _tokens_record(row: Row, encoder: Encoder) -> Record:
    tokens = np.append(encoder.encode(row["text"]), np.uint32(EOS))
    return {"tokens": tokens, "id": row["id"]}, row["text"].encode(), len(tokens)


def _text_record(row: Row, encoder: Encoder) -> Record:
    return row, row["text"].encode(), len(encoder.encode(row["text"]))


def _messages_record(row: Row, encoder: Encoder) -> Record:
    messages = json.dumps(row["messages"], ensure_ascii=False)
    tokens = sum(len(encoder.encode(message["content"])) for message in row["messages"])
    return row | {"messages": messages}, messages.encode(), tokens


def _strings(*names: str) -> dict[str, FeatureConnector]:
    return {name: tfds.features.Text() for name in names}


_TOKENS = tfds.features.Tensor(shape=(None,), dtype=np.uint32, encoding="bytes")
_KINDS = {
    "tokens": _Kind(("id", "text"), {"tokens": _TOKENS, **_strings("id")}, _tokens_record),
    "text": _Kind(
        ("id", "text", "language", "repo", "path"), _strings("text", "language", "repo", "path", "id"), _text_record
    ),
    "messages": _Kind(("id", "messages", "kind"), _strings("messages", "id", "kind"), _messages_record),
}


@functools.lru_cache(maxsize=1)
def _encoder(tokenizer: str) -> Encoder:
    return Encoder(tokenizer)


def _records(table: pa.Table, *, kind: str, tokenizer: str, split: str | None, salt: str) -> pa.Table:
    """Key, serialised tf.train.Example and sizes of each row of the split."""
    table = docs.kept(table)
    if kind != "messages" and split is not None:
        table = table.filter(pc.equal(table["split"], split))
    spec = _KINDS[kind]
    features = FeaturesDict(spec.features)
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())  # pyright: ignore[reportArgumentType]
    rows = []
    for row in table.select(spec.columns).to_pylist():
        example, content, tokens = spec.record(row, _encoder(tokenizer))
        # Protobuf's own order of map entries may change from process to process.
        record = serializer.get_tf_example(features.encode_example(example)).SerializeToString(deterministic=True)
        key = hashlib.sha256(f"{salt}\0{row['id']}".encode()).hexdigest()
        rows.append((key, row["id"], record, len(record), tokens, len(content)))
    columns = zip(*rows, strict=True) if rows else [[] for _ in _RECORD_SCHEMA]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, _RECORD_SCHEMA, strict=True)], _RECORD_SCHEMA)


_RECORD_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("id", pa.string()),
        ("record", pa.large_binary()),
        ("record_bytes", pa.int64()),
        ("tokens", pa.uint32()),
        ("content_bytes", pa.int64()),
    ]
)
_SHARD_SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("records", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("content_bytes", pa.int64()),
        ("lengths", pa.large_list(pa.uint32())),
    ]
)


@dataclasses.dataclass(frozen=True)
class _Target:
    directory: str
    name: str
    split: str
    num_shards: int

    def file(self, shard: int) -> str:
        return f"{self.name}-{self.split}.array_record-{shard:05d}-of-{self.num_shards:05d}"


def _write_bucket(table: pa.Table, *, target: _Target) -> pa.Table:
    """Writes the rows of one bucket as the shard of that number and describes it; nothing for an empty bucket."""
    if not table.num_rows:
        return _SHARD_SCHEMA.empty_table()
    shard = int(bucket_of(table["key"].slice(0, 1).combine_chunks(), target.num_shards)[0])
    return _write_shard(table.sort_by("key"), target, shard)


def _described(part: epath.Path, target: _Target, shard: int) -> pa.Table:
    """What `_write_bucket` returned for the bucket; if that was empty, an empty shard is written first."""
    with part.open("rb") as file:
        table = pq.read_table(file, schema=_SHARD_SCHEMA)
    return table if table.num_rows else _write_shard(_RECORD_SCHEMA.empty_table(), target, shard)


def _write_shard(table: pa.Table, target: _Target, shard: int) -> pa.Table:
    keys = table["key"].to_pylist()
    for i in range(1, len(keys)):
        if keys[i] == keys[i - 1]:
            raise ValueError(f"{target.name}: two records have the id {table['id'][i].as_py()}: ids must be unique")
    with tempfile.TemporaryDirectory() as local:  # ArrayRecord writes local files only
        path = epath.Path(local) / "shard"
        writer = array_record_module.ArrayRecordWriter(os.fspath(path), WRITER_OPTIONS)
        for record in table["record"]:
            writer.write(record.as_py())
        writer.close()
        data = path.read_bytes()
    with atomic(epath.Path(target.directory) / target.file(shard)) as file:
        file.write(data)
    row = {
        "file": target.file(shard),
        "records": table.num_rows,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "content_bytes": pc.sum(table["content_bytes"]).as_py() or 0,
        "lengths": table["tokens"].to_pylist(),
    }
    return pa.Table.from_pylist([row], _SHARD_SCHEMA)


def _write_tfds_metadata(target: _Target, features: dict[str, FeatureConnector], table: pa.Table) -> None:
    """features.json and dataset_info.json, so that `tfds.builder_from_directory` reads the shards."""
    identity = dataset_info.DatasetIdentity(
        name=target.name, version=tfds.core.Version("1.0.0"), data_dir=target.directory, module_name=""
    )
    info = tfds.core.DatasetInfo(builder=identity, features=FeaturesDict(features))
    info.set_file_format("array_record")
    template = naming.ShardedFileTemplate(
        data_dir=epath.Path(target.directory),
        dataset_name=target.name,
        split=target.split,
        filetype_suffix="array_record",
    )
    split = tfds.core.SplitInfo(
        name=target.split,
        shard_lengths=table["records"].to_pylist(),
        num_bytes=pc.sum(table["bytes"]).as_py(),
        filename_template=template,
    )
    info.set_splits(tfds.core.SplitDict([split]))
    staging = epath.Path(target.directory) / "_scratch" / "metadata"
    staging.mkdir(parents=True, exist_ok=True)
    info.write_to_directory(staging)
    for file in ("features.json", "dataset_info.json"):
        (staging / file).replace(epath.Path(target.directory) / file)


def _write_manifest(target: _Target, kind: str, tokenizer: epath.Path, table: pa.Table) -> dict:
    """lengths.npy and manifest.json; `bytes` counts the content of the records, a shard's `bytes` its file."""
    out = epath.Path(target.directory)
    lengths = pc.list_flatten(table["lengths"]).combine_chunks().to_numpy(zero_copy_only=False)
    buffer = io.BytesIO()
    np.save(buffer, lengths)
    description = json.loads((tokenizer / "tokenizer.json").read_text())
    files = table.select(["file", "records", "bytes", "sha256"]).to_pylist()
    manifest = {
        "name": target.name,
        "kind": kind,
        "tokenizer_digest": description["digest"],
        "vocab_size": description["vocab_size"],
        "records": len(lengths),
        "tokens": int(lengths.sum(dtype=np.int64)),
        "bytes": pc.sum(table["content_bytes"]).as_py(),
        "shards": files,
        "lengths_sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
        "digest": hashlib.sha256("".join(file["sha256"] for file in files).encode()).hexdigest(),
    }
    with atomic(out / "lengths.npy") as file:
        file.write(buffer.getvalue())
    write_json(out / "manifest.json", manifest)
    return manifest


def _column(part: epath.Path, name: str) -> pa.ChunkedArray:
    with part.open("rb") as file:
        return pq.read_table(file, columns=[name])[name]
