"""The supervisor of commands: compiles and runs a program of any language, watches it and writes the verdict.

    python -c <sandbox_confine.py + this text> MEMORY_BYTES DISK_BYTES PROCESSES UID VERDICT_FD CONTAINED < payload

The payload is a pickle of (token, sentinel, files, steps), a step being (argv, CPU seconds, standard input). The CPU
time and the memory of all processes of a step are added up from /proc, as run-time systems that reserve far more
address space than they use can't live with a limit on that. What a step leaves running is killed before the next one.

The verdict is "ok" when every step exits with 0 and the last one has written the sentinel: a random string that the
tests print at their end, so that a program which exits early, with whatever code, hasn't passed. As it stands in the
program's text or binary, a program made to look for it there can print it.
"""

import _pickle as pickle
import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # there is no package inside
    from oc_jax.evals.sandbox_confine import (
        AF_INET,
        AF_INET6,
        AF_UNIX,
        PR_SET_CHILD_SUBREAPER,
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

OUTPUT_BYTES = 1 << 20  # of a step's standard output, and error, that go on to the caller
LOOK_MILLISECONDS = 20
TICKS = os.sysconf("SC_CLK_TCK")
ENVIRONMENT = {
    "PATH": f"{os.path.dirname(sys.executable)}:/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp",
    "TMPDIR": "/tmp",
    "LANG": "C.UTF-8",
    "GOCACHE": "/tmp/.go",
    "GOFLAGS": "-mod=mod",
    "GO111MODULE": "off",
    "LD_LIBRARY_PATH": "/python/lib",
    "PYTHONHASHSEED": "0",
}


def cpu_and_memory(pids):
    """(seconds, bytes) used by the given processes and those they waited for; one that has gone counts as nothing."""
    seconds, memory = 0.0, 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            with open(f"/proc/{pid}/status", "rb") as file:
                lines = file.read().splitlines()
        except OSError:
            continue
        seconds += sum(map(int, fields[11:15])) / TICKS
        memory += sum(int(line.split()[1]) << 10 for line in lines if line.startswith((b"RssAnon", b"RssShmem")))
    return seconds, memory


def others():
    """All processes in here but the first and this one."""
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if pid not in (1, os.getpid())]


def reap(child):
    """(CPU seconds of the children that have ended, the status of `child` if it is one of them)."""
    used, status = 0.0, None
    while True:
        try:
            pid, code, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return used, status
        if pid == 0:
            return used, status
        used += usage.ru_utime + usage.ru_stime
        if pid == child:
            status = code


def start(argv, memory_bytes, cpu_seconds, contained, stdin_fd, output, error):
    """Forks a step's first process."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    for fd, target in ((stdin_fd, 0), (output, 1), (error, 2)):
        os.dup2(fd, target)
    os.closerange(3, 1 << 10)
    limit(CPU=cpu_seconds, DATA=memory_bytes)
    families = (AF_UNIX, AF_INET, AF_INET6) if contained else (AF_UNIX,)
    try:
        confine_for_good(processes=True, families=families)
        os.execvpe(argv[0], argv, ENVIRONMENT)
    except OSError as failure:
        os.write(2, f"{argv[0]}: {failure}\n".encode())
    os._exit(127)


class Stream:
    """A step's output: its beginning goes on to `target`, all of it is searched for the sentinel."""

    def __init__(self, fd, target, sentinel):
        self.fd, self.target, self.sentinel = fd, target, sentinel
        self.room, self.last, self.seen = OUTPUT_BYTES, b"", False

    def forward(self):
        """False at the end."""
        data = os.read(self.fd, 1 << 16)
        self.last += data
        self.seen = self.seen or self.sentinel in self.last
        self.last = self.last[len(self.last) - len(self.sentinel) :]
        kept, self.room = data[: self.room], max(0, self.room - len(data))
        while kept:
            kept = kept[os.write(self.target, kept) :]
        return bool(data)


