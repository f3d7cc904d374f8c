from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from data_prep.transforms import transform, transform_text

PIECES = [
    "# Copyright 2020 jo@corp.com\n",
    "// MIT License\n",
    "\n",
    "# ",
    "/* ",
    "*/",
    "x = 1\n",
    "jo@corp.com",
    "52.95.1.77",
]
PIECES += ["password = 'a1b2c3'\n", "<email>", "\n\n# Licensed under the", " GPL\n", '"', "'"]


@given(st.lists(st.sampled_from(PIECES), max_size=15).map("".join), st.sampled_from(["python", "c", "yaml"]))
def test_a_repaired_text_needs_no_repair(text: str, language: str) -> None:
    repaired, _ = transform_text(text, language)
    assert transform_text(repaired, language) == (repaired, {})


def test_stage(write_documents: Callable[..., epath.Path], run_stage: Callable[..., Any]) -> None:
    first = {
        "path": "a.py",
        "text": "# Copyright 2020 Me\n\nAUTHOR = 'jo@corp.com'  # al@corp.de\nHOST = '52.95.110.1'\n",
        "provenance": json.dumps({"reader": "git"}),
    }
    prose = {
        "path": "LICENSE.md",
        "text": "# License\n\nCopyright 2020 Me\n",
        "language": "markdown",
        "doc_type": "text",
    }
    dropped = {"path": "b.py", "text": "jo@corp.com", "reasons": ["too_large"]}
    source = write_documents("fuzzy_dedup", [first, dropped], [prose])
    result, rows = run_stage(transform, documents=source)
    assert [row["path"] for row in rows] == ["a.py", "LICENSE.md"] and not any(row["reasons"] for row in rows)
    assert rows[0]["text"] == "AUTHOR = '<email>'  # <email>\nHOST = '<ip_address>'\n"
    assert json.loads(rows[0]["provenance"]) == {
        "reader": "git",
        "transforms": {"copyright": 1, "email": 2, "ip_address": 1},
    }
    assert rows[0]["size"] == len(first["text"])  # of the raw file
    assert (rows[1]["text"], rows[1]["provenance"]) == (prose["text"], "{}")
    assert result["transforms"] == {"copyright": 1, "email": 2, "ip_address": 1}
    assert result["files_kept"] == 2


@pytest.mark.parametrize("text", ["", "\n", "x = 1\n", "日本語 © 2020\n"])
def test_nothing_to_repair(text: str) -> None:
    assert transform_text(text, "python") == (text, {})
