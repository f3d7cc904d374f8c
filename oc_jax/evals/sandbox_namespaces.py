"""Bubblewrap's walls from the standard library: the sandbox's launcher where ``bwrap`` is not installed.

    python -c <this text> ROOT DISK_BYTES PRIVILEGED PARENT_PID COMMANDS SOURCE=TARGET … -- COMMAND …

makes namespaces (user unless PRIVILEGED; mount, pid, network, ipc, uts, cgroup), a root file system on ROOT that holds
nothing but the given folders, read-only, and a /tmp of DISK_BYTES, and runs COMMAND in it. With COMMANDS 1 there are
also /proc and a network of its own that reaches nothing but itself. Linux ≥ 5.12.
"""

from __future__ import annotations

import ctypes
import os
import sys

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
MNT_DETACH, AT_RECURSIVE, PR_SET_PDEATHSIG, SIGKILL = 2, 0x8000, 1, 9
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID = 1, 2
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
SYS_MOUNT_SETATTR = 442  # the same number on every architecture
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> None:
    if getattr(libc, name)(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    call("mount", source.encode(), target.encode(), kind and kind.encode(), ctypes.c_ulong(flags), options.encode())


def make_read_only(target: str, recursive: bool = True) -> None:
    """mount_setattr, not a remount: that would have to repeat each flag the kernel has locked."""
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, 0, 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    call("syscall", SYS_MOUNT_SETATTR, -1, target.encode(), flags, ctypes.byref(attributes), ctypes.sizeof(attributes))


def unshare(privileged: bool) -> None:
    uid, gid = os.getuid(), os.getgid()
    flags = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
    call("unshare", flags if privileged else flags | CLONE_NEWUSER)
    if not privileged:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def build_root(root: str, disk_bytes: int, processes: bool, binds: list[tuple[str, str]]) -> None:
    """Lays the new root out on `root` and moves into it; nothing of the old one stays reachable."""
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    devices = [(f"/dev/{name}", f"/dev/{name}") for name in ("null", "zero", "random", "urandom")]
    for source, target in binds + devices:
        place = root + target
        if os.path.isdir(source):
            os.makedirs(place, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(place), exist_ok=True)
            open(place, "w").close()
        mount(source, place, None, MS_BIND | MS_REC)
        if (source, target) in binds:
            make_read_only(place)
    if processes:
        os.mkdir(f"{root}/proc")
        mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        os.symlink("/proc/self/fd", f"{root}/dev/fd")
        os.symlink("/tmp", f"{root}/dev/shm")
    os.mkdir(f"{root}/tmp")
    mount("tmpfs", f"{root}/tmp", "tmpfs", MS_NOSUID | MS_NODEV, f"mode=1777,size={disk_bytes}")
    os.chdir(root)
    call("syscall", SYS_PIVOT_ROOT[os.uname().machine], b".", b".")  # the old root now lies on top of the new one
    call("umount2", b".", MNT_DETACH)
    make_read_only("/", recursive=False)
    os.chdir("/tmp")


def bring_up_loopback() -> None:
    import fcntl
    import socket
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def exit_code(status: int) -> int:
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def main() -> int:
    root, disk_bytes, parent = sys.argv[1], int(sys.argv[2]), int(sys.argv[4])
    privileged, commands = sys.argv[3] == "1", sys.argv[5] == "1"
    end = sys.argv.index("--")
    binds = [(source, target) for source, _, target in (pair.partition("=") for pair in sys.argv[6:end])]
    command = sys.argv[end + 1 :]
    call("prctl", PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return 1
    unshare(privileged)
    alive_read, alive_write = os.pipe()
    init = os.fork()
    if init:
        os.close(alive_read)
        os.closerange(0, 3)
        os.closerange(3, alive_write)  # only those inside may hold the caller's pipes open
        return exit_code(os.waitpid(init, 0)[1])

    # Process 1 of the new pid namespace: when it ends, for whatever reason, the kernel kills all the others.
    os.close(alive_write)
    call("prctl", PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    os.set_blocking(alive_read, False)
    try:
        os.read(alive_read, 1)
        return 1  # end of file: the launcher died before it could be watched
    except BlockingIOError:
        os.close(alive_read)
    if commands:
        bring_up_loopback()
    build_root(root, disk_bytes, commands, binds)
    worker = os.fork()  # a process 1 ignores the signals of its own limits, so it doesn't run the command itself
    if worker == 0:
        os.execve(command[0], command, {"LD_LIBRARY_PATH": "/python/lib", "PYTHONHASHSEED": "0"})
    os.closerange(0, 256)
    while True:
        ended, status = os.wait()
        if ended == worker:
            return exit_code(status)


if __name__ == "__main__":
    os._exit(main())
