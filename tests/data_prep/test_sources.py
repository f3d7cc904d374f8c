from __future__ import annotations

import datetime
import hashlib
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
from typing import Any

import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from data_prep.engine import LocalEngine
from data_prep.sources import environment, preprocess
from data_prep.sources.reference import printable

ROOT = pathlib.Path(__file__).parents[2]


def git(directory: pathlib.Path, *arguments: str, date: int = 1_500_000_000) -> str:
    environment = {
        **os.environ,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_AUTHOR_DATE": f"{date} +0000",
        "GIT_COMMITTER_DATE": f"{date} +0200",
    }
    command = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org", "-C", str(directory), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def make_repository(directory: pathlib.Path) -> str:
    directory.mkdir(parents=True)
    git(directory, "init", "-q")
    (directory / "old.py").write_text("old = 1\n")
    (directory / "new\nline é.py").write_text("new = 1\n")
    (directory / "\nlead.c").write_text("int lead;\n")
    (directory / "link.py").symlink_to("old.py")
    git(directory, "add", "-A")
    git(directory, "commit", "-qm", "one")
    (directory / "new\nline é.py").write_text("new = 2\n")
    git(directory, "commit", "-qam", "two", date=1_600_000_000)
    git(directory, "remote", "add", "origin", "https://user:secret@example.org/some/repo.git")
    (directory / "uncommitted.py").write_text("no = 1\n")
    return git(directory, "rev-parse", "HEAD").strip()


@pytest.fixture
def nasty(tmp_path: pathlib.Path) -> pathlib.Path:
    top = tmp_path / "nasty folder"
    (top / "app" / "deep").mkdir(parents=True)
    (top / "main.c").write_text("int main(void) { return 0; }\n")
    (top / "app" / "Main.java").write_bytes(b"class Main {\r\n}\r\n")
    (top / "app" / "deep" / "srv.go").write_bytes(b"\xef\xbb\xbfpackage srv\n")
    (top / "app" / "wide.cs").write_bytes("class Wide {}\n".encode("utf-16"))
    (top / "app" / "two words\nand a line.py").write_text("x = 1\n")
    (top / "app" / "latin1.py").write_bytes("x = 'café'\n".encode("latin-1"))
    (top / "app" / "image.py").write_bytes(b"\x89PNG\0\0")
    (top / "app" / "empty.py").write_bytes(b"")
    (top / "app" / "blank.py").write_bytes(b"\n \n")
    (top / "app" / "table.csv").write_text("a,b\n")
    (top / "app" / "what.xyz").write_text("?\n")
    (top / "app" / "tool").write_text("#!/usr/bin/env python3\n")
    (top / "app" / "good.ipynb").write_text('{"cells": [{"cell_type": "code", "source": "1 + 1"}]}')
    (top / "app" / "bad.ipynb").write_text('{"cells": ')
    with open(top / "app" / "huge.sql", "wb") as file:
        file.truncate(20_000_000)
    with open(os.path.join(os.fsencode(top), b"app", b"latin-\xe9.py"), "w") as file:
        file.write("y = 1\n")
    os.symlink("..", top / "app" / "loop")
    os.symlink("/nowhere", top / "app" / "dangling.py")
    os.mkfifo(top / "app" / "pipe.py")
    return top


REASONS = {
    "app/Main.java": None,
    "app/bad.ipynb": "malformed_notebook: not JSON",
    "app/blank.py": "empty",
    "app/dangling.py": "symlink",
    "app/deep/srv.go": None,
    "app/empty.py": "empty",
    "app/good.ipynb": None,
    "app/huge.sql": "too_large",
    "app/image.py": "binary",
    "app/latin-%E9.py": None,
    "app/latin1.py": "not_utf8 (byte 8)",
    "app/loop": "symlink",
    "app/pipe.py": "special_file",
    "app/table.csv": "excluded_type",
    "app/tool": None,
    "app/two words\nand a line.py": None,
    "app/what.xyz": "unknown_type",
    "app/wide.cs": None,
    "main.c": None,
}


