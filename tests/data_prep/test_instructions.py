from __future__ import annotations

import ast
import collections
import heapq
import inspect
import json
import pathlib
import re
import shlex
import textwrap
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import pytest
from etils import epath

from data_prep import documents
from data_prep.conversations import SCHEMA
from data_prep.engine import LocalEngine
from data_prep.instructions import instructions

EXEMPLARY = '''def scale(values, factor=2.0):
    """Return the values multiplied by a factor.

    >>> scale([1, 2])
    [2.0, 4.0]
    """
    # braces {must} survive
    return [math.fsum([v * factor]) for v in values]
'''
MODULES = [
    {"path": f"{m.__name__}.py", "text": inspect.getsource(m), "split": "train"} for m in (heapq, shlex, textwrap)
]
SCALE = {"path": "scale.py", "text": f"import math\nimport os\n\n{EXEMPLARY}", "split": "train"}


@pytest.fixture
def run(write_documents: Callable[..., epath.Path], tmp_path: pathlib.Path) -> Callable[..., Any]:
    def run(*parts: list[dict[str, Any]], name: str = "instructions", workers: int = 1, **parameters: Any) -> Any:
        directory = write_documents(f"split_of_{name}", *parts)
        out = epath.Path(tmp_path / name)
        out.mkdir()
        result = instructions(out, documents=directory, engine=LocalEngine(workers=workers), **parameters)
        assert sorted(path.name for path in out.iterdir()) == ["stage1", "stage2"]
        names = ("stage1", "stage2")
        stages = [[row for p in documents.parts(out / s) for row in pq.read_table(p).to_pylist()] for s in names]
        assert [dict(collections.Counter(row["kind"] for row in rows)) for rows in stages] == [result[s] for s in names]
        repeated = {row["id"] for row in stages[0]} & {row["id"] for row in stages[1]}
        assert len(repeated) == (len(stages[1]) if "stage2_fallback" in result else 0)
        return stages

    return run


def dialogue(row: dict[str, Any]) -> tuple[str, str]:
    user, assistant = row["messages"]
    assert (user["role"], assistant["role"]) == ("user", "assistant")
    return user["content"], assistant["content"]


def fenced(text: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return code


def test_stage_2_asks_as_humaneval_does_and_answers_with_the_whole_function(run: Callable[..., Any]) -> None:
    _, (row,) = run([SCALE])
    question, answer = dialogue(row)
    assert fenced(answer) == "import math\n\n\n" + EXEMPLARY
    assert answer == f"```python\n{fenced(answer)}```"
    assert fenced(question) == "import math\n\n\n" + EXEMPLARY.split("    # braces")[0]
    assert json.loads(row["provenance"])["document"] == documents.document_id("test", "repo", "scale.py", None)
    assert (row["kind"], row["language"]) == ("implement", "python")


def test_stage_1_answers_come_from_the_file(run: Callable[..., Any]) -> None:
    stage1, stage2 = run(MODULES, fill_stage1=0)
    assert {row["kind"] for row in stage1} == {"write", "complete", "summarise", "find"}
    defined = {
        ast.unparse(node): node
        for module in MODULES
        for node in ast.parse(module["text"]).body
        if isinstance(node, ast.FunctionDef)
    }
    by_name = {node.name: node for node in defined.values()}
    for row in stage1 + stage2:
        question, answer = dialogue(row)
        if row["kind"] in ("write", "complete", "implement"):
            function = ast.parse(fenced(answer)).body[-1]
            assert ast.unparse(function) in defined
            assert ast.unparse(function.body[-1]) not in question  # type: ignore[attr-defined]
        elif row["kind"] == "summarise":
            (shown,) = ast.parse(fenced(question)).body
            original = by_name[shown.name]  # type: ignore[attr-defined]
            assert [ast.dump(s) for s in shown.body] == [ast.dump(s) for s in original.body[1:]]  # type: ignore[attr-defined]
            assert " ".join((ast.get_docstring(original) or "").split()).startswith(answer)
        else:
            name, summary = re.fullmatch(r"`(\w+)`: (.*)", answer).groups()  # type: ignore[union-attr]
            assert f"def {name}(" in question and summary in question
            assert " ".join((ast.get_docstring(by_name[name]) or "").split()).startswith(summary)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("import math\n", "from math import *\n"),
        ("import math\n", "import numpy as math\n"),
        ("Return the values", "return the values"),
        ("multiplied", "(deprecated) multiplied"),
        ("def scale(values", "def scale(self, values"),
        ("    return ", "    print"),
        ("def scale", "def test_scale"),
        ("by a factor.", "by a factor. ```"),
    ],
)
def test_stage_2_is_picky(run: Callable[..., Any], old: str, new: str) -> None:
    _, stage2 = run([SCALE | {"text": SCALE["text"].replace(old, new)}])
    assert "implement" not in {row["kind"] for row in stage2}