def run_step(step, sentinel, memory_bytes, contained):
    """(outcome, detail, CPU seconds, whether the sentinel was written) of one step; none of its processes is left."""
    argv, cpu_seconds, stdin = step
    with open("/dev/null" if stdin is None else ".stdin", "rb" if stdin is None else "w+b", buffering=0) as given:
        if stdin is not None:
            os.unlink(".stdin")
            given.write(stdin)
            given.seek(0)
        (output, output_end), (error, error_end) = os.pipe(), os.pipe()
        child = start(argv, memory_bytes, cpu_seconds, contained, given.fileno(), output_end, error_end)
    os.close(output_end)
    os.close(error_end)
    streams = {output: Stream(output, 1, sentinel), error: Stream(error, 2, sentinel)}
    poll = select.poll()
    for fd in (output, error, ended := os.pidfd_open(child)):
        poll.register(fd, select.POLLIN)
    used, status, verdict, looked = 0.0, None, None, 0.0
    while status is None:
        for fd, _ in poll.poll(LOOK_MILLISECONDS):
            if fd in streams and not streams[fd].forward():
                poll.unregister(fd)
        done, status = reap(child)
        used += done
        if status is None and time.monotonic() - looked > LOOK_MILLISECONDS / 1000:
            looked = time.monotonic()
            seconds, memory = cpu_and_memory(others() if contained else [child])
            if used + seconds > cpu_seconds:
                verdict = "timeout", f"CPU limit of {cpu_seconds:g} s"
            elif memory > memory_bytes:
                verdict = "memory", f"memory limit of {memory_bytes >> 20} MiB"
            if verdict:
                os.kill(child, SIGKILL)
                _, status, usage = os.wait4(child, 0)
                used += usage.ru_utime + usage.ru_stime
    used += end_all(child, contained)
    for fd, stream in streams.items():
        while select.select([fd], [], [], 0)[0] and stream.forward():  # not to the end: without walls some may live on
            pass
        os.close(fd)
    os.close(ended)
    if verdict is None and status != 0:
        verdict = cause_of_death(status, cpu_seconds, used)
    return *(verdict or ("ok", "")), used, streams[output].seen


def end_all(child, contained):
    """Kills what a step left behind; its CPU seconds."""
    try:
        if contained:
            os.kill(-1, SIGKILL)  # everyone here but process 1 and this one
        else:
            os.killpg(child, SIGKILL)
    except ProcessLookupError:
        pass
    used = 0.0
    while contained and others():
        used += reap(child)[0]
        time.sleep(0.0005)
    return used + reap(child)[0]


def main() -> None:
    memory_bytes, disk_bytes, processes, uid, verdict_fd, contained = settings()
    limit(FSIZE=disk_bytes, NOFILE=1 << 10, CORE=0)
    if contained:
        limit(NPROC=processes)
    drop_privileges(uid)
    check_call(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl(CHILD_SUBREAPER)")
    with os.fdopen(os.dup(0), "rb") as payload:
        token, sentinel, files, steps = pickle.load(payload)
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    check_call(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl(DUMPABLE)")
    os.write(verdict_fd, f"{token}\n".encode())
    os.set_inheritable(verdict_fd, False)
    lay_out(files)
    outcome, detail, used, seen = "ok", "", 0.0, False
    for number, step in enumerate(steps):
        argv = [sys.executable if part == "python" else part for part in step[0]]
        outcome, detail, seconds, seen = run_step((argv, *step[1:]), sentinel, memory_bytes, bool(contained))
        used += seconds
        if outcome != "ok":
            detail = f"{detail} ({' '.join(argv)})" if number < len(steps) - 1 else detail
            break
    if outcome == "ok" and sentinel and not seen:
        outcome, detail = "error", "ended before its tests did"
    os.write(verdict_fd, f"{token}\n{outcome}\n{used:.3f}\n{detail}".encode("utf-8", "replace"))


if __name__ == "__main__":
    main()
    os._exit(0)
