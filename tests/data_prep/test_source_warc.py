from __future__ import annotations

import gzip
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

DATE = "2024-03-04T05:06:07Z"


def record(url: str, body: bytes, content_type: str = "text/html", status: str = "200 OK", extra: str = "") -> bytes:
    http = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n{extra}\r\n".encode() + body
    return block("response", url, "application/http; msgtype=response", http)


def block(kind: str, url: str, content_type: str, content: bytes) -> bytes:
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Date: {DATE}\r\n"
        f"WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-{abs(len(url)):012d}>\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content + b"\r\n\r\n"


RECORDS = [
    block("warcinfo", "", "application/warc-fields", b"software: test\r\n"),
    record("https://www.example.com/a/b.html?q=1#top", "<p>Größe</p>".encode()),
    block("request", "https://example.com/", "application/http; msgtype=request", b"GET / HTTP/1.1\r\n\r\n"),
    record("http://example.cn/", "<p>你好，世界</p>".encode("gbk"), "text/html; charset=GB2312"),
    record("http://example.cn/meta", '<meta charset="gbk"><p>你好</p>'.encode("gbk")),
    record("http://example.org/image", b"\x89PNG", "image/png"),
    record("http://example.org/moved", b"<p>gone</p>", status="301 Moved Permanently"),
    record("http://example.org/zipped", gzip.compress(b"<p>squeezed</p>"), extra="Content-Encoding: gzip\r\n"),
    record("http://example.org/script.js", b"plain words", "text/plain"),
    record("http://example.org/large", b"x" * 2000),
]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("part_files", [1, 2, 1024])
def test_pages_of_a_warc_file_become_documents(preprocessed, tmp_path: pathlib.Path, compressed: bool, part_files: int):
    path = tmp_path / f"crawl.warc{'.gz' if compressed else ''}"
    path.write_bytes(b"".join(gzip.compress(r) if compressed else r for r in RECORDS))
    rows = preprocessed(path, part_files=part_files, max_bytes=1000)
    assert [row["url"].partition("://")[2] for row in rows] == [
        "www.example.com/a/b.html?q=1#top",
        "example.cn/",
        "example.cn/meta",
        "example.org/zipped",
        "example.org/script.js",
        "example.org/large",
    ]
    assert [row["text"] for row in rows] == [
        "<p>Größe</p>",
        "<p>你好，世界</p>",
        '<meta charset="gbk"><p>你好</p>',
        "<p>squeezed</p>",
        "plain words",
        None,
    ]
    assert [row["language"] for row in rows] == ["html", "html", "html", "html", "text", "html"]
    assert [row["reasons"] for row in rows] == [[]] * 5 + [["too_large"]]
    assert (rows[0]["repo"], rows[0]["path"], rows[0]["commit"]) == ("example.com", "a/b.html?q=1", DATE)
    assert rows[0]["commit_time"].isoformat() == "2024-03-04T05:06:07+00:00"
    assert len({row["id"] for row in rows}) == len(rows)


def test_wet_files_and_directories_of_archives(preprocessed, tmp_path: pathlib.Path):
    for name, text in (("one", "Ein Satz."), ("two", "一句话。")):
        data = block("conversion", f"https://{name}.example/", "text/plain", text.encode())
        (tmp_path / f"{name}.warc.wet.gz").write_bytes(gzip.compress(data))
    rows = preprocessed(tmp_path)
    assert [(row["repo"], row["text"], row["language"]) for row in rows] == [
        ("one.example", "Ein Satz.", "text"),
        ("two.example", "一句话。", "text"),
    ]


def test_a_truncated_archive_gives_what_is_whole_and_says_so(preprocessed, tmp_path: pathlib.Path):
    whole = gzip.compress(RECORDS[1]) + gzip.compress(RECORDS[3])
    (tmp_path / "cut.warc.gz").write_bytes(whole + gzip.compress(RECORDS[4])[:-30])
    rows = preprocessed(tmp_path / "cut.warc.gz")
    assert [row["url"] for row in rows if not row["reasons"]][:2] == [
        "https://www.example.com/a/b.html?q=1#top",
        "http://example.cn/",
    ]
    (tmp_path / "noise.warc.gz").write_bytes(b"this is no archive" * 100)
    assert all(row["reasons"] for row in preprocessed(tmp_path / "noise.warc.gz"))


def test_fineweb_and_skypile_tables_are_web_pages(preprocessed, tmp_path: pathlib.Path):
    fineweb = {
        "text": ["How to sort a list", "Again"],
        "id": ["<urn:uuid:1>", "<urn:uuid:2>"],
        "dump": ["CC-MAIN-2024-10"] * 2,
        "url": ["https://www.example.com/q/1.php", "https://www.example.com/q/1.php?page=2"],
        "date": ["2024-03-04T05:06:07Z"] * 2,
        "file_path": ["s3://commoncrawl/x/y.warc.gz"] * 2,
        "language": ["en"] * 2,
        "language_score": [0.9] * 2,
        "token_count": [5] * 2,
    }
    pq.write_table(pa.table(fineweb), tmp_path / "fineweb.parquet")
    (tmp_path / "skypile.jsonl").write_text('{"text": "今天天气很好。"}\n', "utf-8")
    rows = preprocessed(tmp_path / "fineweb.parquet", tmp_path / "skypile.jsonl")
    assert [(row["repo"], row["path"], row["language"], row["reasons"]) for row in rows] == [
        ("example.com", "q/1.php", "text", []),
        ("example.com", "q/1.php?page=2", "text", []),
        ("skypile", "skypile.jsonl:0", "text", []),
    ]
    assert rows[0]["commit_time"].year == 2024
