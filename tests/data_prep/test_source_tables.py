from __future__ import annotations

import datetime
import functools
import gzip
import http.server
import json
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data_prep.sources import blobs

TIME = datetime.datetime(2023, 5, 6, 7, 8, 9, tzinfo=datetime.UTC)
ROWS = [
    {
        "blob_id": f"{i:040x}",
        "path": f"/src/file{i}.py",
        "repo_name": "owner/repo",
        "revision_id": "c" * 40,
        "detected_licenses": ["MIT", "Apache-2.0"],
        "license_type": "permissive",
        "star_events_count": 10 + i,
        "committer_date": TIME,
        "visit_date": datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
        "src_encoding": "UTF-8",
        "language": "Python",
        "length_bytes": len(f"x = {i}\n"),
        "content": f"x = {i}\n",
    }
    for i in range(10)
]


def check_rows(rows: list[dict[str, Any]]) -> None:
    assert [row["text"] for row in rows] == [f"x = {i}\n" for i in range(10)]
    assert [row["path"] for row in rows] == [f"src/file{i}.py" for i in range(10)]
    assert [row["stars"] for row in rows] == list(range(10, 20))
    assert {(row["repo"], row["commit"], row["licence"]) for row in rows} == {
        ("owner/repo", "c" * 40, "Apache-2.0, MIT")
    }
    assert {row["commit_time"] for row in rows} == {TIME}
    assert [json.loads(row["provenance"])["blob"] for row in rows] == [row["blob_id"] for row in ROWS]
    assert all(row["reasons"] == [] for row in rows)


@pytest.mark.parametrize("group, part_files", [(10, 1024), (4, 3), (1, 5)])
def test_parquet_in_row_groups_and_parts_of_any_size(
    tmp_path: pathlib.Path, preprocessed: Any, group: int, part_files: int
) -> None:
    table = pa.Table.from_pylist(ROWS)
    time = table.schema.get_field_index("committer_date")
    nanoseconds = pa.array([TIME] * 10, pa.timestamp("ns", "UTC"))
    pq.write_table(table.set_column(time, "committer_date", nanoseconds), tmp_path / "t.parquet", row_group_size=group)
    rows = preprocessed(tmp_path / "t.parquet", part_files=part_files)
    check_rows(rows)
    assert [json.loads(row["provenance"])["row"] for row in rows] == list(range(10))


def lines() -> bytes:
    return "".join(json.dumps(row, default=datetime.datetime.isoformat) + "\n" for row in ROWS).encode()


@pytest.mark.parametrize("suffix, compress", [("", bytes), (".gz", gzip.compress), (".zst", zstandard.compress)])
def test_json_lines(tmp_path: pathlib.Path, preprocessed: Any, suffix: str, compress: Any) -> None:
    (tmp_path / f"t.jsonl{suffix}").write_bytes(compress(lines()))
    check_rows(preprocessed(tmp_path / f"t.jsonl{suffix}"))


def test_json_lines_are_cut_into_parts_between_lines(
    tmp_path: pathlib.Path, preprocessed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.sources.tables._BLOCK", 100)
    (tmp_path / "t.jsonl").write_bytes(lines().rstrip(b"\n"))
    check_rows(preprocessed(tmp_path / "t.jsonl", part_bytes=500))


def test_directory_of_tables_is_read_in_order_of_names(tmp_path: pathlib.Path, preprocessed: Any) -> None:
    (tmp_path / "d" / "sub").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(ROWS[:4]), tmp_path / "d" / "a.parquet")
    pq.write_table(pa.Table.from_pylist(ROWS[4:]), tmp_path / "d" / "sub" / "b.parquet")
    check_rows(preprocessed(tmp_path / "d"))


