"""Git repositories, bare or with a working tree: the files of HEAD, each with the time of its last commit."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Generator, Iterator, Sequence

from data_prep.sources.reference import Reference, printable, provenance

# A repository is foreign data: nothing it configures may run, fetch or ask.
_OPTIONS = ("--no-replace-objects", "-c", "safe.directory=*", "-c", "core.fsmonitor=false")
_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
}
_MODES = {"120000": "symlink", "160000": "submodule"}


class GitError(Exception):
    """Git cannot read a repository; the text is what it says."""


def is_repository(directory: bytes) -> bool:
    """Whether `directory` is the top of a working tree or a bare repository."""
    if os.path.lexists(os.path.join(directory, b".git")):
        return True
    return os.path.isfile(os.path.join(directory, b"HEAD")) and all(
        os.path.isdir(os.path.join(directory, name)) for name in (b"objects", b"refs")
    )


def references(source: str, repo: str, directory: bytes) -> Iterator[Reference]:
    """Files committed at HEAD, in git's order.

    Raises:
      GitError: git is not installed, or the repository has no readable HEAD; raised before anything is yielded.
    """
    commit = _run(directory, "rev-parse", "--verify", "HEAD^{commit}").decode().strip()
    entries = _run(directory, "ls-tree", "-r", "-z", "-l", "--full-tree", commit).split(b"\0")[:-1]
    times = _last_commit_times(directory, commit)
    newest = max(times.values(), default=None)
    url = _url(directory)
    for entry in entries:
        fields, _, path = entry.partition(b"\t")
        mode, _, blob, size = fields.decode().split()
        yield Reference(
            "none" if mode in _MODES else "git",
            source,
            repo,
            printable(path),
            size=int(size) if size.isdigit() else 0,
            location=directory,
            key=blob,
            url=url,
            commit=commit,
            commit_time=times.get(path, newest),
            provenance=provenance(reader="git", blob=blob),
            reason=_MODES.get(mode),
        )


def read(repository: bytes, blobs: Sequence[str]) -> Generator[bytes | None, None, None]:
    """Yields the content of each blob, or None for one that is damaged or missing."""
    process = None
    try:
        for blob in blobs:
            process = process or _cat_file(repository)
            assert process.stdin and process.stdout
            header: list[bytes] = []
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(blob.encode() + b"\n")
                process.stdin.flush()
                header = process.stdout.readline().split()
            if len(header) == 3:
                data = process.stdout.read(int(header[2]) + 1)[:-1]
                yield data if len(data) == int(header[2]) else None
            else:
                yield None
            if process.poll() is not None or not header:  # git ends at a corrupt object; the next one has a new process
                _end(process)
                process = None
    finally:
        if process:
            _end(process)


def _cat_file(repository: bytes) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        _command(repository, "cat-file", "--batch"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_environment(),
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    with contextlib.suppress(BrokenPipeError):
        process.communicate()


def _last_commit_times(directory: bytes, commit: str) -> dict[bytes, int]:
    """Path → latest committer time (seconds, UTC) of the commits that touched it."""
    log = ("log", "-z", "--no-renames", "--no-show-signature", "--no-ext-diff", "--format=/%ct", "--name-only", commit)
    times: dict[bytes, int] = {}
    time, follows_header = 0, False
    for token in _run(directory, *log).split(b"\0"):
        if token.startswith(b"/"):  # a path in git never does
            time, follows_header = int(token[1:]), True
        elif token:
            path = token.removeprefix(b"\n") if follows_header else token
            times[path] = max(time, times.get(path, time))
            follows_header = False
    return times


def _url(directory: bytes) -> str | None:
    """Where the repository was cloned from, without user name and password."""
    try:
        url = _run(directory, "config", "--get", "remote.origin.url").decode("utf-8", "replace").strip()
    except GitError:
        return None
    if not re.match(r"(https?|ssh|git)://|[\w.-]+@[\w.-]+:", url):
        return None  # a path on this machine
    return re.sub(r"^(\w+://)[^/@]*@", r"\1", url)


def _command(directory: bytes, *arguments: str) -> list[bytes]:
    # The explicit --git-dir keeps git from taking a repository further up where this one is damaged.
    inner = os.path.join(directory, b".git")
    git_dir = inner if os.path.lexists(inner) else directory
    return [b"git", b"--git-dir=" + git_dir, *map(os.fsencode, (*_OPTIONS, *arguments))]


def _environment() -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return {**inherited, **_ENVIRONMENT}


def _run(directory: bytes, *arguments: str) -> bytes:
    try:
        done = subprocess.run(_command(directory, *arguments), capture_output=True, env=_environment(), check=False)
    except FileNotFoundError as error:
        raise GitError("git is not installed") from error
    if done.returncode:
        message = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise GitError(message[-1] if message else f"git {arguments[0]} fails")
    return done.stdout
