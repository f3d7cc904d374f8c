"""The supervisor: what the sandbox's launcher runs. It limits itself, forks the program and writes the verdict.

    python -c <this text> CPU_SECONDS MEMORY_BYTES DISK_BYTES THREADS UID VERDICT_FD < payload

The payload is a pickle of (token, program, files, check, entry_point); see sandbox.py for the whole picture.
The order below matters: the program is forked off before the payload is read, so the token, the tests and the verdict's
pipe never exist in its process, and the supervisor isn't dumpable, so the program can't look into it.
"""

from __future__ import annotations

import _pickle as pickle  # its C half: the other imports `re`, which would double the start-up time
import ctypes
import io
import os
import resource
import struct
import sys

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
SECCOMP_MODE_FILTER, SIGKILL = 2, 9
MAX_MESSAGE_BYTES = 64 << 20

# Refused because they make processes, memory that no limit counts, or trouble. (x86_64, aarch64); None: no such call.
DENIED: dict[str, tuple[int | None, int | None]] = {
    "fork": (57, None), "vfork": (58, None), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "msgget": (68, 186),
    "semget": (64, 190), "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "mount_setattr": (442, 442), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "open_by_handle_at": (304, 265),
}  # fmt: skip
CLONE, SOCKET, CLONE3 = (56, 220), (41, 198), 435
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CLONE_THREAD, AF_UNIX, X32_BIT = 0x10000, 1, 0x40000000

libc = ctypes.CDLL(None, use_errno=True)


