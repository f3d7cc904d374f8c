from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import languages


@pytest.mark.parametrize(
    "path, expected",
    [
        ("src/main.c", ("c", "code")),
        ("Main.java", ("java", "code")),
        ("a.b/server.go", ("go", "code")),
        ("x.tar.py", ("python", "code")),
        ("CMakeLists.txt", ("cmake", "code")),  # the name counts more than the extension
        ("deep/Cargo.lock", ("toml", "data")),
        ("Dockerfile", ("dockerfile", "code")),
        ("profile.py", ("python", "code")),  # not the shell file `profile`
        ("old.C", ("cpp", "code")),  # the case counts where the table knows both
        ("MODULE.PY", ("python", "code")),
        ("plot.R", ("r", "code")),
        ("configure.sh.in", ("shell", "code")),
        ("notes.md", ("markdown", "text")),
        ("data.json", ("json", "data")),
        ("table.csv", ("csv", "excluded")),
        ("board.gbr", ("gerber image", "excluded")),
        ("SHA256SUMS", ("checksums", "excluded")),
        ("Token.sol", ("solidity", "code")),
        ("analysis.ipynb", ("jupyter notebook", "code")),
        ("README", ("unknown", "unknown")),
        ("photo.jpeg", ("unknown", "unknown")),
        ("dot.", ("unknown", "unknown")),
        ("", ("unknown", "unknown")),
    ],
)
def test_names(path: str, expected: tuple[str, str]) -> None:
    assert languages.detect(path, None) == expected


@pytest.mark.parametrize(
    "first_line, language",
    [
        ("#!/usr/bin/python", "python"),
        ("#! /usr/bin/env python3.11", "python"),
        ("#!/usr/bin/env -S LANG=C python3 -u", "python"),
        ("#!/bin/sh -e", "shell"),
        ("#!/usr/local/bin/bash", "shell"),
        ("#!/usr/bin/perl -w", "perl"),
        ("#!/usr/bin/env node", "javascript"),
        ("#!/usr/bin/env ruby", "ruby"),
        ("#!/usr/bin/env", "unknown"),
        ("#!", "unknown"),
        ("#!/bin/unheard-of", "unknown"),
        ("# !/bin/sh", "unknown"),
    ],
)
def test_interpreter_counts_only_where_the_name_says_nothing(first_line: str, language: str) -> None:
    text = first_line + "\nrest of the file\n"
    assert languages.detect("bin/tool", text)[0] == language
    assert languages.detect("tool.lua", text) == ("lua", "code")


@given(st.text(), st.none() | st.text())
def test_any_name_has_a_language_and_a_type(path: str, text: str | None) -> None:
    language, kind = languages.detect(path, text)
    assert language and kind in ("code", "data", "text", "excluded", "unknown")
    assert languages.doc_type(language) == kind


def test_names_of_other_data_sets() -> None:
    assert [languages.canonical(name) for name in ("C++", "C#", "Python", "Klingon", None)] == [
        "cpp",
        "csharp",
        "python",
        "unknown",
        "unknown",
    ]
