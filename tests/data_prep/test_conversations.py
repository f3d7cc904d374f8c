from __future__ import annotations

import gzip
import json
import pathlib
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import conversations as module
from data_prep.conversations import conversations
from data_prep.decontaminate import decontaminate
from data_prep.engine import LocalEngine

Rows = list[dict[str, Any]]
ANSWER = "Use a set:\n\n```python\ndef unique(items):\n    return list(set(items))\n```"
TURNS = [{"role": "user", "content": "How do I remove duplicates?"}, {"role": "assistant", "content": ANSWER}]


def write_jsonl(path: pathlib.Path, rows: Rows) -> pathlib.Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.fixture
def read(run_stage: Callable[..., Any]) -> Callable[..., Rows]:
    def read(*sources: pathlib.Path, **parameters: Any) -> Rows:
        _, rows = run_stage(conversations, sources=[str(source) for source in sources], **parameters)
        return rows

    return read


STAGE_1 = {"seq_id": 7, "instruction": TURNS[0]["content"], "output": ANSWER, "tag": "realuser_instruct"}
STAGE_2 = STAGE_1 | {"code": "def unique(items): …", "entry_point": "unique", "testcase": ["assert unique([]) == []"]}
SHAREGPT = {"conversations": [{"from": "human", "value": TURNS[0]["content"]}, {"from": "gpt", "value": ANSWER}]}
MULTI_TURN = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        *TURNS,
        {"role": "user", "content": "And in order?"},
        TURNS[1],
    ]
}


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "parquet"])
def test_the_published_columns_become_messages(read: Callable[..., Rows], tmp_path: pathlib.Path, suffix: str) -> None:
    source = tmp_path / f"educational_instruct.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist([STAGE_2]), source)
    else:
        write_jsonl(source, [STAGE_2])
    (row,) = read(source)
    assert row["messages"] == TURNS
    assert (row["kind"], row["language"], row["reasons"]) == ("realuser_instruct", "python", [])
    where = {"file": source.name, "row": 0, "seq_id": 7, "entry_point": "unique"}
    assert json.loads(row["provenance"]) == where


def test_every_layout_says_the_same(read: Callable[..., Rows], tmp_path: pathlib.Path) -> None:
    layouts = [STAGE_1, {"messages": TURNS}, {"conversation": TURNS}, SHAREGPT]
    rows = read(*(write_jsonl(tmp_path / f"{i}.jsonl", [layout]) for i, layout in enumerate(layouts)))
    rows.sort(key=lambda row: json.loads(row["provenance"])["file"])
    assert [row["messages"] for row in rows] == [TURNS] * len(layouts)
    assert [row["reasons"] for row in rows] == [[]] + [["exact_duplicate: 0.jsonl:0"]] * 3


def test_a_dialogue_of_several_turns_keeps_its_own_system_line(
    read: Callable[..., Rows], tmp_path: pathlib.Path
) -> None:
    (row,) = read(write_jsonl(tmp_path / "chats.jsonl", [MULTI_TURN]))
    assert row["messages"] == MULTI_TURN["messages"]
    assert row["kind"] == "chats"


