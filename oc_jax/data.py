"""From dataset directories to batches, with the step number as the only state.

A batch is a pure function of (data, configuration, step): random access goes all the way from a step to the windows of
a mixture to spans of records. A resume is a seek, and the same examples come at step N on any number of hosts.
"""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import itertools
import json
import logging
import multiprocessing
import os
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import grain
import jax
import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from etils import epath
from tensorflow_datasets.proto import tf_example_pb2

from oc_jax import chat
from oc_jax.mixture import Interleaved
from oc_jax.packing import Batch, TooLittleData, Windows, best_fit
from oc_jax.tokenizer import Tokenizer

LOGGER = logging.getLogger("oc_jax.data")


def load_manifest(directory: epath.Path) -> dict[str, Any]:
    """manifest.json of a dataset directory. Raises FileNotFoundError naming the directory."""
    path = epath.Path(directory) / "manifest.json"
    if not path.exists():
        raise FileNotFoundError(f"{directory} is not a dataset directory (no manifest.json): check the mixture's paths")
    return json.loads(path.read_text())


def verify(directory: epath.Path) -> dict[str, Any]:
    """Checks that every shard is present, of its recorded size and of its recorded SHA-256.

    Each of several processes hashes its part of the shards. Returns the manifest.

    Raises FileNotFoundError or ValueError naming the shard, at start-up, not at step 40,000.
    """
    manifest = load_manifest(directory)

    def check(number: int, shard: dict[str, Any]) -> None:
        path = epath.Path(directory) / shard["file"]
        if not path.exists():
            raise FileNotFoundError(f"shard {path} is missing: delete {directory} and run its recipe again")
        size = path.stat().length
        if size != shard["bytes"]:
            raise ValueError(
                f"shard {path} is damaged ({size} bytes, {shard['bytes']} expected): delete {directory} and run its "
                "recipe again"
            )
        if number % jax.process_count() == jax.process_index():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != shard["sha256"]:
                raise ValueError(
                    f"shard {path} is damaged (its SHA-256 differs from the manifest's): delete {directory} and run "
                    "its recipe again"
                )

    lengths = epath.Path(directory) / "lengths.npy"
    if not lengths.exists() or hashlib.sha256(lengths.read_bytes()).hexdigest() != manifest["lengths_sha256"]:
        raise ValueError(f"{lengths} is missing or damaged: delete {directory} and run its recipe again")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(check, itertools.count(), manifest["shards"]))
    return manifest


class Records:
    """Random access to the records of a dataset directory, in shard order: feature name → bytes.

    Raises FileNotFoundError if `directory` has no manifest.
    """

    def __init__(self, directory: epath.Path):
        shards = [s for s in load_manifest(directory)["shards"] if s["records"]]
        # With the range in the name a shard is opened at its first read, not here.
        names = [f"{directory / s['file']}[0:{s['records']}]" for s in shards]
        self._source = ArrayRecordDataSource(names) if names else []
        # A long document is cut into many windows; without this each of them would read it anew.
        self._get = functools.lru_cache(maxsize=256)(self._parse)

    def _parse(self, index: int) -> dict[str, bytes]:
        example = tf_example_pb2.Example.FromString(self._source[index])  # pyright: ignore[reportAttributeAccessIssue]
        return {name: feature.bytes_list.value[0] for name, feature in example.features.feature.items()}

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, bytes]:
        return self._get(index)


def read_records(directory: epath.Path) -> Iterator[dict[str, bytes]]:
    """All records of a dataset directory, in order."""
    records = Records(directory)
    return (records[i] for i in range(len(records)))


class Examples(Protocol):
    """Fixed-length training examples by index: Batch fields of shape [seq_len].

    tokens: of all examples together, padding aside.
    """

    tokens: int

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, np.ndarray]: ...


