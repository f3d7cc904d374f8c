"""Runs programs that nobody has read, each in processes and a set of namespaces of its own.

Four processes take part, from the outside in:

    caller ── launcher ── supervisor ── program
              (rung)      (holds the verdict and the tests)

The launcher is the rung of the ladder that this machine allows: ``bwrap`` (bubblewrap, where it is on PATH),
``namespaces`` (the same walls built with the standard library, see sandbox_namespaces.py), or ``none`` (resource limits
and the system-call filter only), which must be asked for with ``allow_unsandboxed``. Behind the first two a program
sees an empty, bounded /tmp, the interpreter and /usr read-only, no network, no environment and no process of others.
Two supervisors share these walls:

`run` (sandbox_calls.py) is for Python. A program may start threads but no processes. The supervisor forks it before it
learns the per-run random token, so the program can't find the token in its memory; the caller believes only a verdict
that carries it. With `check`, the tests run in the supervisor and reach the program's function through a pipe that
passes plain values alone: objects that equal everything, walked frames, early exits and printed success are worth
nothing. Without `check` the program shares its process with whatever it asserts, and "ok" means just that it says it
has reached its end: don't score with it.

`run_commands` (sandbox_commands.py) is for every language: files, then commands that compile and run them, which may
start processes and talk to each other over a local network of their own. Tests share the program's process, so what
such a program does to its own test code is not prevented; that it has run to its end is checked by a per-run random
string which the last line of the tests prints.

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
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

Rung = Literal["bwrap", "namespaces", "none"]
Status = Literal["ok", "error", "timeout", "memory", "refused"]

OUTPUT_BYTES = 64 << 10  # of standard output and of standard error; the rest is read and thrown away
DISK_BYTES = 64 << 20  # of /tmp
THREADS = 64
COMMANDS_DISK_BYTES = 512 << 20  # compilers leave more behind
COMMANDS_PROCESSES = 256  # and threads
SENTINEL = "@SENTINEL@"  # stands in a program where the random string goes
TOOLCHAINS = "/toolchains"
_CAP_SYS_ADMIN = 21
_HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one program.

    status: "ok" — reached its end, and no test failed; "error" — raised, failed a test or ended early;
        "timeout" — CPU or wall limit; "memory" — memory limit; "refused" — not run, there is no sandbox here.
    detail: one line on why the status isn't "ok". cpu_seconds: user and system time of the program's processes.
    """

    status: Status
    stdout: str = ""
    stderr: str = ""
    detail: str = ""
    cpu_seconds: float = 0.0
    rung: Rung | None = None


@dataclasses.dataclass(frozen=True)
class Step:
    """A command. ``python`` in argv is the interpreter, ``{name}`` the folder of that name; CPU time in seconds."""

    argv: tuple[str, ...]
    cpu_seconds: int
    stdin: bytes | None = None


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
    _check_names(files or {})
    settings = (cpu_seconds, memory_bytes, DISK_BYTES, THREADS)
    payload = (program, dict(files or {}), check, entry_point)
    return _climb(_Request("sandbox_calls.py", settings, payload, wall_seconds), rung(), allow_unsandboxed)


def run_commands(
    steps: Sequence[Step],
    *,
    files: Mapping[str, bytes],
    wall_seconds: float,
    memory_bytes: int,
    folders: Mapping[str, str] | None = None,
    allow_unsandboxed: bool = False,
) -> Outcome:
    """Runs `steps` one after the other, as long as they exit with 0, in a directory that holds `files`.

    Where a file holds SENTINEL, the last step must also print what stands there. folders, name → directory here, are
    visible read-only. wall_seconds bounds the whole run, memory_bytes what the processes of a step use together, and
    what each may map for writing. Raises as `run` does.
    """
    _check_names(files)
    sentinel = secrets.token_hex(16).encode()
    holds = any(SENTINEL.encode() in data for data in files.values())
    filled = {name: data.replace(SENTINEL.encode(), sentinel) for name, data in files.items()}
    settings = (memory_bytes, COMMANDS_DISK_BYTES, COMMANDS_PROCESSES)
    given = [(step.argv, step.cpu_seconds, step.stdin) for step in steps]
    payload = (sentinel if holds else b"", filled, given)
    request = _Request("sandbox_commands.py", settings, payload, wall_seconds, dict(folders or {}))
    return _climb(request, rung(commands=True), allow_unsandboxed)


def _check_names(files: Mapping[str, bytes]) -> None:
    for name in files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"file name {name!r} must be relative and stay in the working directory")


@functools.cache
def rung(commands: bool = False) -> Rung | None:
    """The first rung of the ladder on which a trial program, or command, runs here; None if there is none."""
    if commands:
        step = (("python", "-S", "-c", "open('/proc/self/stat')"), 5, None)
        trial = _Request("sandbox_commands.py", (512 << 20, 1 << 20, 64), (b"", {}, [step]), 30.0)
    else:
        trial = _Request("sandbox_calls.py", (5, 512 << 20, 1 << 20, THREADS), ("pass", {}, None, ""), 30.0)
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
    supervisor: str  # file beside this one
    settings: tuple[int, ...]
    payload: tuple[Any, ...]
    wall_seconds: float
    folders: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def commands(self) -> bool:
        return self.supervisor == "sandbox_commands.py"


