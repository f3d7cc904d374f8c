"""What can be said of sources without reading them: so that a change is noticed before a finished stage is skipped."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from data_prep.sources import environment

_GIT_FILES = (b"HEAD", b"packed-refs", b"refs/heads")  # these change with a commit, the rest of .git with a look at it


def of_environment(requirements: Path) -> str:
    """Digest of the interpreter's version and of the names and versions of the distributions."""
    found = sorted(f"{d.name} {d.version}" for d in environment.closure(requirements))
    return _digest(line.encode() for line in [platform.python_version(), *found])


def of_path(path: str, skip: str) -> str:
    """Digest of names, sizes and modification times of a file, or of all files below a directory but `skip`."""
    return _digest(_facts(os.fsencode(os.path.expanduser(path)), os.fsencode(skip)))


def _facts(top: bytes, skip: bytes) -> Iterator[bytes]:
    if not os.path.isdir(top):
        yield _fact(top, b"")
        return
    for directory, subdirectories, files in os.walk(top):
        subdirectories[:] = sorted(d for d in subdirectories if os.path.abspath(os.path.join(directory, d)) != skip)
        if b".git" in subdirectories:
            subdirectories.remove(b".git")
            for name in _GIT_FILES:
                yield from _facts(os.path.join(directory, b".git", name), skip)
        for name in sorted(files):
            location = os.path.join(directory, name)
            yield _fact(location, os.path.relpath(location, top))


def _fact(location: bytes, name: bytes) -> bytes:
    try:
        status = os.lstat(location)
    except OSError:
        return name
    return b"%s\0%d\0%d" % (name, status.st_size, status.st_mtime_ns)


def _digest(lines: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line + b"\n")
    return digest.hexdigest()
