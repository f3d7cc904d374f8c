"""Runs Python programs that nobody has read, each in a process and a set of namespaces of its own.

Four processes take part, from the outside in:

    caller ── launcher ── supervisor ── program
              (rung)      (holds the verdict and the tests)

The launcher is the rung of the ladder that this machine allows: ``bwrap`` (bubblewrap, where it is on PATH),
``namespaces`` (the same walls built with the standard library, see sandbox_namespaces.py), or ``none`` (resource limits
and the system-call filter only), which must be asked for with ``allow_unsandboxed``. Behind the first two a program
sees an empty, bounded /tmp, the interpreter and /usr read-only, no network, no /proc, no environment and no other
process; on every rung it may start threads but no processes.

The supervisor (sandbox_inside.py) forks the program before it learns the per-run random token, so the program can't
find the token in its memory; the caller believes only a verdict that carries it. With `check`, the tests run in the
supervisor and reach the program's function through a pipe that passes plain values alone: objects that equal
everything, walked frames, early exits and printed success are worth nothing. Without `check` the program shares its
process with whatever it asserts, and "ok" means just that it says it has reached its end: don't score with it.

The caller is never forked (JAX has threads): the launcher is spawned.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pickle
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

Rung = Literal["bwrap", "namespaces", "none"]
Status = Literal["ok", "error", "timeout", "memory", "refused"]

OUTPUT_BYTES = 64 << 10  # of standard output and of standard error; the rest is read and thrown away
DISK_BYTES = 64 << 20  # of /tmp
THREADS = 64
_CAP_SYS_ADMIN = 21
_HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one program.

    status: "ok" — reached its end, and `check` raised nothing; "error" — raised, failed a check or ended early;
        "timeout" — CPU or wall limit; "memory" — MemoryError; "refused" — not run, there is no sandbox here.
    detail: one line on why the status isn't "ok". cpu_seconds: user and system time of the program's process.
    """

    status: Status
    stdout: str = ""
    stderr: str = ""
    detail: str = ""
    cpu_seconds: float = 0.0
    rung: Rung | None = None


def run(
    program: str,
    *,
    cpu_seconds: int,
    wall_seconds: float,
    memory_bytes: int,
    files: Mapping[str, bytes] | None = None,
    check: str | None = None,
    entry_point: str = "",
    allow_unsandboxed: bool = False,
) -> Outcome:
    """Runs `program`; with `check`, then runs that text in another process where ``candidate`` calls `entry_point`.

    cpu_seconds bounds the CPU time of the program (scores shouldn't depend on the machine's load), wall_seconds the
    whole run, memory_bytes its address space. files are laid into its working directory (relative names).
    Raises ValueError for a file name that leaves it, RuntimeError where the sandbox itself failed.
    """
    for name in files or {}:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"file name {name!r} must be relative and stay in the working directory")
    ladder_rung = rung()
    if ladder_rung is None:
        if not allow_unsandboxed:
            return Outcome("refused", detail="no sandbox here: install bubblewrap, or set allow_unsandboxed")
        ladder_rung = "none"
    request = _Request(program, cpu_seconds, wall_seconds, memory_bytes, dict(files or {}), check, entry_point)
    return _run(request, ladder_rung)


@functools.cache
def rung() -> Rung | None:
    """The first rung of the ladder on which a trial program runs on this machine; None if there is none."""
    trial = _Request("pass", 5, 30.0, 512 << 20, {}, None, "")
    rungs: tuple[Rung, ...] = ("bwrap", "namespaces") if shutil.which("bwrap") else ("namespaces",)
    for candidate in rungs:
        try:
            if _run(trial, candidate).status == "ok":
                return candidate
        except (RuntimeError, OSError):
            continue
    return None


@dataclasses.dataclass(frozen=True)
class _Request:
    program: str
    cpu_seconds: int
    wall_seconds: float
    memory_bytes: int
    files: dict[str, bytes]
    check: str | None
    entry_point: str


def _run(request: _Request, ladder_rung: Rung) -> Outcome:
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="sandbox-") as scratch, tempfile.TemporaryFile() as payload:
        # a file, not a pipe: nobody has to write while the launcher starts
        pickle.dump((token, request.program, request.files, request.check, request.entry_point), payload)
        payload.seek(0)
        verdict_read, verdict_write = os.pipe()
        try:
            process = subprocess.Popen(
                _command(request, ladder_rung, verdict_write, scratch),
                stdin=payload,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(verdict_write,),
                start_new_session=True,
                env={"PYTHONHASHSEED": "0"},
                cwd=scratch,
            )
        except BaseException:
            os.close(verdict_read)
            raise
        finally:
            os.close(verdict_write)
        stdout, stderr, verdict, finished = _collect(process, verdict_read, request.wall_seconds)
    return _outcome(request, ladder_rung, token, stdout, stderr, verdict, finished, process.returncode)