def _climb(request: _Request, ladder_rung: Rung | None, allow_unsandboxed: bool) -> Outcome:
    if ladder_rung is None and not allow_unsandboxed:
        return Outcome("refused", detail="no sandbox here: install bubblewrap, or set allow_unsandboxed")
    return _run(request, ladder_rung or "none")


def _run(request: _Request, ladder_rung: Rung) -> Outcome:
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="sandbox-") as scratch, tempfile.TemporaryFile() as payload:
        # a file, not a pipe: nobody has to write while the launcher starts
        pickle.dump((token, *_placed(request, ladder_rung)), payload)
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


def _placed(request: _Request, ladder_rung: Rung) -> tuple[Any, ...]:
    """The payload, with the names of folders in commands replaced by where they lie."""
    if not request.commands:
        return request.payload
    sentinel, files, steps = request.payload
    places = {n: path if ladder_rung == "none" else f"{TOOLCHAINS}/{n}" for n, path in request.folders.items()}

    def placed(part: str) -> str:
        for name, place in places.items():
            part = part.replace(f"{{{name}}}", place)
        return part

    return sentinel, files, [(list(map(placed, argv)), *rest) for argv, *rest in steps]


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
    *settings, processes = request.settings
    settings += [0 if ladder_rung == "none" else processes, uid, verdict_fd]
    if request.commands:
        settings.append(int(ladder_rung != "none"))
    # -P -s -S: nothing but the standard library is importable; the environment is ours, hash seed included.
    flags = ["-P", "-s", "-S", "-B", "-X", "utf8", "-c"]
    inside = [*flags, _source("sandbox_confine.py") + _source(request.supervisor), *map(str, settings)]
    if ladder_rung == "none":
        return [sys.executable, *inside]
    command = [f"/python/{_interpreter().relative_to(sys.base_prefix)}", *inside]
    binds = [*_visible(request.commands), *((path, f"{TOOLCHAINS}/{name}") for name, path in request.folders.items())]
    disk_bytes = str(request.settings[-2])
    if ladder_rung == "bwrap":
        return [
            shutil.which("bwrap") or "bwrap",
            *_bwrap_flags(privileged, request.commands, binds, disk_bytes),
            *command,
        ]
    namespaces = [scratch, disk_bytes, str(int(privileged)), str(os.getpid()), str(int(request.commands))]
    pairs = [f"{source}={target}" for source, target in binds]
    return [sys.executable, *flags, _source("sandbox_namespaces.py"), *namespaces, *pairs, "--", *command]


def _bwrap_flags(privileged: bool, commands: bool, binds: list[tuple[str, str]], disk_bytes: str) -> list[str]:
    flags = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    # As root without a user namespace: there uid 0 maps to itself, and the kernel exempts it from RLIMIT_NPROC.
    flags += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"] if privileged else ["--unshare-user"]
    flags += ["--die-with-parent", "--new-session", "--clearenv"]
    flags += ["--setenv", "LD_LIBRARY_PATH", "/python/lib", "--setenv", "PYTHONHASHSEED", "0"]
    for folder in ("/dev", "/etc", TOOLCHAINS):  # bwrap would make them for the owner alone
        flags += ["--perms", "0755", "--dir", folder]
    for source, target in binds:
        flags += ["--ro-bind", source, target]
    for device in ("null", "zero", "random", "urandom"):
        flags += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    flags += ["--perms", "1777", "--size", disk_bytes, "--tmpfs", "/tmp"]
    if commands:
        flags += ["--proc", "/proc", "--symlink", "/proc/self/fd", "/dev/fd", "--symlink", "/tmp", "/dev/shm"]
    return [*flags, "--remount-ro", "/", "--chdir", "/tmp"]


@functools.cache
def _visible(commands: bool) -> tuple[tuple[str, str], ...]:
    """(path here, path inside) of what a program may read. The interpreter moves: it may lie in someone's home."""
    paths = ["/usr", "/lib", "/lib32", "/lib64", "/bin", "/etc/ld.so.cache"]
    if commands:  # what programs of Debian's packages look for
        paths += ["/etc/alternatives", *map(str, sorted(Path("/etc").glob("java-*-openjdk")))]
        paths += ["/etc/mono", "/etc/php", "/etc/R", "/etc/mime.types"]
    system = [(os.path.realpath(path), path) for path in paths if os.path.exists(path)]
    if commands:
        system.append((str(_HERE / "sandbox_hosts"), "/etc/hosts"))
    return *system, (os.path.realpath(sys.base_prefix), "/python")


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