def test_rows_with_little_or_wrong_in_them(tmp_path: pathlib.Path, preprocessed: Any) -> None:
    written = [
        '{"text": "a = 1\\n", "lang": "C++"}',
        "not JSON",
        "[1]",
        "",
        '{"path": "b.py"}',
        '{"path": "c.py", "content": 3}',
        '{"path": "d.py", "content": "d = 1", "stars": "many", "commit_time": "once", "licence": 3, "repo": 7}',
        '{"path": "e.py", "content": "\\ud800"}',
        '{"path": "f.py", "content": "' + "f" * 2000 + '"}',
        "[" * 100_000,
    ]
    (tmp_path / "odd.jsonl").write_text("\n".join(written))
    starts = [sum(len(line) + 1 for line in written[:i]) for i in range(len(written))]
    rows = preprocessed(tmp_path / "odd.jsonl", max_bytes=1000)
    assert [(row["path"], row["text"], row["reasons"]) for row in rows] == [
        ("odd.jsonl:0", "a = 1\n", []),
        (f"odd.jsonl:{starts[1]}", None, ["malformed_row"]),
        (f"odd.jsonl:{starts[2]}", None, ["malformed_row"]),
        ("b.py", None, ["no_content"]),
        ("c.py", None, ["malformed_row"]),
        ("d.py", "d = 1", []),
        ("e.py", None, ["not_utf8 (byte 0)"]),
        ("f.py", None, ["too_large"]),
        (f"odd.jsonl:{starts[-1]}", None, ["malformed_row"]),
    ]
    assert rows[0]["language"] == "cpp" and rows[0]["repo"] == "odd"
    assert (rows[5]["stars"], rows[5]["commit_time"], rows[5]["licence"], rows[5]["repo"]) == (None, None, None, "odd")


@pytest.mark.parametrize("name", ["t.parquet", "t.jsonl.gz", "t.jsonl.zst"])
def test_damaged_tables(tmp_path: pathlib.Path, preprocessed: Any, name: str) -> None:
    (tmp_path / name).write_bytes(b"PAR1 no table at all PAR1")
    (row,) = preprocessed(tmp_path / name)
    assert row["path"] == name and row["reasons"][0].startswith("damaged_table: ")


def test_damaged_row_group_spares_the_others(tmp_path: pathlib.Path, preprocessed: Any) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=5)
    column = pq.read_metadata(path).row_group(0).column(0)
    data = bytearray(path.read_bytes())
    data[column.dictionary_page_offset : column.dictionary_page_offset + 40] = bytes(40)
    path.write_bytes(data)
    first, *others = preprocessed(path)
    assert first["reasons"][0].startswith("damaged_table: ")
    assert [row["text"] for row in others] == [f"x = {i}\n" for i in range(5, 10)]


class Handler(http.server.SimpleHTTPRequestHandler):
    failures = 1

    def do_GET(self) -> None:  # noqa: N802
        if self.failures:
            type(self).failures -= 1
            self.send_error(503)
        else:
            super().do_GET()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def store(tmp_path: pathlib.Path) -> pathlib.Path:
    """Blobs beside a table that has none in it: one in Latin-1, one compressed, one damaged, one missing."""
    directory = tmp_path / "blobs"
    directory.mkdir()
    (directory / "b0").write_bytes("x = 'é'\n".encode("latin-1"))
    (directory / "b1").write_bytes(gzip.compress(b"x = 1\n"))
    (directory / "b2").write_bytes(gzip.compress(b"x = 2\n" * 1000)[:-20])
    names = ["b0", "b1", "b2", "b3", "b1"]
    table = {
        "blob_id": names,
        "path": [f"{i}.py" for i in range(5)],
        "src_encoding": ["ISO-8859-1", "UTF-8", None, "UTF-8", "no-such"],
        "length_bytes": [8, 6, 6, 6, 6],
    }
    pq.write_table(pa.table(table), tmp_path / "ids.parquet")
    return directory


@pytest.fixture
def server(store: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(blobs.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(Handler, "failures", 1)
    handler = functools.partial(Handler, directory=str(store))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http_server.server_port}"
        http_server.shutdown()


@pytest.mark.parametrize("kind", ["directory", "template", "URL"])
def test_blobs_are_fetched(store: pathlib.Path, server: str, preprocessed: Any, kind: str) -> None:
    place = {"directory": str(store), "template": f"{store}/{{blob_id}}", "URL": server}[kind]
    rows = preprocessed(store.parent / "ids.parquet", blobs=place)
    assert [(row["text"], row["reasons"]) for row in rows] == [
        ("x = 'é'\n", []),
        ("x = 1\n", []),
        (None, ["blob_damaged"]),
        (None, ["blob_missing"]),
        ("x = 1\n", []),
    ]


def test_a_store_that_keeps_failing_stops_the_stage(store: pathlib.Path, server: str, preprocessed: Any) -> None:
    Handler.failures = 1000
    with pytest.raises(ConnectionError, match="run again"):
        preprocessed(store.parent / "ids.parquet", blobs=server)


def test_without_a_store_the_rows_say_so(store: pathlib.Path, preprocessed: Any) -> None:
    assert {row["reasons"][0] for row in preprocessed(store.parent / "ids.parquet")} == {"no_content"}
