from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pathlib
import random
import tarfile
import zipfile
from typing import Any

import pytest
import zstandard

from data_prep.sources import archives

FILES = {"p/a.py": b"a = 1\n", "../up.c": b"int up;\n", "p/two words\n.go": b"package p\n", "p/bin.py": b"\0"}
COMPRESS = {
    "tar": bytes,
    "tar.gz": lambda data: gzip.compress(data, mtime=0),
    "tar.bz2": bz2.compress,
    "tar.xz": lzma.compress,
    "tar.zst": zstandard.ZstdCompressor().compress,
}


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        folder = tarfile.TarInfo("p")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, kind in [("p/link.py", tarfile.SYMTYPE), ("p/pipe", tarfile.FIFOTYPE)]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", COMPRESS)
def test_tar(tmp_path: pathlib.Path, preprocessed: Any, suffix: str) -> None:
    (tmp_path / f"proj-1.2.{suffix}").write_bytes(COMPRESS[suffix](tar({**FILES, "p/big.py": bytes(5000)})))
    rows = preprocessed(tmp_path / f"proj-1.2.{suffix}", max_bytes=4000)
    assert {row["repo"] for row in rows} == {"proj-1.2"}
    assert [(row["path"], row["text"], row["reasons"]) for row in rows] == [
        ("p/a.py", "a = 1\n", []),
        ("../up.c", "int up;\n", []),
        ("p/two words\n.go", "package p\n", []),
        ("p/bin.py", None, ["binary"]),
        ("p/big.py", None, ["too_large"]),
        ("p/link.py", None, ["symlink"]),
        ("p/pipe", None, ["special_file"]),
    ]
    assert not list(tmp_path.parent.glob("up.c"))


def test_zip_with_damaged_encrypted_large_and_repeated_members(tmp_path: pathlib.Path, preprocessed: Any) -> None:
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.py", b"a = 1\n")
        archive.writestr("bad.py", b"MARK of damage\n")
        archive.writestr("big.py", bytes(100_000), zipfile.ZIP_DEFLATED)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.py", b"a = 2\n")
        archive.writestr("secret.py", b"s = 1\n")
    data = bytearray(path.read_bytes().replace(b"MARK", b"DARK"))
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 8] |= 1  # "encrypted" in the central directory
    path.write_bytes(data)
    rows = preprocessed(path, max_bytes=1000)
    assert [(row["path"], row["text"], row["reasons"]) for row in rows] == [
        ("a.py", "a = 1\n", []),
        ("bad.py", None, ["damaged_member: BadZipFile"]),
        ("big.py", None, ["too_large"]),
        ("#2/a.py", "a = 2\n", []),
        ("secret.py", None, ["encrypted"]),
    ]


def test_wheel_tells_distribution_version_and_licence(tmp_path: pathlib.Path, preprocessed: Any) -> None:
    path = tmp_path / "My_Pkg-3.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("my_pkg/__init__.py", "x = 1\n")
        archive.writestr("My_Pkg-3.1.dist-info/METADATA", "Name: My_Pkg\nLicense-Expression: MIT\n")
    row = preprocessed(path)[0]
    assert (row["repo"], row["commit"], row["licence"], row["path"]) == ("my-pkg", "3.1", "MIT", "my_pkg/__init__.py")


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst", "zip", "whl"])
@pytest.mark.parametrize("damage", ["noise", "nothing"])
def test_archive_that_is_none(tmp_path: pathlib.Path, preprocessed: Any, suffix: str, damage: str) -> None:
    data = random.Random(0).randbytes(3000) if damage == "noise" else b""
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(data)
    (row,) = preprocessed(path)
    assert row["path"] == path.name and row["size"] == len(data) and row["text"] is None
    assert row["reasons"][0].startswith("damaged_archive: ")


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.xz", "tar.zst"])
def test_cut_off_tar_gives_its_first_members(tmp_path: pathlib.Path, preprocessed: Any, suffix: str) -> None:
    noise = random.Random(1).randbytes(300_000).hex().encode()
    whole = COMPRESS[suffix](tar({"a.py": b"a = 1\n", "b.py": noise}))
    (tmp_path / f"cut.{suffix}").write_bytes(whole[: len(whole) // 2])
    *members, last = preprocessed(tmp_path / f"cut.{suffix}")
    assert [row["text"] for row in members] in ([], ["a = 1\n"])  # xz may hold back its first block
    assert members or suffix == "tar.xz"
    assert last["reasons"][0].startswith("damaged_archive: ")


def test_bomb_is_given_up(tmp_path: pathlib.Path, preprocessed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "FREE_BYTES", 1 << 20)
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(10):
            archive.writestr(f"{i}.py", bytes(1_000_000))
    assert path.stat().st_size < 20_000
    rows = preprocessed(path)
    assert 1 < len(rows) < 10 and "200-fold" in rows[-1]["reasons"][0]