def test_every_file_of_a_nasty_folder_is_a_row_with_its_reason(nasty: pathlib.Path, preprocessed: Any) -> None:
    rows = {f"{row['repo']}/{row['path']}": row for row in preprocessed(nasty)}
    assert {name: (row["reasons"] or [None])[0] for name, row in rows.items()} == {
        f"nasty folder/{name}": reason for name, reason in REASONS.items()
    }
    assert all(row["source"] == "nasty folder" for row in rows.values())
    row = rows["nasty folder/app/Main.java"]
    assert (row["repo"], row["path"], row["size"], row["text"]) == (
        "nasty folder/app",
        "Main.java",
        17,
        "class Main {\n}\n",
    )
    assert row["content_sha256"] == hashlib.sha256(b"class Main {\r\n}\r\n").hexdigest()
    assert rows["nasty folder/app/deep/srv.go"]["text"] == "package srv\n"
    assert rows["nasty folder/app/wide.cs"]["text"] == "class Wide {}\n"
    assert json.loads(rows["nasty folder/app/wide.cs"]["provenance"])["encoding"] == "utf-16"
    assert rows["nasty folder/app/huge.sql"]["size"] == 20_000_000
    assert rows["nasty folder/app/good.ipynb"]["text"].startswith("<jupyter_start><jupyter_code>1 + 1\n")
    assert rows["nasty folder/app/tool"]["language"] == "python"
    for name in ("huge.sql", "image.py", "latin1.py", "pipe.py"):
        assert rows[f"nasty folder/app/{name}"]["text"] is None


def test_documents_do_not_depend_on_where_the_folder_lies(
    nasty: pathlib.Path, preprocessed: Any, tmp_path: pathlib.Path
) -> None:
    before = preprocessed(nasty)
    (tmp_path / "elsewhere").mkdir()
    nasty.rename(tmp_path / "elsewhere" / nasty.name)
    assert preprocessed(tmp_path / "elsewhere" / nasty.name) == before


def test_one_and_two_workers_write_the_same_bytes(nasty: pathlib.Path, tmp_path: pathlib.Path) -> None:
    outs = [epath.Path(tmp_path / f"out{workers}" / "preprocess") for workers in (1, 2)]
    for workers, out in enumerate(outs, 1):
        out.mkdir(parents=True)
        preprocess(out, sources=[str(nasty)], part_files=5, engine=LocalEngine(workers))
    files = [sorted(out.glob("*.*")) for out in outs]
    assert [path.name for path in files[0]] == ["funnel.json", *(f"part-{i:05d}.parquet" for i in range(4))]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


def test_interrupted_stage_goes_on_with_its_listing(nasty: pathlib.Path, tmp_path: pathlib.Path) -> None:
    class Stopped(LocalEngine):
        def map(self, *arguments: Any, **keywords: Any) -> None:
            raise KeyboardInterrupt

    whole, resumed = epath.Path(tmp_path / "whole" / "preprocess"), epath.Path(tmp_path / "resumed" / "preprocess")
    listing = resumed / "_scratch" / "references"
    for directory in (whole, listing):
        directory.mkdir(parents=True)
    parameters: dict[str, Any] = {"sources": [str(nasty)], "part_files": 5}
    preprocess(whole, **parameters, engine=LocalEngine(workers=1))
    (listing / "part-00000.parquet").write_text("of a listing that was not finished")
    with pytest.raises(KeyboardInterrupt):
        preprocess(resumed, **parameters, engine=Stopped())
    (nasty / "later.py").write_text("z = 1\n")  # no parts of two different listings may meet
    preprocess(resumed, **parameters, engine=LocalEngine(workers=1))
    files = sorted(whole.glob("*.*"))
    assert [path.name for path in files] == [path.name for path in sorted(resumed.glob("*.*"))]
    assert [path.read_bytes() for path in files] == [(resumed / path.name).read_bytes() for path in files]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable(tmp_path: pathlib.Path, preprocessed: Any) -> None:
    (tmp_path / "top" / "closed").mkdir(parents=True)
    (tmp_path / "top" / "a.py").write_text("a = 1\n")
    (tmp_path / "top" / "a.py").chmod(0)
    (tmp_path / "top" / "closed").chmod(0)
    rows = preprocessed(tmp_path / "top")
    assert [(row["path"], row["reasons"]) for row in rows] == [
        ("a.py", ["unreadable: EACCES"]),
        ("closed", ["unreadable: EACCES"]),
    ]


