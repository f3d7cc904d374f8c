"""The supervisor of Python programs: limits itself, forks the program and writes the verdict.

    python -c <sandbox_confine.py + this text> CPU_SECONDS MEMORY_BYTES DISK_BYTES THREADS UID VERDICT_FD < payload

The payload is a pickle of (token, program, files, check, entry_point); see sandbox.py for the whole picture.
The order below matters: the program is forked off before the payload is read, so the token, the tests and the verdict's
pipe never exist in its process, and the supervisor isn't dumpable, so the program can't look into it.
"""

import _pickle as pickle  # its C half: the other imports `re`, which would double the start-up time
import io
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # there is no package inside
    from oc_jax.evals.sandbox_confine import (
        PR_SET_DUMPABLE,
        SIGKILL,
        cause_of_death,
        check_call,
        confine_for_good,
        drop_privileges,
        lay_out,
        libc,
        limit,
        settings,
    )

MAX_MESSAGE_BYTES = 64 << 20


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

    # Not with the future features of this module, under which annotations are not evaluated.
    attempt(lambda: exec(compile(source, "<program>", "exec", dont_inherit=True), module.__dict__))
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
            names = {"__name__": "check", "candidate": candidate(channel)}
            exec(compile(check, "<check>", "exec", dont_inherit=True), names)
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


def supervise(channel: Channel, program_pid: int, verdict_fd: int, cpu_seconds: int) -> None:
    check_call(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl(DUMPABLE)")
    token, program, files, check, entry_point = pickle.load(os.fdopen(0, "rb"))
    os.write(verdict_fd, f"{token}\n".encode())
    lay_out(files)
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
    cpu_seconds, memory_bytes, disk_bytes, threads, uid, verdict_fd = settings()
    limit(CPU=cpu_seconds, AS=memory_bytes, FSIZE=disk_bytes, NOFILE=128, CORE=0)
    if threads:
        limit(NPROC=threads)
    drop_privileges(uid)
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
