from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from etils import epath

from data_prep.web.classifier import FastText
from data_prep.web.text_files import is_named, text_files

CODE = "install build usage library function module compile package import run command option".split()
PROSE = "garden river mountain breakfast music holiday train village summer recipe football theatre".split()
SHARED = "the of and to in is that for with as".split()


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("README", True),
        ("docs/ReadMe.zh-CN.md", True),
        ("requirements-dev.txt", True),
        ("my_requirement.rst", True),
        ("CMakeLists.txt", True),
        ("a/TODO.md", True),
        ("notes.txt", True),
        ("readme/chapter1.txt", False),
        ("release-notes.txt", False),
        ("poems.txt", False),
    ],
)
def test_names_that_are_about_code(path: str, wanted: bool) -> None:
    assert is_named(path) == wanted


def test_text_about_code_is_found_whatever_it_is_called(
    write_documents: Callable[..., epath.Path], run_stage: Callable[..., Any]
) -> None:
    rng = random.Random(0)
    write = lambda own: " ".join(rng.choice(own) if rng.random() < 0.6 else rng.choice(SHARED) for _ in range(50))
    text = {"doc_type": "text", "language": "text"}
    rows = [{"path": f"{i}/readme.md", "text": write(CODE)} | text for i in range(60)]
    rows += [{"path": f"{i}/guide.md", "text": write(CODE)} | text for i in range(6)]
    rows += [{"path": f"{i}/poem.txt", "text": write(PROSE)} | text for i in range(90)]
    rows += [{"path": "poem.py", "text": write(PROSE)}]
    rng.shuffle(rows)
    tiny = FastText(dim=8, epochs=2, min_steps=1500, min_count=1, buckets=4096)
    source = write_documents("transform", rows[:80], rows[80:])
    result, judged = run_stage(text_files, documents=source, fasttext=tiny, vocab_size=400, min_precision=0.8)
    gone = {row["path"].rpartition("/")[2] for row in judged if row["reasons"]}
    assert gone == {"poem.txt"} and result["files_kept"] == 67
    assert (result["text_files"], result["by_name"]) == (156, 60)
    assert all(row["reasons"][0].startswith("not_code_related (0.") for row in judged if row["reasons"])


def test_few_files_are_judged_by_name(
    write_documents: Callable[..., epath.Path], run_stage: Callable[..., Any]
) -> None:
    rows = [{"path": path, "text": "x", "doc_type": "text"} for path in ("readme.md", "poem.txt")]
    _, judged = run_stage(text_files, documents=write_documents("transform", rows))
    assert {row["path"]: row["reasons"] for row in judged} == {"readme.md": [], "poem.txt": ["not_code_related"]}
