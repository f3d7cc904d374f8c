from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from etils import epath

from data_prep import documents
from data_prep.engine import LocalEngine
from data_prep.files import write_parquet
from data_prep.sources import preprocess


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for no disk: no test cuts the power."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.fixture
def preprocessed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[dict[str, Any]]]:
    """Calls preprocess(sources=…, …) in this process and returns all rows, in order."""

    def call(*sources: object, **parameters: Any) -> list[dict[str, Any]]:
        out = epath.Path(tmp_path_factory.mktemp("preprocess"))
        parameters.setdefault("engine", LocalEngine(workers=1))
        preprocess(out, sources=[str(source) for source in sources], **parameters)
        return [row for part in documents.parts(out) for row in pq.read_table(part).to_pylist()]

    return call


@pytest.fixture
def write_documents(tmp_path: pathlib.Path) -> Callable[..., epath.Path]:
    """Writes a documents directory: one list of rows for each part, all but `path` and `text` filled in."""

    def write(name: str, *parts: Sequence[dict[str, Any]]) -> epath.Path:
        directory = epath.Path(tmp_path / name)
        directory.mkdir(parents=True)
        for number, rows in enumerate(parts):
            table = pa.Table.from_pylist([document_row(**row) for row in rows], documents.SCHEMA)
            write_parquet(iter([table]), directory / f"part-{number:05d}.parquet")
        return directory

    return write


def document_row(path: str, text: str | None = "", repo: str = "repo", **columns: Any) -> dict[str, Any]:
    data = (text or "").encode()
    return {
        "id": documents.document_id("test", repo, path, columns.get("commit")),
        "content_sha256": hashlib.sha256(data).hexdigest(),
        "text": text,
        "path": path,
        "repo": repo,
        "language": "python",
        "doc_type": "code",
        "size": len(data),
        "source": "test",
        "provenance": "{}",
        "reasons": [],
    } | columns


@pytest.fixture
def run_stage(tmp_path: pathlib.Path) -> Callable[..., tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Runs stage(documents=…, …) in this process and returns (its result, all rows in order)."""

    def run(stage: Callable[..., dict[str, Any]], name: str | None = None, **parameters: Any) -> tuple[Any, Any]:
        out = epath.Path(tmp_path / (name or stage.__name__))
        out.mkdir()
        parameters.setdefault("engine", LocalEngine(workers=1))
        result = stage(out, **parameters)
        assert not (out / "_scratch").exists()
        return result, [row for part in documents.parts(out) for row in pq.read_table(part).to_pylist()]

    return run
