from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from etils import epath

from data_prep import conversations, data_page
from data_prep import documents as docs
from data_prep.files import write_parquet

COPY = """def close(numbers, threshold):
    for idx, elem in enumerate(numbers):
        for idx2, elem2 in enumerate(numbers):
            if idx != idx2:
                distance = abs(elem - elem2)
                if distance < threshold:
                    return True
    return False
"""


def page_of(directory: pathlib.Path, tmp_path: pathlib.Path) -> dict[str, str]:
    """Sections of the page by their names."""
    target = tmp_path / "page.html"
    assert data_page.main([str(directory), "--out", str(target)]) == 0
    text = target.read_text()
    return {"": text} | {part.partition("</h2>")[0]: part.partition("</h2>")[2] for part in text.split("<h2>")[1:]}


@pytest.fixture
def recalled(tmp_path: pathlib.Path, write_documents: Callable[..., epath.Path]) -> pathlib.Path:
    """What the recall writes: 40 pages of two domains, those with a score below 0.5 dropped."""
    rows = []
    for number in range(40):
        score, place = number / 40, "code.org" if number % 2 else "prose.org"
        text = " ".join(f"w{number}x{i}" for i in range(80)) + " <script>alert(1)</script>"
        like = " ".join(f"same{i}" for i in range(60))
        text = {37: COPY, 33: like, 35: f"{like} and more"}.get(number, text)
        reasons = [] if score >= 0.5 else [f"not_recalled ({score:.2f})"]
        rows.append(
            {"path": f"{number}.html", "url": f"https://{place}/{number}.html", "text": text, "reasons": reasons}
        )
    table = docs.read_part(docs.parts(write_documents("plain", rows))[0])
    table = table.append_column("domain", pa.array([row["url"].split("/")[2] for row in rows]))
    table = table.append_column("score", pa.array([number / 40 for number in range(40)], pa.float32()))
    out = tmp_path / "recall"
    (out / "round-1" / "domains").mkdir(parents=True)
    write_parquet(iter([table]), epath.Path(out) / "part-00000.parquet")
    found = {"domain": "code.org", "pages": 20, "recalled": 10, "tokens": 1234, "code": True}
    write_parquet(iter([pa.Table.from_pylist([found])]), epath.Path(out) / "round-1" / "domains" / "part-00000.parquet")
    (out / "round-1" / "proposals.toml").write_text('doubtful = [\n  "code.org/x",  # 9 pages, 33 % recalled\n]\n')
    numbers: dict[str, Any] = {"round": 1, "examples": {"code": 7, "other": 9, "heldout_code": 1, "heldout_other": 2}}
    numbers |= {"heldout": {"score": 0.5, "precision": 0.875, "recall": 0.95}, "pages": 40, "recalled": 20}
    numbers |= {"tokens": 987654, "domains": 2, "code_domains": 1, "next": {"joined": 5, "hard": 3}}
    (out / "round-1" / "round.json").write_text(json.dumps(numbers))
    return out


def test_what_the_recall_found_and_missed(recalled: pathlib.Path, tmp_path: pathlib.Path) -> None:
    page = page_of(recalled, tmp_path)
    assert "20 of 40 rows are kept (50.0 %)" in page[""] and "<script>alert(1)" not in page[""]
    for shown in ("87.5 %", "95.0 %", "987,654", ">8<", ">11<", ">5<", ">3<"):
        assert shown in page["Rounds"], shown
    assert "code.org/x" in page["Domains"] and "33 % recalled" in page["Domains"] and "1,234" in page["Domains"]
    kept, dropped = page["Scores"].split("just dropped")
    assert kept.index("/20.html") < kept.index("/21.html") and "/39.html" not in kept
    assert dropped.index("/19.html") < dropped.index("/18.html")
    assert "10 of 20 kept" in page["Samples"] and "code.org" in page["Samples"]
    assert "not_recalled" in page["Dropped"] and "20 rows" in page["Dropped"]
    assert "Among 20 kept rows, 2 share" in page["Near-duplicates"] and "/33.html" in page["Near-duplicates"]
    assert "1 of 20 kept rows" in page["Benchmarks"] and "HumanEval/0" in page["Benchmarks"]


def test_what_a_teacher_wrote_and_why_it_was_turned_down(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "educational"
    out.mkdir()
    rows = []
    for number in range(6):
        turns = [{"role": "user", "content": f"Task {number}"}, {"role": "assistant", "content": f"print({number})"}]
        trail = [{"step": "write", "requests": ["k"], "rejected": ["tests_failed: AssertionError"] * (number > 3)}]
        about = json.dumps({"seed": "s", "steps": trail, "score": str(number), "scores": '{"first question": 0.5}'})
        row = conversations.row(turns, kind="educational", language="python", provenance=about)
        rows.append(row | {"reasons": ["tests_failed: AssertionError"] if number > 3 else []})
    write_parquet(iter([pa.Table.from_pylist(rows, conversations.SCHEMA)]), epath.Path(out) / "part-00000.parquet")
    step = {"step": "write", "model": "teacher", "prompt_sha256": "ab" * 32, "entered": 6, "passed": 4, "requests": 8}
    (out / "yield.json").write_text(json.dumps({"steps": [step | {"rejected": {"tests_failed": 2}}]}))
    page = page_of(out, tmp_path)
    assert "66.7 %" in page["Steps"] and "tests_failed 2" in page["Steps"] and "abababababab" in page["Steps"]
    assert (
        "educational · python" in page["Samples"] and "4 of 6 kept" in page["Samples"] and "Task 2" in page["Samples"]
    )
    assert "print(5)" in page["Dropped"] and "write: tests_failed: AssertionError" in page["Dropped"]