class PackedDocuments:
    """Concat-then-split windows over token records.

    With `mask_documents` each document in a window gets its own segment and positions from 0; without it (the paper's
    choice) the window is one sequence with full causal attention.
    """

    def __init__(self, directory: epath.Path, *, seq_len: int, seed: int, mask_documents: bool):
        self.records = Records(directory)
        lengths = np.load(epath.Path(directory) / "lengths.npy")
        self.windows = Windows(lengths, seq_len, seed)
        self.tokens = len(self.windows) * seq_len
        self.mask_documents = mask_documents

    def read(self, record: int) -> np.ndarray:
        return np.frombuffer(self.records[record]["tokens"], "<u4")

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        pieces = [self.read(s.record)[s.start : s.stop] for s in self.windows.spans(index)]
        tokens = np.concatenate(pieces).astype(np.int32)
        lengths = [len(p) for p in pieces] if self.mask_documents else [len(tokens)]
        segments = np.repeat(np.arange(1, len(lengths) + 1, dtype=np.int32), lengths)
        positions = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])
        # The first token of the next document cannot be told from this one when documents are masked.
        weights = (segments[1:] == segments[:-1]).astype(np.float32)
        return Batch(tokens[:-1], tokens[1:], weights, positions[:-1], segments[:-1])._asdict()


CHATS_AT_ONCE = 5000  # conversations that a process measures at a time


def _render(record: dict[str, bytes], tokenizer: Tokenizer, seq_len: int) -> tuple[list[int], list[bool]]:
    """Tokens of a conversation that a window of `seq_len` and its targets hold, and which of them are an answer's."""
    ids, mask = chat.render(json.loads(record["messages"]), tokenizer)
    return ids[: seq_len + 1], mask[: seq_len + 1]


def _chat_lengths(directory: epath.Path, tokenizer: epath.Path, seq_len: int, records: range) -> list[int]:
    """How much of a window each conversation takes; 0 where no answer begins in it."""
    source, vocabulary = Records(directory), Tokenizer.load(tokenizer)
    rendered = (_render(source[i], vocabulary, seq_len) for i in records)
    return [len(ids) - 1 if any(mask[1:]) else 0 for ids, mask in rendered]