def _outcome(
    request: _Request,
    ladder_rung: Rung,
    token: str,
    stdout: bytes,
    stderr: bytes,
    verdict: bytes,
    finished: bool,
    returncode: int,
) -> Outcome:
    out, err = stdout.decode("utf-8", "replace"), stderr.decode("utf-8", "replace")
    fields = verdict.decode("utf-8", "replace").split("\n", 4)
    if not finished:
        detail = f"wall limit of {request.wall_seconds:g} s"
        return Outcome("timeout", out, err, detail, rung=ladder_rung)
    if fields[0] != token:  # the supervisor writes it before the program starts
        raise RuntimeError(f"sandbox rung {ladder_rung!r} did not start (exit code {returncode}): {err.strip()[-300:]}")
    if len(fields) < 5 or fields[1] != token:
        return Outcome("error", out, err, f"ended without a verdict (exit code {returncode})", rung=ladder_rung)
    status: Status = fields[2] if fields[2] in ("ok", "timeout", "memory") else "error"  # type: ignore[assignment]
    return Outcome(status, out, err, fields[4], float(fields[3]), ladder_rung)


def _collect(process: subprocess.Popen, verdict_fd: int, wall_seconds: float) -> tuple[bytes, bytes, bytes, bool]:
    """Reads the three pipes until all are closed or time is up, keeps OUTPUT_BYTES of each, leaves no process."""
    assert process.stdout and process.stderr
    kept = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray(), verdict_fd: bytearray()}
    deadline = time.monotonic() + wall_seconds
    try:
        with selectors.DefaultSelector() as selector:
            for fd in kept:
                selector.register(fd, selectors.EVENT_READ)
            while selector.get_map() and (left := deadline - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    chunk = os.read(key.fd, 1 << 16)
                    kept[key.fd] += chunk[: OUTPUT_BYTES - len(kept[key.fd])]
                    if not chunk:
                        selector.unregister(key.fd)
            finished = not selector.get_map()
    finally:
        if process.returncode is None:
            try:
                os.killpg(process.pid, signal.SIGKILL)  # takes the namespaces, and all in them, along
            except ProcessLookupError:
                pass
        process.wait()
        os.close(verdict_fd)
        process.stdout.close()
        process.stderr.close()
    stdout, stderr, verdict = (bytes(b) for b in kept.values())
    return stdout, stderr, verdict, finished


def _command(request: _Request, ladder_rung: Rung, verdict_fd: int, scratch: str) -> list[str]:
    """The launcher's command line, which ends in the supervisor's."""
    privileged = _has_sys_admin()
    # A user id of its own gives a program its own RLIMIT_NPROC count and nobody to signal. Only root can hand it out.
    uid = 1 << 30 | secrets.randbits(29) if privileged and ladder_rung != "none" else 0
    threads = 0 if ladder_rung == "none" else THREADS
    settings = [request.cpu_seconds, request.memory_bytes, DISK_BYTES, threads, uid, verdict_fd]
    # -P -s -S: nothing but the standard library is importable; the environment is ours, hash seed included.
    flags = ["-P", "-s", "-S", "-B", "-X", "utf8", "-c"]
    inside = [*flags, _source("sandbox_inside.py"), *map(str, settings)]
    if ladder_rung == "none":
        return [sys.executable, *inside]
    command = [f"/python/{_interpreter().relative_to(sys.base_prefix)}", *inside]
    if ladder_rung == "bwrap":
        return [shutil.which("bwrap") or "bwrap", *_bwrap_flags(privileged), *command]
    namespaces = [scratch, str(DISK_BYTES), str(int(privileged)), str(os.getpid())]
    binds = [f"{source}={target}" for source, target in _visible()]
    return [sys.executable, *flags, _source("sandbox_namespaces.py"), *namespaces, *binds, "--", *command]


def _bwrap_flags(privileged: bool) -> list[str]:
    flags = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    # As root without a user namespace: there uid 0 maps to itself, and the kernel exempts it from RLIMIT_NPROC.
    flags += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"] if privileged else ["--unshare-user"]
    flags += ["--die-with-parent", "--new-session", "--clearenv"]
    flags += ["--setenv", "LD_LIBRARY_PATH", "/python/lib", "--setenv", "PYTHONHASHSEED", "0"]
    for source, target in _visible():
        flags += ["--ro-bind", source, target]
    flags += ["--perms", "0755", "--dir", "/dev"]
    for device in ("null", "zero", "random", "urandom"):
        flags += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    return [
        *flags,
        "--perms",
        "1777",
        "--size",
        str(DISK_BYTES),
        "--tmpfs",
        "/tmp",
        "--remount-ro",
        "/",
        "--chdir",
        "/tmp",
    ]


@functools.cache
def _visible() -> tuple[tuple[str, str], ...]:
    """(path here, path inside) of what a program may read. The interpreter moves: it may lie in someone's home."""
    system = [p for p in ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/etc/ld.so.cache") if os.path.exists(p)]
    return (*((os.path.realpath(p), p) for p in system), (os.path.realpath(sys.base_prefix), "/python"))


@functools.cache
def _interpreter() -> Path:
    return Path(os.path.realpath(sys.executable))


@functools.cache
def _source(name: str) -> str:
    return (_HERE / name).read_text()


@functools.cache
def _has_sys_admin() -> bool:
    if os.geteuid() != 0:
        return False
    status = Path("/proc/self/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:")).split()[1]
    return bool(int(effective, 16) >> _CAP_SYS_ADMIN & 1)
