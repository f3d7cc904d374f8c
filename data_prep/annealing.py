"""High-quality data for annealing, found in the corpus itself (arXiv 2411.04905, section 2.2).

`algorithmic` is the paper's algorithmic corpus: documents with telling keywords that are self-contained and rich in
logic. `functions` stands in for the paper's verified code snippets, which a language model writes and tests: documented
functions that need nothing from their file are cut out as they are, written by people and not executed here. Where a
teacher is at hand, `data_prep.synthesis` writes snippets and textbooks; `questions_and_answers` takes its dialogues.
"""

from __future__ import annotations

import ast
import functools as ft
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import gin
import numpy as np
import pyarrow as pa
from etils import epath

from data_prep import documents as docs
from data_prep import funnel
from data_prep.dedup import survivors
from data_prep.dialogues import Function, documented_functions
from data_prep.engine import Engine, LocalEngine
from data_prep.python_functions import imports_of, own_packages, parse
from data_prep.sampling import draw

# The first three are the paper's; few files outside coding exercises say them, so names of algorithms follow.
KEYWORDS = (
    "leetcode",
    "def solution",
    "class solution",
    "backtracking algorithm",
    "bellman-ford",
    "binary search",
    "bipartite matching",
    "bisect",
    "breadth-first search",
    "convex hull",
    "depth-first search",
    "dijkstra",
    "disjoint set",
    "divide and conquer",
    "dynamic programming",
    "edit distance",
    "fast fourier transform",
    "fibonacci",
    "floyd-warshall",
    "gaussian elimination",
    "graph coloring",
    "greatest common divisor",
    "greedy algorithm",
    "heapq",
    "heapsort",
    "huffman",
    "kadane",
    "knapsack",
    "levenshtein",
    "linked list",
    "longest common subsequence",
    "longest increasing subsequence",
    "merge sort",
    "minimum spanning tree",
    "priority queue",
    "quicksort",
    "shortest path",
    "sieve of eratosthenes",
    "strongly connected component",
    "time complexity",
    "timsort",
    "topological sort",
    "tree traversal",
    "two pointers",
    "union find",
)


@gin.configurable
def algorithmic(
    out: epath.Path,
    *,
    documents: epath.Path = epath.Path("split"),
    keywords: Sequence[str] = KEYWORDS,
    self_contained: bool = True,
    sampling_share: float = 1.0,
    salt: str = "algorithmic",
    engine: Engine = LocalEngine(),
) -> dict:
    """Keeps training code that mentions an algorithm, needs no file beside it and has loops.

    The paper names three keywords and asks for self-contained, logic-rich files without saying how that is judged.
    Here the two demands are checked for Python only: it parses, imports nothing of its own package, and a function of
    it loops. Files in other languages are judged by keyword alone, and a keyword only shows what a file speaks of.

    Reasons: ``held_out``, ``not_algorithmic``, ``not_self_contained: <package, or syntax>``, ``no_loops``,
    ``not_sampled``.

    Args:
      out: documents directory to write.
      documents: documents with column `split`.
      keywords: any of them in the text makes it algorithmic; case, white space, `_` and `-` do not count, so
        "binary search" also finds binary_search and BinarySearch.
      self_contained: whether Python has to be self-contained, with loops; False judges all by keyword alone.
      sampling_share: share of the matching documents that is kept, by a salted hash of the id.
      salt: another salt keeps other documents.
    """
    squashed = tuple(_squash(keyword) for keyword in keywords)
    mark = ft.partial(
        _mark_algorithmic, keywords=squashed, self_contained=self_contained, share=sampling_share, salt=salt
    )
    return funnel.documents_map(engine, mark, documents, out, label="algorithmic documents")


def _mark_algorithmic(
    table: pa.Table, *, keywords: Sequence[bytes], self_contained: bool, share: float, salt: str
) -> pa.Table:
    rows = table.select(["id", "text", "path", "language", "doc_type", "split"]).to_pylist()
    reasons = [_not_algorithmic(row, keywords, self_contained) for row in rows]
    for i, row in enumerate(rows):
        if reasons[i] is None and draw(salt, row["id"]) >= share:
            reasons[i] = "not_sampled"
    return docs.drop(table, [[reason] if reason else [] for reason in reasons])


def _not_algorithmic(row: dict[str, Any], keywords: Sequence[bytes], self_contained: bool) -> str | None:
    """The reason why this document is not part of the algorithmic corpus, or None."""
    if row["split"] != "train":
        return "held_out"
    if row["doc_type"] != "code":
        return "not_algorithmic"
    text = _squash(row["text"])
    if not any(keyword in text for keyword in keywords):
        return "not_algorithmic"
    if row["language"] != "python" or not self_contained:
        return None
    tree = parse(row["text"])
    if tree is None:
        return "not_self_contained: syntax"
    own = own_packages(row["path"])
    needed = sorted({entry.package for node in ast.walk(tree) for entry in imports_of(node)} & own)
    if needed:
        return f"not_self_contained: {needed[0]}"
    defined = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    if not any(isinstance(node, ast.For | ast.While) for function in defined for node in ast.walk(function)):
        return "no_loops"
    return None


