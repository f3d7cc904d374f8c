"""What the sandbox's inside does to itself and its programs: resource limits and the system-call filter.

Its text goes in front of sandbox_inside.py or sandbox_commands.py, and the whole is run with ``python -c``.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sys

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 36, 38
SECCOMP_MODE_FILTER, SIGKILL = 2, 9

# Refused because they make memory that no limit counts, privileges or trouble. (x86_64, aarch64); None: no such call.
DENIED: dict[str, tuple[int | None, int | None]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "msgget": (68, 186),
    "semget": (64, 190), "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "mount_setattr": (442, 442), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "open_by_handle_at": (304, 265),
}  # fmt: skip
FORKS = {"fork": (57, None), "vfork": (58, None)}
CLONE, SOCKET, CLONE3 = (56, 220), (41, 198), 435
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CLONE_THREAD, CLONE_NAMESPACES, X32_BIT = 0x10000, 0x7E020000, 0x40000000
AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10

libc = ctypes.CDLL(None, use_errno=True)


def check_call(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def seccomp_filter(machine: str, processes: bool, families: tuple[int, ...]) -> bytes:
    """BPF program: threads and, if so, processes; sockets of `families`; none of DENIED. Raises KeyError: machine."""
    column = list(AUDIT_ARCH).index(machine)
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    kill, allow, eperm, enosys = 0x80000000, 0x7FFF0000, 0x50000 | 1, 0x50000 | 38
    code: list[tuple[int, int, int, int]] = [(load, 0, 0, 4), (equal, 1, 0, AUDIT_ARCH[machine]), (give, 0, 0, kill)]
    code += [(load, 0, 0, 0), (at_least, 0, 1, X32_BIT), (give, 0, 0, eperm)]
    for number in (numbers[column] for numbers in (DENIED if processes else DENIED | FORKS).values()):
        if number is not None:
            code += [(equal, 0, 1, number), (give, 0, 0, eperm)]
    code += [(equal, 0, 1, CLONE3), (give, 0, 0, enosys)]  # its flags can't be seen from here; libc then uses clone
    flags = [(any_bit, 0, 1, CLONE_NAMESPACES), (give, 0, 0, eperm)]
    if not processes:
        flags += [(any_bit, 1, 0, CLONE_THREAD), (give, 0, 0, eperm)]
    code += [(equal, 0, len(flags) + 2, CLONE[column]), (load, 0, 0, 16), *flags, (give, 0, 0, allow)]
    allowed = [instruction for family in families for instruction in ((equal, 0, 1, family), (give, 0, 0, allow))]
    code += [(equal, 0, len(allowed) + 2, SOCKET[column]), (load, 0, 0, 16), *allowed, (give, 0, 0, eperm)]
    code.append((give, 0, 0, allow))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def limit(**limits: int) -> None:
    for name, value in limits.items():
        # the hard CPU limit kills a program that ignores the signal of the soft one
        hard = value + 1 if name == "CPU" else value
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, hard))


def drop_privileges(uid: int) -> None:
    """Takes the given user id (0: keeps its own), gives up all capabilities and the way to new ones."""
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    header, nothing = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    check_call(libc.capset(header, nothing), "capset")
    check_call(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(NO_NEW_PRIVS)")


def confine_for_good(processes: bool = False, families: tuple[int, ...] = (AF_UNIX,)) -> None:
    """What a process can't hand on to a fork, or would keep it from forking: death with its parent, the filter."""
    check_call(libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "prctl(PDEATHSIG)")
    code = ctypes.create_string_buffer(seccomp_filter(os.uname().machine, processes, families))
    program = struct.pack("@HP", (len(code) - 1) // 8, ctypes.addressof(code))
    check_call(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0), "prctl(SECCOMP)")


def cause_of_death(status: int, cpu_seconds: float, used: float) -> tuple[str, str]:
    import signal  # late, as few programs die

    if os.WIFEXITED(status):
        return "error", f"exited with code {os.WEXITSTATUS(status)} before its end"
    name = signal.Signals(os.WTERMSIG(status)).name
    if name == "SIGXCPU" or (name == "SIGKILL" and used >= cpu_seconds):
        return "timeout", f"CPU limit of {cpu_seconds:g} s"
    return "error", f"killed by {name}"


def lay_out(files: dict[str, bytes]) -> None:
    for name, data in files.items():
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        with open(name, "wb") as file:
            file.write(data)


def settings() -> list[int]:
    """The numbers on the command line; nothing of them, nor of the environment, stays for programs to see."""
    numbers = [int(argument) for argument in sys.argv[1:]]
    sys.argv = [""]
    os.environ.clear()
    return numbers
