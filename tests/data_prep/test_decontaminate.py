from __future__ import annotations

import gzip
import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
from etils import epath

from data_prep import benchmark_items
from data_prep.benchmark_items import Item
from data_prep.decontaminate import build_index, decontaminate, reasons


@pytest.fixture(scope="module")
def humaneval() -> dict[str, Item]:
    return {item.task_id: item for item in benchmark_items.read("humaneval")}


def test_every_prompt_of_humaneval_is_found(humaneval: dict[str, Item]) -> None:
    assert len(humaneval) == 164
    index = build_index(list(humaneval.values()), ngram=10, min_words=5, min_grams=3, entry_points="off")
    for item in humaneval.values():
        assert reasons("import os\n" + item.texts["prompt"].upper().replace(" ", "\t"), index), item.task_id


def test_stage(
    humaneval: dict[str, Item], write_documents: Callable[..., epath.Path], run_stage: Callable[..., Any]
) -> None:
    solved = humaneval["HumanEval/0"].texts
    texts = {
        "copy.py": "import os\n\n" + solved["prompt"] + solved["solution"],
        "renamed.py": "# notes\n" + solved["solution"],
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
        "copy.py": ["benchmark_ngram: HumanEval/0", "benchmark_entry_point: HumanEval/0 has_close_elements"],
        "renamed.py": ["benchmark_ngram: HumanEval/0"],
        "defined.py": ["benchmark_entry_point: HumanEval/0 has_close_elements"],
    }
    assert result["hits"] == {"HumanEval/0": 3}
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
    assert [item.task_id for name in names for item in benchmark_items.read(name)] == ["plain/0", "T/7", "packed/0"]
    texts = [
        "x One, TWO three four five six\nseven eight nine ten y",
        "two three four five six seven eight nine ten",
        "frobnicate",
    ]
    source = write_documents("sample", [{"path": str(i), "text": text} for i, text in enumerate(texts)])
    _, rows = run_stage(decontaminate, documents=source, benchmarks=names, entry_points="name", min_grams=1)
    assert [row["reasons"] for row in rows] == [
        ["benchmark_ngram: plain/0"],
        [],
        ["benchmark_entry_point: T/7 frobnicate"],
    ]


def test_one_shared_phrase_is_chance_and_new_comments_hide_nothing(humaneval: dict[str, Item]) -> None:
    index = build_index(list(humaneval.values()), ngram=10, min_words=5, min_grams=3, entry_points="off")
    solution = humaneval["HumanEval/0"].texts["solution"]
    words = solution.split()
    assert not reasons(" ".join(words[:8]), index)  # eight words of it are ten with idx2 and elem2 apart
    commented = "\n".join(f"# step {i}\n{line}  # and on" for i, line in enumerate(solution.splitlines()))
    assert reasons(commented, index) == ["benchmark_ngram: HumanEval/0"]
    by_one = build_index(list(humaneval.values()), ngram=10, min_words=5, min_grams=1, entry_points="off")
    rule = "for idx2, elem2 in enumerate(numbers):\n if idx != idx2:\n distance"
    assert (reasons(rule, index), reasons(rule, by_one)) == ([], ["benchmark_ngram: HumanEval/0"])


def test_a_function_of_few_words_is_found_whole() -> None:
    item = benchmark_items.item({"code": "def count(lst):\n    return sum(lst)", "test_list": []}, "mbpp", 1)
    index = build_index([item], ngram=10, min_words=5, min_grams=3, entry_points="off")
    assert reasons("x = 1\ndef count( lst ): return sum(lst)\ny = 2", index) == ["benchmark_ngram: mbpp/1"]
    assert not reasons("def count(lst): return sum(lst_of)", index)


@pytest.mark.parametrize(
    ("row", "entry_point", "signatures"),
    [
        ({"text": "Square.", "code": "def sq(a):\n  return a*a", "test_list": ["assert sq(2) == 4"]}, "sq", 1),
        (
            {"prompt": "class Solution:\n    def countPairs(self, n: int) -> int:", "test": "my.countPairs(n=1)"},
            "countPairs",
            1,
        ),
        ({"code": "def f(x): return x", "input": "1", "output": "1"}, None, 0),
    ],
)
def test_entry_points_are_what_the_tests_call(row: dict[str, Any], entry_point: str | None, signatures: int) -> None:
    item = benchmark_items.item(row, "mbpp", 7)
    assert (item.task_id, item.entry_point, len(item.signatures)) == ("mbpp/7", entry_point, signatures)


def test_every_benchmark_file_is_read(shared_data: pathlib.Path) -> None:
    files = ["humaneval/HumanEval.jsonl", "mbpp/mbpp.jsonl", "leetcode/20240121-Jul.jsonl", "multipl-e", "mceval"]
    files += ["bigcodebench/BigCodeBench-hf.jsonl.gz", "cruxeval/cruxeval.jsonl", "livecodebench/func.json"]
    for file in files:
        items = list(benchmark_items.read(str(shared_data / "eval" / file)))
        assert items and all(any(item.texts.values()) for item in items), file
        assert len({item.task_id for item in items}) > 0.5 * len(items)


def test_errors_say_what_to_change(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="decontaminate.benchmarks: nowhere.jsonl does not exist"):
        decontaminate(epath.Path(tmp_path), benchmarks=["nowhere.jsonl"])
    with pytest.raises(ValueError, match="decontaminate.entry_points = 'all' must be"):
        decontaminate(epath.Path(tmp_path), entry_points="all")