def _all_chat_lengths(directory: epath.Path, tokenizer: epath.Path, seq_len: int) -> list[int]:
    """`_chat_lengths` of all conversations, by all cores where there are many: millions take hours on one."""
    total = load_manifest(directory)["records"]
    parts = [range(at, min(at + CHATS_AT_ONCE, total)) for at in range(0, total, CHATS_AT_ONCE)]
    measure = functools.partial(_chat_lengths, directory, tokenizer, seq_len)
    lengths: list[int] = []
    if len(parts) < 2:
        return measure(range(total))
    context = multiprocessing.get_context("spawn")  # a fork would copy JAX's threads half-way
    with concurrent.futures.ProcessPoolExecutor(mp_context=context) as pool:
        for number, part in enumerate(pool.map(measure, parts), start=1):
            lengths += part
            if number % max(1, len(parts) // 10) == 0:
                LOGGER.info(f"{directory.name}: measured {len(lengths):,} of {total:,} conversations")
    return lengths


class PackedChats:
    """Conversations rendered by `chat.render`, packed best-fit with one segment each; only answers have weight.

    With `pack` False a window holds one conversation, as the authors trained; the loss of all windows is the same.

    A conversation longer than `seq_len` + 1 tokens is cut there, so its end token is not trained on; one whose answer
    does not begin before the cut is left out. Raises TooLittleData when none is left.
    """

    def __init__(self, directory: epath.Path, *, seq_len: int, seed: int, tokenizer: Tokenizer, pack: bool):
        self.records = Records(directory)
        self.tokenizer = tokenizer
        self.seq_len = seq_len
        every = _all_chat_lengths(directory, tokenizer.directory, seq_len)
        kept = [record for record, length in enumerate(every) if length]
        lengths = [every[record] for record in kept]
        if not kept:
            raise TooLittleData(f"no answer in {directory} begins within {seq_len} tokens: raise seq_len or add data")
        if len(kept) < len(self.records):
            left_out = len(self.records) - len(kept)
            LOGGER.info(f"{directory.name}: {left_out} of {len(self.records)} prompts fill seq_len {seq_len}, left out")
        bins = best_fit(np.asarray(lengths, np.int64), seq_len, seed) if pack else [[i] for i in range(len(kept))]
        self.bins = [[kept[i] for i in b] for b in bins]
        self.tokens = sum(lengths)
        LOGGER.info(
            f"{directory.name}: {len(kept):,} conversations in {len(bins):,} windows of {seq_len} tokens, "
            f"{100 * (1 - self.tokens / (len(bins) * seq_len)):.0f} % padding"
        )

    def render(self, record: int) -> tuple[list[int], list[bool]]:
        return _render(self.records[record], self.tokenizer, self.seq_len)

    def __len__(self) -> int:
        return len(self.bins)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        packed = Batch(
            tokens=np.full(self.seq_len, self.tokenizer.pad, np.int32),
            targets=np.full(self.seq_len, self.tokenizer.pad, np.int32),
            weights=np.zeros(self.seq_len, np.float32),
            positions=np.zeros(self.seq_len, np.int32),
            segment_ids=np.zeros(self.seq_len, np.int32),
        )
        at = 0
        for segment, record in enumerate(self.bins[index], start=1):
            ids, mask = self.render(record)
            span = slice(at, at := at + len(ids) - 1)
            packed.tokens[span] = ids[:-1]
            packed.targets[span] = ids[1:]
            packed.weights[span] = mask[1:]
            packed.positions[span] = np.arange(len(ids) - 1)
            packed.segment_ids[span] = segment
        return packed._asdict()


def open_examples(
    directory: epath.Path, tokenizer: Tokenizer, *, seq_len: int, seed: int, mask_documents: bool, pack_chats: bool
) -> Examples:
    """The training examples of a verified dataset directory, by its kind.

    Raises ValueError when it was made with another tokenizer or is not for training, TooLittleData if it is too small.
    """
    manifest = verify(directory)
    if manifest["kind"] == "messages":
        return PackedChats(directory, seq_len=seq_len, seed=seed, tokenizer=tokenizer, pack=pack_chats)
    if manifest["kind"] != "tokens":
        raise ValueError(f"{directory} holds '{manifest['kind']}' records, which are not for training")
    if manifest["tokenizer_digest"] != tokenizer.digest:
        raise ValueError(
            f"{directory} was made with another tokenizer than {tokenizer.directory}: delete it and run its recipe "
            "again"
        )
    return PackedDocuments(directory, seq_len=seq_len, seed=seed, mask_documents=mask_documents)


def open_mixture(
    mixture: Mapping[epath.Path, float],
    tokenizer: Tokenizer,
    *,
    seq_len: int,
    seed: int,
    mask_documents: bool,
    pack_chats: bool,
    skip_empty: bool,
) -> dict[str, tuple[Examples, float]]:
    """Path → (examples, weight) of the data sets of a mixture, in the order given.

    With `skip_empty` those of weight 0 or without an example are left out. Raises ValueError when none is left, and
    what `open_examples` raises.
    """
    sources: dict[str, tuple[Examples, float]] = {}
    left_out = []
    for path, weight in mixture.items():
        try:
            if weight <= 0:
                raise TooLittleData(f"its weight is {weight}")
            examples = open_examples(
                path, tokenizer, seq_len=seq_len, seed=seed, mask_documents=mask_documents, pack_chats=pack_chats
            )
            sources[os.fspath(path)] = (examples, weight)
        except TooLittleData as reason:
            if not skip_empty:
                raise ValueError(f"{path}: {reason}, or bind train.skip_empty = True to train without it") from reason
            left_out.append(f"{path.name}: {reason}")
            LOGGER.warning(f"left out of the mixture, {left_out[-1]}")
    if not sources:
        raise ValueError(f"no data set of train.mixture holds anything to train on: {'; '.join(left_out)}")
    return sources


class Stream:
    """Examples without end, each epoch in another order; blocks of `block` neighbours stay together.

    So stages of other sequence lengths can go on in one order: their blocks hold the same tokens.
    """

    def __init__(self, examples: Examples, *, seed: int, block: int, tag: int):
        if len(examples) < block:
            raise ValueError(f"{len(examples)} windows do not fill a block of {block}: lower train.block_len")
        self.examples, self.block, self.tag = examples, block, tag
        blocks = len(examples) // block
        # As good as without end; an endless data set has a length that Grain cannot always represent.
        self.blocks = grain.MapDataset.range(blocks).seed(seed).shuffle().repeat(2**40 // blocks + 1)

    def __len__(self) -> int:
        return len(self.blocks) * self.block

    def __getitem__(self, index: int) -> dict[str, Any]:
        block = int(self.blocks[index // self.block])  # pyright: ignore[reportArgumentType]
        return self.examples[block * self.block + index % self.block] | {"source": self.tag}


def batches(
    mixture: Mapping[str, tuple[Examples, float]],
    *,
    batch_size: int,
    accumulation: int,
    seed: int,
    start: int,
    block: int = 1,
    part: int = 0,
    parts: int = 1,
) -> Iterator[tuple[Batch, np.ndarray]]:
    """One of `parts` equal parts of the global batches from number `start` on, without end.

    mixture: name → (examples, weight); weights are shares of tokens, padding aside. `block` windows of token data sets
    stay together when every epoch of a source is permuted anew from `seed`. Yields arrays [accumulation, batch_size /
    accumulation / parts, seq_len], and the tokens of each source in this part. Raises ValueError when batch_size does
    not divide.
    """
    if batch_size % (accumulation * parts):
        raise ValueError(
            f"batch_size {batch_size} does not divide over {accumulation} accumulation steps × {parts} hosts"
        )
    sources = [
        grain.MapDataset.source(
            Stream(examples, seed=seed + i, block=block if isinstance(examples, PackedDocuments) else 1, tag=i)
        )
        for i, (examples, _) in enumerate(mixture.values())
    ]
    weights = [weight * len(examples) / examples.tokens for examples, weight in mixture.values()]
    mixed = grain.MapDataset.select_from_datasets(sources, Interleaved(weights))
    local = mixed[part::parts].batch(batch_size // parts)
    iterator = iter(local.to_iter_dataset(grain.ReadOptions(num_threads=4, prefetch_buffer_size=4)))
    grain.experimental.set_next_index(iterator, start)
    for batch in iterator:
        source, tokens = batch.pop("source"), np.sum(batch["segment_ids"] > 0, axis=1)
        read = np.bincount(source, weights=tokens, minlength=len(sources)).astype(np.int64)
        yield Batch(**{k: v.reshape(accumulation, -1, *v.shape[1:]) for k, v in batch.items()}), read


def local_part(sharding: jax.sharding.Sharding, shape: tuple[int, int, int]) -> tuple[int, int, slice]:
    """(part, parts, columns): which of how many parts of a batch [accumulation, batch, length] this process reads.

    Processes that split the sequence or the model between them read the same rows, each its columns. Raises ValueError
    for a mesh whose processes hold overlapping rows.
    """
    rows: dict[int, set[tuple[int, int]]] = {}
    columns: dict[int, set[tuple[int, int]]] = {}
    for device, index in sharding.devices_indices_map(shape).items():
        row, column = (s.indices(n)[:2] for s, n in zip(index[1:], shape[1:], strict=True))
        rows.setdefault(device.process_index, set()).add(row)
        columns.setdefault(device.process_index, set()).add(column)
    groups = sorted({tuple(sorted(held)) for held in rows.values()})
    if len({bounds for group in groups for bounds in group}) != sum(map(len, groups)):
        raise ValueError("processes of this mesh hold overlapping parts of the batch: change MeshConfig")
    mine = jax.process_index()
    held = columns[mine]
    return (
        groups.index(tuple(sorted(rows[mine]))),
        len(groups),
        slice(min(start for start, _ in held), max(stop for _, stop in held)),
    )