def check_call(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def seccomp_filter(machine: str) -> bytes:
    """BPF program: threads but no processes, local sockets but no network, none of DENIED. Raises KeyError: machine."""
    column = list(AUDIT_ARCH).index(machine)
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    kill, allow, eperm, enosys = 0x80000000, 0x7FFF0000, 0x50000 | 1, 0x50000 | 38
    code: list[tuple[int, int, int, int]] = [(load, 0, 0, 4), (equal, 1, 0, AUDIT_ARCH[machine]), (give, 0, 0, kill)]
    code += [(load, 0, 0, 0), (at_least, 0, 1, X32_BIT), (give, 0, 0, eperm)]
    for number in (numbers[column] for numbers in DENIED.values()):
        if number is not None:
            code += [(equal, 0, 1, number), (give, 0, 0, eperm)]
    code += [(equal, 0, 1, CLONE3), (give, 0, 0, enosys)]  # its flags can't be seen from here; libc then uses clone
    for number, test, value in ((CLONE[column], any_bit, CLONE_THREAD), (SOCKET[column], equal, AF_UNIX)):
        code += [(equal, 0, 4, number), (load, 0, 0, 16), (test, 0, 1, value), (give, 0, 0, allow), (give, 0, 0, eperm)]
    code.append((give, 0, 0, allow))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def confine(cpu_seconds: int, memory_bytes: int, disk_bytes: int, threads: int, uid: int) -> None:
    """Resource limits, the given user id (0: keep), and no way to privileges."""
    limits = {"CPU": cpu_seconds, "AS": memory_bytes, "FSIZE": disk_bytes, "NOFILE": 128, "CORE": 0}
    if threads:
        limits["NPROC"] = threads
    for name, value in limits.items():
        # the hard CPU limit kills a program that ignores the signal of the soft one
        hard = value + 1 if name == "CPU" else value
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, hard))
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    header, nothing = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    check_call(libc.capset(header, nothing), "capset")
    check_call(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(NO_NEW_PRIVS)")


def confine_for_good() -> None:
    """What a process can't hand on to a fork, or would keep it from forking: death with its parent, the filter."""
    check_call(libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "prctl(PDEATHSIG)")
    code = ctypes.create_string_buffer(seccomp_filter(os.uname().machine))
    program = struct.pack("@HP", (len(code) - 1) // 8, ctypes.addressof(code))
    check_call(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0), "prctl(SECCOMP)")


class ProgramDied(BaseException):
    """The program's end of the channel is closed. (Not an Exception: tests may catch those.)"""


class ProgramError(Exception):
    """What the program raised, as (status, detail) in its own words."""


class PlainUnpickler(pickle.Unpickler):
    """Reads values made of built-in types only, so that nothing the program sends can run or pretend here."""

    def find_class(self, module, name):
        if (module, name) == ("builtins", "complex"):
            return complex
        raise pickle.UnpicklingError(f"{module}.{name} is not plain data")


class Channel:
    """Two pipes that carry plain values between the supervisor and the program."""

    def __init__(self, read_fd: int, write_fd: int):
        self.read_fd, self.write_fd = read_fd, write_fd

    def send(self, value) -> None:
        data = pickle.dumps(value, 4)
        data = memoryview(len(data).to_bytes(8, "little") + data)
        try:
            while data:
                data = data[os.write(self.write_fd, data) :]
        except BrokenPipeError:
            raise ProgramDied from None

    def receive(self):
        """The next value. Raises ProgramDied when the other side has gone, UnpicklingError for unplain data."""
        length = int.from_bytes(self._read(8), "little")
        if length > MAX_MESSAGE_BYTES:
            raise pickle.UnpicklingError(f"an answer of {length} bytes")
        return PlainUnpickler(io.BytesIO(self._read(length))).load()

    def _read(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            chunk = os.read(self.read_fd, length - len(data))
            if not chunk:
                raise ProgramDied
            data += chunk
        return bytes(data)


def plain(value):
    """`value` in built-in types that equal it: the tests see no class of the program's. Raises TypeError if none do."""
    if value is None or isinstance(value, bool):
        return value
    for scalar in (int, float, complex, str, bytes):
        if isinstance(value, scalar):
            return scalar(value)  # type: ignore[arg-type]
    if isinstance(value, bytearray):
        return bytes(value)
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return kind(plain(item) for item in value)
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, type({}.keys()) | type({}.items())):
        return {plain(item) for item in value}
    if type(value).__module__ in ("decimal", "fractions") and value == float(value):
        return float(value)
    raise TypeError(f"returned {type(value).__name__}, which is not plain data")


def describe(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500].removesuffix(":")


def serve(channel: Channel) -> None:
    """The program's process: runs it, then calls its entry point with whatever arguments the tests have."""
    name, source, entry_point = channel.receive()
    module = sys.modules[name] = type(sys)(name)

    def attempt(action) -> None:
        try:
            reply = ("value", action())
        except BaseException as error:  # SystemExit too: a program that leaves early has not reached its end
            reply = ("memory" if isinstance(error, MemoryError) else "error", describe(error))
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:  # the program may have closed or replaced it
                pass
        channel.send(reply)

    attempt(lambda: exec(compile(source, "<program>", "exec"), module.__dict__))
    while True:
        args, kwargs = channel.receive()
        attempt(lambda args=args, kwargs=kwargs: plain(getattr(module, entry_point)(*args, **kwargs)))


def answer(channel: Channel):
    """The value the program answers with. Raises ProgramError, ProgramDied."""
    kind, value = channel.receive()
    if kind != "value":
        # Whatever it says, an answer that is no value must not become a success.
        raise ProgramError("memory" if kind == "memory" else "error", str(value)[:500])
    return value


def candidate(channel: Channel):
    """The program's entry point as the tests see it: a call goes through the channel."""

    def call(*args, **kwargs):
        channel.send((args, kwargs))
        return answer(channel)

    return call


def judge(channel: Channel, program: str, check: str | None, entry_point: str) -> tuple[str, str]:
    """(status, detail) of a program that is still alive. Raises ProgramDied if it isn't."""
    channel.send(("__main__" if check is None else "solution", program, entry_point))
    try:
        answer(channel)
        if check is not None:
            exec(compile(check, "<check>", "exec"), {"__name__": "check", "candidate": candidate(channel)})
    except ProgramError as error:
        return error.args
    except ProgramDied:
        raise
    except BaseException as error:
        return "error", describe(error) + failed_line(error, check or "")
    return "ok", ""


def failed_line(error: BaseException, check: str) -> str:
    lines, trace, number = check.splitlines(), error.__traceback__, 0
    while trace:
        if trace.tb_frame.f_code.co_filename == "<check>":
            number = trace.tb_lineno
        trace = trace.tb_next
    return f" at {lines[number - 1].strip()[:200]}" if 0 < number <= len(lines) else ""


def cause_of_death(status: int, cpu_seconds: int, used: float) -> tuple[str, str]:
    import signal  # late, as few programs die

    if os.WIFEXITED(status):
        return "error", f"exited with code {os.WEXITSTATUS(status)} before its end"
    name = signal.Signals(os.WTERMSIG(status)).name
    if name == "SIGXCPU" or (name == "SIGKILL" and used >= cpu_seconds):
        return "timeout", f"CPU limit of {cpu_seconds} s"
    return "error", f"killed by {name}"


def supervise(channel: Channel, program_pid: int, verdict_fd: int, cpu_seconds: int) -> None:
    check_call(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl(DUMPABLE)")
    token, program, files, check, entry_point = pickle.load(os.fdopen(0, "rb"))
    os.write(verdict_fd, f"{token}\n".encode())
    for name, data in files.items():
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        with open(name, "wb") as file:
            file.write(data)
    verdict = None
    try:
        verdict = judge(channel, program, check, entry_point)
    except ProgramDied:
        pass
    os.kill(program_pid, SIGKILL)  # also where it has merely closed the channel; an earlier death keeps its status
    _, status, usage = os.wait4(program_pid, 0)
    used = usage.ru_utime + usage.ru_stime
    outcome, detail = verdict or cause_of_death(status, cpu_seconds, used)
    os.write(verdict_fd, f"{token}\n{outcome}\n{used:.3f}\n{detail}".encode("utf-8", "replace"))


def main() -> None:
    cpu_seconds, memory_bytes, disk_bytes, threads, uid, verdict_fd = map(int, sys.argv[1:])
    sys.argv = [""]
    os.environ.clear()
    confine(cpu_seconds, memory_bytes, disk_bytes, threads, uid)
    requests, answers = os.pipe(), os.pipe()
    pid = os.fork()
    confine_for_good()
    if pid == 0:
        for fd in (requests[1], answers[0], verdict_fd):
            os.close(fd)
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)  # the payload goes
        serve(Channel(requests[0], answers[1]))
    else:
        os.close(requests[0])
        os.close(answers[1])
        supervise(Channel(answers[0], requests[1]), pid, verdict_fd, cpu_seconds)


if __name__ == "__main__":
    main()
    os._exit(0)