def _squash(text: str) -> bytes:
    return text.lower().encode().translate(None, b" \t\r\n_-")


@gin.configurable
def questions_and_answers(
    out: epath.Path, *, conversations: epath.Path = epath.Path("conversations"), engine: Engine = LocalEngine()
) -> dict:
    """Conversations as documents to anneal on: what is said, without roles or template, one turn below the other.

    The paper's release has questions and answers where the paper has textbooks.

    Args:
      conversations: decontaminated conversations.
    """
    engine.map(_as_documents, docs.parts(conversations), out, label="questions and answers")
    return funnel.write(out)


def _as_documents(table: pa.Table) -> pa.Table:
    rows = []
    for row in docs.kept(table).to_pylist():
        text = "\n\n".join(message["content"].strip() for message in row["messages"]) + "\n"
        rows.append(
            {
                "id": docs.document_id("conversations", row["kind"], row["id"], None),
                "content_sha256": hashlib.sha256(text.encode()).hexdigest(),
                "text": text,
                "path": row["id"],
                "repo": row["kind"],
                "language": row["language"],
                "doc_type": "text",
                "size": len(text.encode()),
                "source": "conversations",
                "provenance": row["provenance"],
                "split": "train",
                "reasons": [],
            }
        )
    return pa.Table.from_pylist(rows, docs.SCHEMA)


@gin.configurable
def functions(
    out: epath.Path,
    *,
    documents: epath.Path = epath.Path("split"),
    min_docstring: int = 40,
    buckets: int = 0,
    engine: Engine = LocalEngine(),
) -> dict:
    """Cuts documented functions out of the training documents: one small document each.

    Of Python these are functions at the top level, doctests included, below the imports they need; of the languages of
    `brace_functions` also methods, without imports. A document's provenance names the one it comes from. Nothing is
    executed. Functions that use other names of their file or package are dropped as ``not_self_contained: <names>``
    (what is a matter of the symbol table in Python is a guess elsewhere: see `brace_functions.Function.missing`), and
    of equal ones all but one as ``exact_duplicate: <id of the survivor>``.

    Args:
      out: documents directory to write.
      documents: documents with column `split`.
      min_docstring: characters that a docstring, or the comment above a function, must have.
      buckets: number of parts to write, 0 for as many as fit in memory.
    """
    scratch = out / "_scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    cut = ft.partial(_cut_functions, min_docstring=min_docstring)
    engine.map(cut, docs.parts(documents), scratch, label="documented functions")
    engine.reduce(
        _drop_repeated, docs.parts(scratch), out, key="content_sha256", buckets=buckets, label="distinct functions"
    )
    scratch.rmtree()
    return funnel.write(out)


def _cut_functions(table: pa.Table, *, min_docstring: int) -> pa.Table:
    rows = []
    for row in docs.kept(table).select(docs.SCHEMA.names).to_pylist():
        if row["split"] == "train":
            for function in documented_functions(row):
                if len(function.docstring) >= min_docstring:
                    rows.append(_document(function, row))
    return pa.Table.from_pylist(rows, docs.SCHEMA)


def _document(function: Function, parent: dict[str, Any]) -> dict[str, Any]:
    content = function.document.encode()
    path = f"{parent['path']}#L{function.line}"
    provenance = {"parent": parent["id"], "function": function.name, "line": function.line}
    return parent | {
        "id": docs.document_id(parent["source"], parent["repo"], path, parent["commit"]),
        "content_sha256": hashlib.sha256(content).hexdigest(),
        "text": function.document,
        "path": path,
        "size": len(content),
        "provenance": json.dumps(provenance),
        "reasons": [f"not_self_contained: {', '.join(function.missing)}"] if function.missing else [],
    }


def _drop_repeated(table: pa.Table) -> pa.Table:
    """The rows still kept, equal ones marked, and below them the others."""
    is_kept = np.array([not reasons for reasons in table["reasons"].to_pylist()], bool)
    table, dropped = table.filter(pa.array(is_kept)), table.filter(pa.array(~is_kept))
    survivor, ids = survivors(table, "content_sha256"), table["id"].to_pylist()
    reasons = [[] if i == row else [f"exact_duplicate: {ids[i]}"] for row, i in enumerate(survivor)]
    return pa.concat_tables([docs.drop(table, reasons), dropped])
