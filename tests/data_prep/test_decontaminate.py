from __future__ import annotations

import gzip
import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
from etils import epath

from data_prep.decontaminate import build_index, decontaminate, read_benchmark, reasons


@pytest.fixture(scope="module")
def humaneval() -> dict[str, dict[str, str]]:
    return {item["task_id"]: item for item in read_benchmark("humaneval")}


def test_every_prompt_of_humaneval_is_found(humaneval: dict[str, dict[str, str]]) -> None:
    assert len(humaneval) == 164
    index = build_index(list(humaneval.values()), ngram=10, min_words=5, entry_points="off")
    for item in humaneval.values():
        assert reasons("import os\n" + item["prompt"].upper().replace(" ", "\t"), index), item["task_id"]


def test_stage(
    humaneval: dict[str, dict[str, str]], write_documents: Callable[..., epath.Path], run_stage: Callable[..., Any]
) -> None:
    solved = humaneval["HumanEval/0"]
    texts = {
        "copy.py": "import os\n\n" + solved["prompt"] + solved["canonical_solution"],
        "renamed.py": "# notes\n" + solved["canonical_solution"],
        "defined.py": "def has_close_elements(numbers: List[Tuple[int, int]], threshold=1) -> bool:\n    return True\n",
        "mentioned.py": "from geometry import has_close_elements\nprint(has_close_elements(a, b))\n",
        "other_parameters.py": "def has_close_elements(mesh):\n    ...\n",
        "generic_name.py": "def add(x: int, y: int):\n    return x + y\n",
        "numbers.py": f"x = {list(range(40))} + [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]\n",
        "loops.py": "for i in range(n):\n    for j in range(n):\n        for k in range(n):\n            g(i, j, k)\n",
        "short.py": "x",
    }
    source = write_documents("sample", [{"path": path, "text": text} for path, text in texts.items()])
    result, rows = run_stage(decontaminate, documents=source)
    assert {row["path"]: row["reasons"] for row in rows if row["reasons"]} == {
        "copy.py": ["benchmark_ngram: HumanEval/0", "benchmark_entry_point: has_close_elements"],
        "renamed.py": ["benchmark_ngram: HumanEval/0"],
        "defined.py": ["benchmark_entry_point: has_close_elements"],
    }
    assert result["benchmarks"] == {"humaneval": 164} and result["files_kept"] == len(texts) - 3
    _, rows = run_stage(decontaminate, "by_name", documents=source, entry_points="name")
    assert {row["path"] for row in rows if not row["reasons"]} == {"numbers.py", "loops.py", "short.py"}


def test_benchmark_files(
    tmp_path: pathlib.Path, write_documents: Callable[..., epath.Path], run_stage: Callable[..., Any]
) -> None:
    line = json.dumps({"prompt": "one two three four five six seven eight nine ten eleven"}) + "\n"
    (tmp_path / "plain.jsonl").write_text(line + "\n" + json.dumps({"task_id": "T/7", "entry_point": "frobnicate"}))
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(line.encode()))
    names = [str(tmp_path / "plain.jsonl"), str(tmp_path / "packed.jsonl.gz")]
    assert [item["task_id"] for name in names for item in read_benchmark(name)] == ["plain/0", "T/7", "packed/0"]
    texts = [
        "x One, TWO three four five six\nseven eight nine ten y",
        "two three four five six seven eight nine ten",
        "frobnicate",
    ]
    source = write_documents("sample", [{"path": str(i), "text": text} for i, text in enumerate(texts)])
    _, rows = run_stage(decontaminate, documents=source, benchmarks=names, entry_points="name")
    assert [row["reasons"] for row in rows] == [
        ["benchmark_ngram: plain/0"],
        [],
        ["benchmark_entry_point: frobnicate"],
    ]


def test_errors_say_what_to_change(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="decontaminate.benchmarks: nowhere.jsonl does not exist"):
        decontaminate(epath.Path(tmp_path), benchmarks=["nowhere.jsonl"])
    with pytest.raises(ValueError, match="decontaminate.entry_points = 'all' must be"):
        decontaminate(epath.Path(tmp_path), entry_points="all")
