from __future__ import annotations

import json
import pathlib
from typing import Any

import pyarrow as pa
import pytest
from etils import epath

from data_prep import documents, funnel
from data_prep.engine import LocalEngine
from data_prep.files import write_parquet


def row(path: str, language: str, size: int, *reasons: str) -> dict[str, Any]:
    return {
        "id": documents.document_id("s", "repo", path, None),
        "text": f"text of {path}\n",
        "path": path,
        "repo": "repo",
        "language": language,
        "doc_type": "code",
        "size": size,
        "source": "s",
        "provenance": "{}",
        "reasons": list(reasons),
    }


def write_part(directory: pathlib.Path, number: int, rows: list[dict[str, Any]]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows, documents.SCHEMA)
    write_parquet(iter([table]), epath.Path(directory / f"part-{number:05d}.parquet"))


@pytest.fixture
def workdir(tmp_path: pathlib.Path) -> epath.Path:
    """preprocess drops c.go and d.py; exact_dedup drops b.py of what is left."""
    write_part(tmp_path / "preprocess", 0, [row("a.py", "python", 10), row("b.py", "python", 20)])
    write_part(tmp_path / "preprocess", 1, [row("c.go", "go", 40, "too_large", "too_large (again)")])
    write_part(tmp_path / "preprocess", 2, [row("d.py", "python", 80, "not_utf8 (byte 3)", "binary")])
    write_part(
        tmp_path / "exact_dedup", 0, [row("a.py", "python", 10), row("b.py", "python", 20, "exact_duplicate: 12ab")]
    )
    for stage in ("preprocess", "exact_dedup"):
        funnel.write(epath.Path(tmp_path / stage))
    return epath.Path(tmp_path)


def test_counts(workdir: epath.Path) -> None:
    assert json.loads((workdir / "preprocess" / "funnel.json").read_text()) == {
        "stage": "preprocess",
        "in": {"files": 4, "bytes": 150},
        "kept": {"files": 2, "bytes": 30},
        "by_language": {
            "python": {"in_files": 3, "in_bytes": 110, "kept_files": 2, "kept_bytes": 30},
            "go": {"in_files": 1, "in_bytes": 40, "kept_files": 0, "kept_bytes": 0},
        },
        "reasons": {
            "too_large": {**GO, "sole": GO, "examples": ids("c.go")},
            "not_utf8": {**PYTHON, "sole": NONE, "examples": ids("d.py")},
            "binary": {**PYTHON, "sole": NONE, "examples": ids("d.py")},
        },
    }


GO = {"files": 1, "bytes": 40, "by_language": {"go": 1}}
PYTHON = {"files": 1, "bytes": 80, "by_language": {"python": 1}}
NONE = {"files": 0, "bytes": 0, "by_language": {}}


def ids(*paths: str) -> list[str]:
    return [documents.document_id("s", "repo", path, None) for path in paths]


def test_examples_are_the_smallest_ids_of_all_parts(tmp_path: pathlib.Path) -> None:
    paths = [f"{i}.py" for i in range(40)]
    for part in range(4):
        write_part(tmp_path / "stage", part, [row(path, "python", 1, "why") for path in paths[part::4]])
    funnel.write(epath.Path(tmp_path / "stage"))
    counted = json.loads((tmp_path / "stage" / "funnel.json").read_text())["reasons"]["why"]
    assert counted["examples"] == sorted(ids(*paths))[:3]
    assert counted["sole"]["files"] == counted["files"] == 40


def test_merged_funnel(workdir: epath.Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = workdir / "funnel"
    out.mkdir()
    result = funnel.funnel(out, stages=[workdir / "preprocess", workdir / "exact_dedup"])
    assert result == {"files_in": 4, "files_kept": 1, "bytes_in": 150, "bytes_kept": 10}
    merged = json.loads((out / "funnel.json").read_text())
    assert [stage["stage"] for stage in merged["stages"]] == ["preprocess", "exact_dedup"]
    assert merged["languages"] == {
        "go": {"before": {"files": 1, "bytes": 40}, "after": {"files": 0, "bytes": 0}},
        "python": {"before": {"files": 3, "bytes": 110}, "after": {"files": 1, "bytes": 10}},
    }
    assert "exact_duplicate 1" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="fuzzy_dedup"):
        funnel.funnel(out, stages=[workdir / "fuzzy_dedup"])


def upper(table: pa.Table) -> pa.Table:
    assert table.schema.names == documents.SCHEMA.names
    return documents.drop(table, [["lonely"] if path == "a.py" else [] for path in table["path"].to_pylist()])


def test_documents_map_sees_and_counts_kept_rows_only(workdir: epath.Path) -> None:
    out = workdir / "transform"
    out.mkdir()
    result = funnel.documents_map(LocalEngine(workers=1), upper, workdir / "preprocess", out, "transform")
    assert result == {"files_in": 2, "files_kept": 1, "bytes_in": 30, "bytes_kept": 20}
    assert len(documents.parts(out)) == 3
    assert [path for table in documents.read(out, ["path"]) for path in table["path"].to_pylist()] == ["b.py"]


def look_up(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = funnel.main([*map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def test_look_up(workdir: epath.Path, capsys: pytest.CaptureFixture[str]) -> None:
    top = str(workdir)
    code, text = look_up(capsys, top, "--path", "repo/b*")
    assert code == 0 and "dropped by exact_dedup: exact_duplicate: 12ab" in text and text.count("repo/b.py") == 1
    code, text = look_up(capsys, top, "--id", documents.document_id("s", "repo", "a.py", None)[:12], "--text")
    assert code == 0 and "kept by exact_dedup" in text and "text of a.py" in text
    code, text = look_up(capsys, top, "--reason", "not_utf8")
    assert code == 0 and "dropped by preprocess: not_utf8 (byte 3); binary" in text
    code, text = look_up(capsys, top, "--limit", "2")
    assert text.count("repo/") == 2 and "more" in text
    code, text = look_up(capsys, top, "--stage", "preprocess", "--path", "*/a.py")
    assert "kept by preprocess" in text
    assert look_up(capsys, top, "--path", "nothing")[0] == 1
    code, text = look_up(capsys, str(workdir / "preprocess"), "--id", "0")
    assert code == 2 and "workdir" in text


@pytest.mark.parametrize(
    "reason, key",
    [
        ("too_large", "too_large"),
        ("exact_duplicate: 12: 3", "exact_duplicate"),
        ("frac_chars_comments > 0.8 (0.93)", "frac_chars_comments > 0.8"),
    ],
)
def test_reason_key(reason: str, key: str) -> None:
    assert funnel.reason_key(reason) == key
