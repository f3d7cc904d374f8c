"""Programs of any language in the sandbox: what they may use, and that success can't be faked without reading it."""

from __future__ import annotations

import shutil
import time

import pytest

from oc_jax.evals import languages, sandbox
from oc_jax.evals.execution import Filter, Limits, Source, judge, same_output
from oc_jax.evals.languages import IN_LAST_BLOCK, IN_LAST_METHOD, LANGUAGES, Language
from oc_jax.evals.sandbox import SENTINEL, Step

GIB = 1 << 30


@pytest.fixture(params=["bwrap", "namespaces"])
def run(request, monkeypatch):
    """`sandbox.run_commands` for one command, on one rung of the ladder."""
    if request.param == "bwrap" and sandbox.rung() != "bwrap":
        pytest.skip("bubblewrap is not installed")
    monkeypatch.setattr(sandbox, "rung", lambda commands=False: request.param)

    def run(*argv: str, stdin: bytes | None = None, cpu_seconds: int = 2, **files: str) -> sandbox.Outcome:
        given = {name.replace("_", "."): text.encode() for name, text in files.items()}
        steps = [Step(argv, cpu_seconds, stdin)]
        return sandbox.run_commands(steps, files=given, wall_seconds=20.0, memory_bytes=GIB)

    return run


def python(run, program: str, **settings) -> sandbox.Outcome:
    return run("python", "-S", "main.py", main_py=program, **settings)


def test_a_command_runs_with_files_and_input(run):
    outcome = run("bash", "main.sh", main_sh="cat; pwd; echo oh >&2", stdin=b"given\n")
    assert (outcome.status, outcome.stdout, outcome.stderr) == ("ok", "given\n/tmp\n", "oh\n")


def test_the_last_step_must_print_the_sentinel_and_exit_with_0(run):
    assert run("bash", "main.sh", main_sh=f"echo {SENTINEL}").status == "ok"
    assert run("bash", "main.sh", main_sh=f"exit 0; echo {SENTINEL}").detail == "ended before its tests did"
    assert run("bash", "main.sh", main_sh=f"echo {SENTINEL}; exit 3").status == "error"
    assert run("bash", "main.sh", main_sh=f"# {SENTINEL}\necho passed; echo ok; echo @SENTINEL'@'").status == "error"
    assert python(run, f"print('x' * 3_000_000)\nprint('{SENTINEL}')").status == "ok"


def test_it_is_another_string_in_every_run(run):
    assert run("cat", "main.sh", main_sh=SENTINEL).stdout != run("cat", "main.sh", main_sh=SENTINEL).stdout


def test_processes_share_the_limits(run):
    spin = "import os\nfor _ in range(3): os.fork()\nwhile True: pass"
    outcome = python(run, spin, cpu_seconds=1)
    assert (outcome.status, outcome.detail) == ("timeout", "CPU limit of 1 s")
    assert outcome.cpu_seconds < 4
    hold = "import os, time\nfor _ in range(2): os.fork()\nx = bytearray(300 << 20)\ntime.sleep(9)"
    assert python(run, hold, cpu_seconds=20).status == "memory"
    shared = "import mmap\nm = mmap.mmap(-1, 3 << 30)\nfor i in range(0, 3 << 30, 4096): m[i] = 1"
    assert python(run, shared).status == "memory"


def test_a_fork_bomb_is_contained(run):
    assert run("bash", "main.sh", main_sh="f() { f | f & }; f; sleep 0.3; exit 0").status in ("ok", "error", "timeout")


def test_no_daemon_outlives_its_program(run):
    start = time.monotonic()
    assert run("bash", "main.sh", main_sh="setsid sleep 61 & sleep 0.1; echo done").stdout == "done\n"
    assert time.monotonic() - start < 15


@pytest.mark.parametrize("victim", ["os.getppid()", "-1"])
def test_killing_the_supervisor_is_no_success(run, victim):
    program = f"import os, time\nprint('{SENTINEL}', flush=True)\nos.kill({victim}, 9)\ntime.sleep(1)"
    assert python(run, program).detail.startswith("ended without a verdict")


def test_network_reaches_nothing_but_itself(run):
    program = """
import socket
with socket.create_server(("localhost", 0)) as server:
    socket.create_connection(server.getsockname()).close()
try:
    socket.create_connection(("192.0.2.1", 80), timeout=1)
except OSError as error:
    print(error.errno)
"""
    assert python(run, program).stdout == "101\n"  # network is unreachable


def test_sees_no_process_file_or_environment_of_the_host(run):
    program = """
import os
pids = [pid for pid in os.listdir("/proc") if pid.isdigit()]
assert len(pids) <= 4, pids  # bubblewrap's, the launcher's, the supervisor's and this one
for pid in pids:
    for name in ("environ", "mem"):
        try:
            data = open(f"/proc/{pid}/{name}", "rb").read(64) if int(pid) != os.getpid() else b""
        except OSError:
            data = b""
        assert not data, (pid, name, data)
for path in ("/root", "/home", "/etc/passwd", "/etc/hostname", "/sys"):
    assert not os.path.exists(path), path
assert set(os.environ) <= {"PATH", "HOME", "TMPDIR", "LANG", "GOCACHE", "GOFLAGS", "GO111MODULE", "LD_LIBRARY_PATH",
                           "PYTHONHASHSEED", "LC_CTYPE"}, os.environ
"""
    assert python(run, program).status == "ok", python(run, program)