def test_file_that_vanishes_or_becomes_a_pipe_after_listing(tmp_path: pathlib.Path, preprocessed: Any) -> None:
    class Meddler(LocalEngine):
        def map(self, *arguments: Any, **keywords: Any) -> None:
            (tmp_path / "top" / "a.py").unlink()
            (tmp_path / "top" / "b.py").unlink()
            os.mkfifo(tmp_path / "top" / "b.py")
            super().map(*arguments, **keywords)

    (tmp_path / "top").mkdir()
    for name in ("a.py", "b.py", "c.py"):
        (tmp_path / "top" / name).write_text("x = 1\n")
    rows = preprocessed(tmp_path / "top", engine=Meddler(workers=1))
    assert [row["reasons"] for row in rows] == [["unreadable: ENOENT"], ["special_file"], []]


def test_sockets_are_not_opened(tmp_path: pathlib.Path, preprocessed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t").mkdir()
    monkeypatch.chdir(tmp_path / "t")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s.py")
        assert [row["reasons"] for row in preprocessed(tmp_path / "t")] == [["special_file"]]


@pytest.mark.parametrize("kind", ["working tree", "bare"])
def test_git_repository(tmp_path: pathlib.Path, preprocessed: Any, kind: str) -> None:
    commit = make_repository(tmp_path / "project")
    if kind == "bare":
        git(tmp_path, "clone", "-q", "--bare", "project", "bare.git")
        git(tmp_path / "bare.git", "config", "remote.origin.url", "https://user:secret@example.org/some/repo.git")
    rows = preprocessed(tmp_path / ("project" if kind == "working tree" else "bare.git"))
    assert [(row["path"], row["text"], row["reasons"]) for row in rows] == [
        ("\nlead.c", "int lead;\n", []),
        ("link.py", None, ["symlink"]),
        ("new\nline é.py", "new = 2\n", []),
        ("old.py", "old = 1\n", []),
    ]
    assert {row["commit"] for row in rows} == {commit}
    assert {row["repo"] for row in rows} == {"project" if kind == "working tree" else "bare.git"}
    assert {row["url"] for row in rows} == {"https://example.org/some/repo.git"}
    times = [row["commit_time"] for row in rows]
    old, new = (datetime.datetime.fromtimestamp(time, datetime.UTC) for time in (1_500_000_000, 1_600_000_000))
    assert times == [old, old, new, old]


def test_git_repositories_within_a_folder(tmp_path: pathlib.Path, preprocessed: Any) -> None:
    commit = make_repository(tmp_path / "top" / "group" / "project")
    (tmp_path / "top" / "group" / "plain.py").write_text("p = 1\n")
    (tmp_path / "top" / "broken" / ".git").mkdir(parents=True)
    (tmp_path / "top" / "broken" / "b.py").write_text("b = 1\n")
    rows = preprocessed(tmp_path / "top")
    assert [(row["repo"], row["path"], row["commit"]) for row in rows if not row["reasons"]] == [
        ("top/broken", "b.py", None),
        ("top/group", "plain.py", None),
        ("top/group/project", "\nlead.c", commit),
        ("top/group/project", "new\nline é.py", commit),
        ("top/group/project", "old.py", commit),
    ]


def test_damaged_git_object_is_a_reason(tmp_path: pathlib.Path, preprocessed: Any) -> None:
    make_repository(tmp_path / "project")
    blob = git(tmp_path / "project", "rev-parse", "HEAD:new\nline é.py").strip()
    damaged = tmp_path / "project" / ".git" / "objects" / blob[:2] / blob[2:]
    damaged.chmod(0o600)
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-5] + bytes(5))
    rows = preprocessed(tmp_path / "project")
    assert [row["reasons"] for row in rows] == [[], ["symlink"], ["damaged_blob"], []]


def test_sources_that_cannot_be(tmp_path: pathlib.Path, preprocessed: Any) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        preprocessed(tmp_path / "missing")
    (tmp_path / "a.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match="none of"):
        preprocessed(tmp_path / "a.py")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="hold no file"):
        preprocessed(tmp_path / "nothing")


