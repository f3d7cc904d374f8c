"""Tar, zip and wheel files. Members are unpacked once, in order, into a spool file that workers then read slices of.

Member names are only names, so a member called ../../x is harmless. An archive cannot fill the disk: a member of more
than `max_bytes` is not unpacked, and an archive that expands more than 200-fold is given up.
"""

from __future__ import annotations

import contextlib
import email
import gzip
import lzma
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import IO, Any

import zstandard
from packaging.utils import canonicalize_name

from data_prep.sources.environment import licence_of
from data_prep.sources.reference import Reference, file_name, printable, provenance

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
ZIP_SUFFIXES = (".zip", ".whl", ".jar", ".egg")
SUFFIXES = TAR_SUFFIXES + ZIP_SUFFIXES
MAX_EXPANSION = 200  # source code compresses 4- to 10-fold
FREE_BYTES = 64 << 20  # any archive may unpack to this much
DECOMPRESSION_ERRORS = (zlib.error, lzma.LZMAError, zstandard.ZstdError, EOFError, OSError)
_ERRORS = (
    *DECOMPRESSION_ERRORS,
    tarfile.TarError,
    zipfile.BadZipFile,
    ValueError,
    NotImplementedError,  # a compression method that zipfile does not know
    RuntimeError,
)


def is_archive(path: bytes) -> bool:
    """Whether the name is that of an archive this module reads."""
    return os.fsdecode(path).lower().endswith(SUFFIXES)


def references(source: str, path: bytes, spool: IO[bytes], location: bytes, max_bytes: int) -> Iterator[Reference]:
    """Members of the archive `path` in the archive's order, after their bytes were appended to `spool`.

    The repository is the archive's name without suffix; of a wheel, the distribution, with its version as commit. A
    damaged archive gives its readable members and one more reference, named like the archive, with the reason.

    Args:
      source: entry of preprocess.sources.
      path: the archive.
      spool: open for appending, at its end.
      location: where workers will find the spool file.
      max_bytes: members of more bytes are recorded and not read.
    """
    name = file_name(path)
    lower = name.lower()
    suffix = next(s for s in sorted(SUFFIXES, key=len, reverse=True) if lower.endswith(s))
    common: dict[str, Any] = {"source": source, "repo": name[: -len(suffix)]}
    if suffix == ".whl":
        common |= _wheel(path, name)
    limit = FREE_BYTES + MAX_EXPANSION * os.path.getsize(path)
    seen: Counter[str] = Counter()
    try:
        members = _zip_members(path, max_bytes) if suffix in ZIP_SUFFIXES else _tar_members(path, suffix, max_bytes)
        for member, size, data, reason in members:
            seen[member] += 1
            # A tar file may hold a name twice; documents need names of their own.
            unique = (f"#{seen[member]}/" if seen[member] > 1 else "") + printable(member)
            limit -= size
            if limit < 0:
                raise ValueError(f"expands more than {MAX_EXPANSION}-fold")
            offset = spool.tell()
            spool.write(data or b"")
            yield Reference(
                "bytes" if data is not None else "none",
                **common,
                path=unique,
                size=size,
                location=location if data is not None else b"",
                offset=offset,
                length=len(data or b""),
                provenance=provenance(reader="archive", archive=name),
                reason=reason,
            )
    except _ERRORS as error:
        reason = f"damaged_archive: {error or type(error).__name__}"
        yield Reference(
            "none",
            **common,
            path=name,
            size=os.path.getsize(path),
            reason=reason,
            provenance=provenance(reader="archive"),
        )


Member = tuple[str, int, bytes | None, str | None]  # name, size, content, reason where there is no content


def _tar_members(path: bytes, suffix: str, max_bytes: int) -> Iterator[Member]:
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(open(path, "rb"))
        stream: Any = raw
        if suffix in (".tar.zst", ".tzst"):
            stream = stack.enter_context(decompressed(raw, ".zst"))
        archive = stack.enter_context(
            tarfile.open(fileobj=stream, mode="r|" if stream is not raw else "r|*", encoding="utf-8")
        )
        for member in archive:
            if member.isdir():
                continue
            if member.issym():
                yield member.name, 0, None, "symlink"
            elif not member.isreg():
                yield member.name, 0, None, "special_file"
            elif member.size > max_bytes:
                yield member.name, member.size, None, "too_large"
            else:
                file = archive.extractfile(member)
                data = file.read() if file else b""
                yield member.name, member.size, data, None


def _zip_members(path: bytes, max_bytes: int) -> Iterator[Member]:
    with zipfile.ZipFile(os.fsdecode(path)) as archive:
        for member in archive.infolist():
            if member.is_dir():
                continue
            if stat.S_ISLNK(member.external_attr >> 16):
                yield member.filename, 0, None, "symlink"
            elif member.flag_bits & 1:
                yield member.filename, member.file_size, None, "encrypted"
            elif member.file_size > max_bytes:
                yield member.filename, member.file_size, None, "too_large"
            else:
                try:
                    with archive.open(member) as file:
                        data = file.read(max_bytes + 1)
                    yield member.filename, len(data), data, None
                except _ERRORS as error:
                    yield member.filename, member.file_size, None, f"damaged_member: {type(error).__name__}"


def _wheel(path: bytes, name: str) -> dict[str, Any]:
    """Repository, commit and licence of a wheel, as far as its name and metadata tell."""
    pieces = name.removesuffix(".whl").split("-")
    facts: dict[str, Any] = {"repo": canonicalize_name(pieces[0]), "commit": pieces[1] if len(pieces) > 1 else None}
    with contextlib.suppress(*_ERRORS), zipfile.ZipFile(os.fsdecode(path)) as archive:
        entry = next((n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n)), None)
        if entry:
            with archive.open(entry) as file:
                facts["licence"] = licence_of(email.message_from_bytes(file.read(1 << 20)))
    return facts


def decompressed(raw: IO[bytes], suffix: str) -> Any:
    """A stream of the bytes in `raw`, which `suffix` (.gz, .zst or another) says how to decompress."""
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=raw)
    if suffix == ".zst":
        return zstandard.ZstdDecompressor(max_window_size=1 << 31).stream_reader(raw, read_across_frames=True)
    return raw