def test_equal_but_for_case_and_white_space_is_a_duplicate(read: Callable[..., Rows], tmp_path: pathlib.Path) -> None:
    shouted = STAGE_1 | {"instruction": TURNS[0]["content"].upper() + " \n"}
    first, second = sorted(
        read(write_jsonl(tmp_path / "a.jsonl", [STAGE_1, shouted])), key=lambda row: len(row["reasons"])
    )
    assert (first["reasons"], second["reasons"]) == ([], ["exact_duplicate: a.jsonl:0"])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("no json", "malformed_row"),
        ([1, 2], "malformed_row"),
        ({"title": "x"}, "malformed_row"),
        ({"instruction": 3, "output": "x"}, "malformed_row"),
        ({"messages": [{"role": "user"}]}, "malformed_row"),
        ({"messages": "x"}, "malformed_row"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "unknown_role: tool"),
        ({"messages": TURNS[:1]}, "no_answer"),
        ({"messages": TURNS[1:]}, "turn_order"),
        ({"messages": [*TURNS, *TURNS[1:]]}, "turn_order"),
        ({"messages": [*TURNS, {"role": "system", "content": "x"}]}, "turn_order"),
        ({"instruction": " ", "output": "x"}, "empty_turn"),
        ({"instruction": "x", "output": "\n"}, "no_answer"),
        ({"instruction": "x", "output": "\ud800"}, "malformed_row"),
    ],
)
def test_what_is_no_conversation_keeps_its_text_and_a_reason(
    read: Callable[..., Rows], tmp_path: pathlib.Path, bad: Any, reason: str
) -> None:
    source = tmp_path / "a.jsonl"
    line = bad if isinstance(bad, str) else json.dumps(bad)
    source.write_text(f"{line}\n{json.dumps(STAGE_1)}\n")
    rows = {tuple(row["reasons"]): row for row in read(source)}
    assert rows[(reason,)]["messages"][0]["content"] == line
    assert rows[()]["messages"] == TURNS


@given(st.lists(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)), max_size=8))
def test_no_line_is_lost_and_none_stops_the_stage(lines: list[bytes]) -> None:
    rows = [{"file": "f", "number": i, "row_json": b.decode("utf-8", "backslashreplace")} for i, b in enumerate(lines)]
    table = module.parse(pa.Table.from_pylist(rows, module._RAW))
    assert [json.loads(p)["row"] for p in table["provenance"].to_pylist()] == list(range(len(lines)))
    assert all(table["reasons"].to_pylist())  # random bytes are no conversation


def test_the_bytes_do_not_depend_on_workers(tmp_path: pathlib.Path) -> None:
    rows = [STAGE_1 | {"instruction": f"Question {i % 700}?"} for i in range(1000)]
    sources = [str(write_jsonl(tmp_path / f"{i}.jsonl", rows[i::3])) for i in range(3)]
    outs = []
    for workers in (1, 2):
        out = module.epath.Path(tmp_path / f"out{workers}")
        out.mkdir()
        result = conversations(out, sources=sources, buckets=4, engine=LocalEngine(workers=workers))
        assert (result["files_in"], result["files_kept"]) == (1000, 700)
        outs.append({path.name: path.read_bytes() for path in out.glob("part-*")})
    assert outs[0] == outs[1]


def test_benchmark_items_leave_by_the_name_of_their_entry_point(
    read: Callable[..., Rows], run_stage: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    benchmark = write_jsonl(tmp_path / "bench.jsonl", [{"task_id": "b/0", "entry_point": "unique", "prompt": ""}])
    other = {"instruction": "Sort a list.", "output": "sorted(items)"}
    read(write_jsonl(tmp_path / "a.jsonl", [STAGE_1, other]))
    directory = module.epath.Path(tmp_path / "conversations")
    result, rows = run_stage(decontaminate, documents=directory, benchmarks=[str(benchmark)], entry_points="name")
    assert (result["files_in"], result["files_kept"]) == (2, 1)
    assert {row["messages"][0]["content"]: row["reasons"] for row in rows} == {
        "Sort a list.": [],
        TURNS[0]["content"]: ["benchmark_entry_point: b/0 unique"],
    }


def test_damaged_and_missing_files_are_named(read: Callable[..., Rows], tmp_path: pathlib.Path) -> None:
    whole = write_jsonl(tmp_path / "whole.jsonl.gz", [STAGE_1 | {"seq_id": i} for i in range(2000)])
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(whole.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"cut\.jsonl\.gz is damaged after row \d+"):
        read(cut, name="cut")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read(tmp_path / "none.jsonl", name="none")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(ValueError, match="is none of .parquet"):
        read(tmp_path / "x.txt", name="txt")