def test_sources_with_one_name_stay_apart(tmp_path: pathlib.Path, preprocessed: Any) -> None:
    for top in ("a", "b"):
        (tmp_path / top / "src").mkdir(parents=True)
        (tmp_path / top / "src" / "x.py").write_text(f"{top} = 1\n")
    rows = preprocessed(tmp_path / "a" / "src", tmp_path / "b" / "src")
    assert [row["source"] for row in rows] == ["src", "src#2"]
    assert rows[0]["id"] != rows[1]["id"]


@given(st.binary().filter(lambda name: b"\0" not in name))
def test_printable_names_are_reversible(name: bytes) -> None:
    text = printable(name)
    assert printable(os.fsdecode(name)) == text
    assert re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes.fromhex(match[1].decode()), text.encode()) == name


@given(st.text())
def test_ordinary_names_stay_as_they_are(name: str) -> None:
    assert "%" in name or printable(name) == name


@pytest.fixture
def small_environment(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A standard library and four distributions of which the requirements need three."""
    site = tmp_path / "site-packages"
    for name, requires, lines in [
        (
            "Top_Pkg",
            ['mid[fast]>=1; python_version > "3"', 'never; sys_platform == "mars"'],
            ["License-Expression: MIT"],
        ),
        (
            "mid",
            ['leaf; extra == "fast"', 'slow; extra == "slow"'],
            ["License: UNKNOWN", "Classifier: License :: OSI :: BSD"],
        ),
        ("leaf", [], ["License: Some\n        long text"]),
        ("other", [], []),
    ]:
        module, info = name.lower(), site / f"{name}-1.0.dist-info"
        (site / module / "__pycache__").mkdir(parents=True)
        (site / module / "__init__.py").write_text(f"name = {name!r}\n")
        (site / module / "__pycache__" / "x.pyc").write_bytes(b"\0")
        info.mkdir()
        fields = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", *lines]
        (info / "METADATA").write_text("\n".join(fields + [f"Requires-Dist: {r}" for r in requires]) + "\n")
        files = [f"{module}/__init__.py", f"{module}/__pycache__/x.pyc", f"{info.name}/METADATA", "../bin/tool"]
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    stdlib = tmp_path / "lib"
    for path in ("os.py", "json/tool.py", "json/test/t.py", "site-packages/x.py", "_sysconfigdata__linux.py", "a.pyc"):
        (stdlib / path).parent.mkdir(parents=True, exist_ok=True)
        (stdlib / path).write_text("x = 1\n")
    monkeypatch.setattr(sys, "path", [str(site)])
    monkeypatch.setattr(environment.sysconfig, "get_paths", lambda: {"stdlib": str(stdlib)})
    (tmp_path / "requirements.txt").write_text("# the top\ntop-pkg >= 1  # comment\n\n")
    return tmp_path


def test_environment_is_the_library_and_what_the_requirements_pull_in(
    small_environment: pathlib.Path, preprocessed: Any
) -> None:
    rows = preprocessed("python-environment", requirements=str(small_environment / "requirements.txt"))
    assert [(row["repo"], row["path"], row["licence"]) for row in rows] == [
        ("cpython", "json/tool.py", "PSF-2.0"),
        ("cpython", "os.py", "PSF-2.0"),
        ("leaf", "leaf/__init__.py", "Some"),
        ("mid", "mid/__init__.py", "BSD"),
        ("top-pkg", "top_pkg/__init__.py", "MIT"),
    ]
    assert [row["commit"] for row in rows[2:]] == ["1.0"] * 3
    assert str(small_environment) not in repr(rows)


def test_environment_names_what_is_missing(small_environment: pathlib.Path) -> None:
    (small_environment / "requirements.txt").write_text("top-pkg\nabsent\n")
    with pytest.raises(FileNotFoundError, match="absent is not installed"):
        list(environment.references("s", small_environment / "requirements.txt"))


def test_real_environment_has_numpy_and_none_of_the_development_tools() -> None:
    names = {distribution.metadata["Name"] for distribution in environment.closure(ROOT / "requirements.txt")}
    assert {"numpy", "jax", "flax"} <= names and not {"pytest", "ruff", "hypothesis"} & names