def test_no_privileges_and_no_new_namespaces(run):
    program = """
import ctypes, os
libc = ctypes.CDLL(None)
assert os.getuid() != 0 or not os.access("/", os.W_OK)
assert libc.unshare(0x10000000) == -1 and libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == -1
assert libc.ptrace(16, os.getppid(), 0, 0) == -1
assert libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0) == -1  # clone with a user namespace
"""
    assert python(run, program).status == "ok", python(run, program)


def test_without_a_sandbox_it_refuses_unless_told(monkeypatch):
    monkeypatch.setattr(sandbox, "rung", lambda commands=False: None)
    settings = {"files": {"a": SENTINEL.encode()}, "wall_seconds": 20.0, "memory_bytes": GIB}
    assert sandbox.run_commands([Step(("cat", "a"), 2)], **settings).status == "refused"
    assert sandbox.run_commands([Step(("cat", "a"), 2)], **settings, allow_unsandboxed=True).status == "ok"


# A right program, its tests, and programs that leave with success before those: none may pass.
PROGRAMS = {
    "cpp": ("#include <cassert>\n#include <cstdio>\n#include <cstdlib>\nint one() { return %s; }\n",
            "int main() {\n  assert(one() == 1);\n  return 0;\n}\n", "(std::exit(0), 2)"),
    "js": ("function one() { return %s; }\n", "const assert = require('assert');\nassert.equal(one(), 1);\n",
           "process.exit(0)"),
    "pl": ("sub one { return %s; }\n", "die 'no' unless one() == 1;\n", "exit(0)"),
    "sh": ("one() { echo %s; }\n", "set -e\n[[ $(one) = 1 ]]\n", "2; exit 0"),
    "php": ("<?php\nfunction one() { return %s; }\n", "if (one() !== 1) { throw new Exception('no'); }\n", "exit(0)"),
    "lua_assert": ("function one() return %s end\n", "assert(one() == 1)\n", "os.exit(0)"),
    "rb_raise": ("def one; return %s; end\n", "raise 'no' unless one == 1\n", "exit!(0)"),
    "java": ("class Problem {\n static int one() { return %s; }\n",
             "public static void main(String[] a) {\n assert(one() == 1);\n }\n}\n",
             "Integer.parseInt(String.valueOf(exit()).trim()); }\n static int exit() { System.exit(0); return 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_language_tells_right_from_wrong_and_left_early(name):
    language, (code, tests, leave) = LANGUAGES[name], PROGRAMS[name]
    if language.toolchain is None:
        pytest.skip(f"no toolchain for {name}")
    values = ["1", leave] if name in ("cpp", "java") else ["1", "2", leave]  # slow to compile
    sources = [Source(name, code % value + language.finished(tests)) for value in values]
    statuses = [outcome.status for outcome in judge(sources, Limits(cpu_seconds=10))]
    assert statuses == ["ok", *["error"] * (len(values) - 1)]


def test_sentinel_goes_to_the_end_of_the_tests():
    c = Language("a.c", (), f"say {SENTINEL}", IN_LAST_BLOCK)
    assert c.finished("f() {}\nmain() { t(); return 0; }\n").split() == ["f()", "{}", "main()", "{", "t();", "say",
                                                                      SENTINEL, "return", "0;", "}"]  # fmt: skip
    java = Language("a.java", (), "say", IN_LAST_METHOD)
    assert java.finished("class A { main() { t(); } }").split("say")[1].split() == ["}", "}"]


def test_a_missing_toolchain_is_not_run(monkeypatch):
    monkeypatch.setitem(LANGUAGES, "none", Language("a.none", (("no-such-tool", "a.none"),), ""))
    outcomes = list(judge([Source("none", ""), Source("Klingon", "")], Limits()))
    assert [o.status for o in outcomes] == ["refused", "refused"]
    assert "no-such-tool is not installed" in outcomes[0].detail


def test_filters_read_a_real_pipe_and_are_compared_line_by_line():
    double = "import sys\nprint(2 * int(sys.stdin.buffer.readline()))\n"
    tests = (("2\n", "4\n"), ("5\n", "10"))
    programs = [Filter(double, tests), Filter("print(4)", tests), Filter("import os\nos._exit(0)", tests)]
    assert [o.status for o in judge(programs, Limits())] == ["ok", "error", "error"]
    assert same_output("1.50 2\n x \n", "1.5 2.0\nx") and not same_output("1", "1\n2") and not same_output("a", "b")


def test_compiled_header_is_used_only_where_its_include_stands(monkeypatch):
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    monkeypatch.setattr(languages, "_precompiled_stdlib", lambda: "/somewhere")
    steps, folders = LANGUAGES["cpp"].steps("#include<bits/stdc++.h>\n", 1, 1)
    assert "-include" in steps[0].argv and "headers" in folders
    steps, folders = LANGUAGES["cpp"].steps("#include <vector>\n", 1, 1)
    assert "-include" not in steps[0].argv and not folders
