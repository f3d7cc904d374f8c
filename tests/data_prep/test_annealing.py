from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from etils import epath

from data_prep import annealing, conversations, documents
from data_prep.engine import LocalEngine
from data_prep.files import write_parquet

LOOP = "def solve(xs):\n    for x in xs:\n        yield x\n"


def train(path: str, text: str, **columns: Any) -> dict[str, Any]:
    return {"path": path, "text": text, "split": "train"} | columns


@pytest.mark.parametrize(
    ("row", "reasons"),
    [
        (train("a.py", "# LeetCode 1\n" + LOOP), []),
        (train("a.py", "class Solution:\n    " + LOOP.replace("\n", "\n    ")), []),
        (train("a.py", "def binary_search(): ...\n" + LOOP), []),
        (train("a.py", "# by binary\n# searching\n" + LOOP), ["not_algorithmic"]),
        (train("a.py", "class BinarySearchTree: ...\n" + LOOP), []),
        (train("a.py", LOOP), ["not_algorithmic"]),
        (train("a.md", "leetcode", doc_type="text", language="markdown"), ["not_algorithmic"]),
        (train("a.c", "// Dijkstra's algorithm", language="c"), []),
        (train("a.py", "# leetcode\n" + LOOP, split="heldout"), ["held_out"]),
        (train("a.py", "# leetcode\nimport os, numpy\n" + LOOP), []),
        (train("pkg/a.py", "# leetcode\n" + LOOP + "    import pkg.b\n"), ["not_self_contained: pkg"]),
        (train("pkg/a.py", "# leetcode\nfrom .b import c\n" + LOOP), ["not_self_contained: ."]),
        (train("a.py", "leetcode is\nnot Python\n"), ["not_self_contained: syntax"]),
        (train("a.py", "# leetcode\nfor x in y:\n    def f(): return x\n"), ["no_loops"]),
    ],
)
def test_algorithmic_documents(
    write_documents: Callable[..., epath.Path], run_stage: Callable[..., Any], row: dict[str, Any], reasons: list[str]
) -> None:
    _, (marked,) = run_stage(annealing.algorithmic, documents=write_documents("split", [row]))
    assert marked["reasons"] == reasons


def test_share_of_the_algorithmic_documents(
    write_documents: Callable[..., epath.Path], run_stage: Callable[..., Any]
) -> None:
    rows = [train(f"{i}.c", "leetcode", language="c") for i in range(1000)]
    result, marked = run_stage(annealing.algorithmic, documents=write_documents("split", rows), sampling_share=0.3)
    assert 250 < result["files_kept"] < 350
    assert {tuple(row["reasons"]) for row in marked} == {(), ("not_sampled",)}


def test_files_may_need_others_where_that_is_asked_for(
    write_documents: Callable[..., epath.Path], run_stage: Callable[..., Any]
) -> None:
    source = write_documents("split", [train("pkg/a.py", "# leetcode\nimport pkg.b\n"), train("b.py", "x = 1\n")])
    _, marked = run_stage(annealing.algorithmic, documents=source, self_contained=False)
    assert [row["reasons"] for row in marked] == [[], ["not_algorithmic"]]


def test_dialogues_become_documents(tmp_path: Any, run_stage: Callable[..., Any]) -> None:
    turns = [{"role": "user", "content": "Add 1 and 2."}, {"role": "assistant", "content": "```python\n1 + 2\n```"}]
    rows = [conversations.row(turns, kind="write", language="python", provenance='{"seed": "s"}') for _ in range(2)]
    rows[1] |= {"reasons": ["benchmark_ngram: T/1"]}
    write_parquet(iter([pa.Table.from_pylist(rows, conversations.SCHEMA)]), epath.Path(tmp_path) / "part-00000.parquet")
    result, (row,) = run_stage(annealing.questions_and_answers, conversations=epath.Path(tmp_path))
    assert row["text"] == "Add 1 and 2.\n\n```python\n1 + 2\n```\n" and row["split"] == "train"
    assert (row["repo"], row["language"], row["provenance"]) == ("write", "python", '{"seed": "s"}')
    assert result["files_kept"] == 1


