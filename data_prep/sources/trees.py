"""Directories: their files, and the git repositories among them. Links are recorded and not followed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from data_prep.progress import LOGGER
from data_prep.sources import git
from data_prep.sources.reference import Reference, printable, provenance


def references(source: str, top: bytes, skip: bytes = b"") -> Iterator[Reference]:
    """Files under `top` in a fixed order, but those under the absolute path `skip`.

    A git repository anywhere in the tree gives the files of its HEAD. Elsewhere the repository of a file is
    <name of top>/<first directory>, or <name of top> for files that lie in `top` itself: a folder of projects then
    splits by project.
    """
    name = printable(os.path.basename(os.path.abspath(top)))
    if git.is_repository(top):
        try:
            yield from git.references(source, name, top)
            return
        except git.GitError as error:
            LOGGER.warning("%s: read as a plain directory, because %s", name, error)
    yield from _walk(source, name, top, skip)


def _walk(source: str, name: str, top: bytes, skip: bytes) -> Iterator[Reference]:
    errors: list[OSError] = []
    for directory, subdirectories, files in os.walk(top, onerror=errors.append):
        yield from _unreadable(source, name, top, errors)
        subdirectories[:] = sorted(d for d in subdirectories if os.path.join(directory, d) != skip)
        if b".git" in subdirectories:
            subdirectories.remove(b".git")
        if directory != top and git.is_repository(directory):
            try:
                yield from git.references(source, f"{name}/{printable(os.path.relpath(directory, top))}", directory)
                subdirectories.clear()
                continue
            except git.GitError as error:
                LOGGER.warning("%s: read as a plain directory, because %s", printable(directory), error)
        links = [entry for entry in subdirectories if os.path.islink(os.path.join(directory, entry))]
        for entry in sorted(files + links):
            yield _file(source, name, top, os.path.join(directory, entry))
    yield from _unreadable(source, name, top, errors)


def _unreadable(source: str, name: str, top: bytes, errors: list[OSError]) -> Iterator[Reference]:
    for error in errors:
        repo, path = _place(name, top, os.fsencode(error.filename))
        yield Reference("none", source, repo, path, reason=unreadable(error), provenance=provenance(reader="tree"))
    errors.clear()


def _place(name: str, top: bytes, location: bytes) -> tuple[str, str]:
    first, _, rest = printable(os.path.relpath(location, top)).partition("/")
    return (f"{name}/{first}", rest) if rest else (name, first)


def _file(source: str, name: str, top: bytes, location: bytes) -> Reference:
    repo, path = _place(name, top, location)
    facts = provenance(reader="tree")
    try:
        status = os.lstat(location)
    except OSError as error:
        return Reference("none", source, repo, path, reason=unreadable(error), provenance=facts)
    if stat.S_ISLNK(status.st_mode):
        return Reference("none", source, repo, path, reason="symlink", provenance=facts)
    if not stat.S_ISREG(status.st_mode):
        return Reference("none", source, repo, path, reason="special_file", provenance=facts)
    return Reference("bytes", source, repo, path, status.st_size, location=location, provenance=facts)


def unreadable(error: OSError) -> str:
    """The reason for a file that the system does not let us read, the same in every locale."""
    return f"unreadable: {errno.errorcode.get(error.errno or 0, 'EIO')}"