def test_only_kept_training_documents_are_used(run: Callable[..., Any]) -> None:
    assert run([SCALE | {"split": "heldout"}], [SCALE | {"reasons": ["x"]}], [SCALE | {"language": "c"}]) == [[], []]


def test_examples_are_distinct_limited_and_the_same_for_any_number_of_workers(
    run: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    everything, _ = run(MODULES)
    copies = [row | {"repo": "copy"} for row in MODULES]
    stage1, _ = run(MODULES, copies, name="doubled", workers=2, buckets=3)
    assert sorted(row["id"] for row in stage1) == sorted(row["id"] for row in everything)
    limited, stage2 = run(MODULES, copies, name="limited", max_stage1=5, max_stage2=0, buckets=3)
    assert sorted(row["id"] for row in limited) == sorted(row["id"] for row in everything)[:5]
    assert stage2 == []
    again, _ = run(MODULES, copies, name="again", workers=1, buckets=3)
    assert again == stage1
    for part in documents.parts(epath.Path(tmp_path / "again" / "stage1")):
        assert pq.read_schema(part).equals(SCHEMA)
        assert part.read_bytes() == (epath.Path(tmp_path / "doubled" / "stage1") / part.name).read_bytes()


def test_long_examples_are_left_out(run: Callable[..., Any]) -> None:
    stage1, _ = run(MODULES, max_chars=400, fill_stage1=0)
    assert 0 < max(sum(map(len, dialogue(row))) for row in stage1) <= 400


JAVA = {
    "path": "src/Numbers.java",
    "language": "java",
    "split": "train",
    "text": """package a;

class Numbers {
    /**
     * Returns the largest of the given numbers.
     *
     * @param numbers at least one
     */
    static int largest(int[] numbers) {
        int best = numbers[0];
        for (int number : numbers) {
            best = Math.max(best, number);
        }
        return best;
    }
}
""",
}


def test_other_languages_have_functions_too(run: Callable[..., Any]) -> None:
    stage1, (row,) = run([JAVA], fill_stage1=0)
    assert {row["kind"] for row in stage1} in ({"write", "summarise"}, {"complete", "summarise"})
    question, answer = dialogue(row)
    function = textwrap.dedent("    /**" + JAVA["text"].split("    /**")[1].removesuffix("}\n"))
    assert answer == f"```java\n{function}```"
    assert function.split("    int best")[0] in question and "Math.max" not in question
    assert (row["kind"], row["language"]) == ("implement", "java")


def prose(number: int) -> dict[str, Any]:
    text = "".join(f"Line {i} of text {number}, which tells nothing.\n" for i in range(40))
    return {"path": f"docs/{number}.md", "language": "markdown", "doc_type": "text", "split": "train", "text": text}


def test_files_to_continue_fill_stage_1_where_there_are_few_functions(run: Callable[..., Any]) -> None:
    files = [prose(number) for number in range(30)]
    stage1, stage2 = run([SCALE], files, fill_stage1=10)
    assert collections.Counter("continue" if row["kind"] == "continue" else "" for row in stage1) == {
        "": 2,
        "continue": 8,
    }
    assert {row["kind"] for row in stage2} == {"implement"}
    for row in stage1:
        if row["kind"] == "continue":
            question, answer = dialogue(row)
            shown, follows = (re.findall(r"```markdown\n(.*?)```", text, re.DOTALL) for text in (question, answer))
            (text,) = [f["text"] for f in files if f["text"].startswith(shown[0])]
            assert text.startswith(shown[0] + follows[0]) and "Markdown" in question
    nothing_else, repeated = run(files, name="prose", max_stage2=3)
    assert {row["kind"] for row in nothing_else} == {"continue"} and len(nothing_else) == 30
    assert sorted(row["id"] for row in repeated) == sorted(row["id"] for row in nothing_else)[:3]


def test_short_files_and_files_with_fences_are_not_continued(run: Callable[..., Any]) -> None:
    fenced_file = prose(1) | {"text": "```\n" + prose(1)["text"]}
    one_line = prose(2) | {"text": "x" * 5000}
    assert run([fenced_file, one_line, prose(3) | {"text": "a\nb\nc\n"}]) == [[], []]