GOOD = '''def double(x):
    """Return twice the given number, of any type.

    >>> double(2)
    4
    """
    return x * math.tau / math.pi
'''
MODULE = f'''import math
import os

{GOOD}

def needs(x):
    """Return something that depends on the file."""
    return OTHER + os.sep + LIMIT


def short(x):
    """Short."""
    return x
'''


@pytest.fixture
def functions(write_documents: Callable[..., epath.Path], run_stage: Callable[..., Any]) -> list[dict[str, Any]]:
    split = write_documents(
        "split",
        [train("a.py", MODULE, stars=1), train("dir/b.py", MODULE, stars=9, licence="MIT", repo="best")],
        [train("c.py", MODULE, stars=5), train("held.py", MODULE, split="heldout"), train("d.c", MODULE, language="c")],
    )
    result, rows = run_stage(annealing.functions, documents=split, buckets=3)
    assert (result["files_in"], result["files_kept"]) == (6, 1)
    return rows


def test_a_function_becomes_a_document(functions: list[dict[str, Any]]) -> None:
    (row,) = [row for row in functions if not row["reasons"]]
    assert row["text"] == "import math\n\n\n" + GOOD
    parent = documents.document_id("test", "best", "dir/b.py", None)
    assert json.loads(row["provenance"]) == {"parent": parent, "function": "double", "line": 4}
    assert (row["path"], row["repo"], row["licence"], row["split"]) == ("dir/b.py#L4", "best", "MIT", "train")
    assert row["size"] == len(row["text"])


def test_other_functions_are_dropped_with_a_reason(functions: list[dict[str, Any]]) -> None:
    kept = next(row["id"] for row in functions if not row["reasons"])
    reasons = sorted((row["path"], reason) for row in functions for reason in row["reasons"])
    assert reasons == [
        ("a.py#L13", "not_self_contained: LIMIT, OTHER"),
        ("a.py#L4", f"exact_duplicate: {kept}"),
        ("c.py#L13", "not_self_contained: LIMIT, OTHER"),
        ("c.py#L4", f"exact_duplicate: {kept}"),
        ("dir/b.py#L13", "not_self_contained: LIMIT, OTHER"),
    ]
    assert len({row["id"] for row in functions}) == len(functions)


def test_functions_do_not_depend_on_workers(
    write_documents: Callable[..., epath.Path], functions: list[dict[str, Any]], tmp_path: Any
) -> None:
    out = epath.Path(tmp_path / "again")
    out.mkdir()
    annealing.functions(out, documents=epath.Path(tmp_path / "split"), buckets=3, engine=LocalEngine(workers=2))
    for part in documents.parts(out):
        assert part.read_bytes() == (epath.Path(tmp_path) / "functions" / part.name).read_bytes()
        assert pq.read_schema(part).equals(documents.SCHEMA)


def test_functions_of_other_languages(
    write_documents: Callable[..., epath.Path], run_stage: Callable[..., Any]
) -> None:
    text = """#include <a.h>

/* Return the number of bits that are set in a word. */
int bits(unsigned word) {
    int n = 0;
    for (; word; word &= word - 1)
        n++;
    return n;
}

/* Return something that another file has to know. */
int other(int word) {
    return elsewhere(word) + LIMIT;
}
"""
    _, (good, bad) = run_stage(
        annealing.functions, documents=write_documents("split", [train("a.c", text, language="c")])
    )
    assert good["text"] == text.split("\n\n")[1] + "\n"
    assert (good["path"], good["language"], good["reasons"]) == ("a.c#L3", "c", [])
    assert (bad["path"], bad["reasons"]) == ("a.c#L11", ["not_self_contained: LIMIT, elsewhere"])
