from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from oc_jax.evals import sandbox

GIB = 1 << 30


@pytest.fixture(params=["bwrap", "namespaces"])
def run(request, monkeypatch):
    """`sandbox.run` on one rung of the ladder, with limits that suit a test."""
    if request.param == "bwrap" and sandbox.rung() != "bwrap":
        pytest.skip("bubblewrap is not installed")
    monkeypatch.setattr(sandbox, "rung", lambda commands=False: request.param)

    def run(program: str, **overrides) -> sandbox.Outcome:
        limits = {"cpu_seconds": 2, "wall_seconds": 20.0, "memory_bytes": GIB} | overrides
        outcome = sandbox.run(textwrap.dedent(program), **limits)
        assert outcome.rung == request.param
        return outcome

    return run


def assert_all_ok(outcome: sandbox.Outcome) -> None:
    assert outcome.status == "ok", outcome


def test_this_machine_has_a_sandbox():
    assert sandbox.rung() in ("bwrap", "namespaces")


def test_program_runs_and_prints(run):
    outcome = run("import sys\nprint(6 * 7)\nprint('warned', file=sys.stderr)")
    assert (outcome.status, outcome.stdout, outcome.stderr) == ("ok", "42\n", "warned\n")


def test_exception_is_an_error_with_its_message(run):
    outcome = run("raise KeyError('missing')")
    assert (outcome.status, outcome.detail) == ("error", "KeyError: 'missing'")


def test_syntax_error_is_an_error(run):
    assert run("def (").detail.startswith("SyntaxError")


def test_annotations_are_evaluated_as_python_does(run):
    """A program must not inherit the future features of the module that compiles it."""
    assert run("def total(values: List[int]): return sum(values)").detail.startswith("NameError")
    assert_all_ok(run("from __future__ import annotations\ndef total(values: List[int]): return sum(values)"))


@pytest.mark.parametrize("leave", ["import os; os._exit(0)", "import sys; sys.exit(0)", "raise SystemExit"])
def test_leaving_early_is_not_success(run, leave):
    assert run(f"print('ok')\n{leave}").status == "error"


def test_busy_loop_hits_the_cpu_limit(run):
    outcome = run("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", cpu_seconds=1)
    assert (outcome.status, outcome.detail) == ("timeout", "CPU limit of 1 s")
    assert 0.9 < outcome.cpu_seconds < 4


def test_sleeper_hits_the_wall_limit(run):
    start = time.monotonic()
    outcome = run("import time\ntime.sleep(60)", wall_seconds=0.7)
    assert (outcome.status, outcome.detail) == ("timeout", "wall limit of 0.7 s")
    assert time.monotonic() - start < 5


def test_memory_is_bounded(run):
    assert run("x = bytearray(3 << 30)").status == "memory"
    assert_all_ok(run("x = bytearray(256 << 20)"))


def test_memory_that_address_space_does_not_count_is_refused(run):
    program = """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            os.memfd_create("hidden")
            raise SystemError("memfd_create works")
        except PermissionError:
            pass
        assert libc.shmget(0, 1 << 20, 0o1600) == -1, "shmget works"
    """
    assert_all_ok(run(program))


def test_disk_is_bounded(run):
    program = """
        written = 0
        try:
            for i in range(64):
                with open(f"/tmp/{i}", "wb") as file:
                    for _ in range(16):
                        written += file.write(bytes(1 << 20))
        except OSError:
            pass
        assert 1 << 20 < written <= 65 << 20, written
    """
    assert_all_ok(run(program))


def test_output_is_bounded(run):
    outcome = run("for _ in range(3000): print('x' * 1000)")
    assert outcome.status == "ok"
    assert outcome.stdout == (("x" * 1000 + "\n") * 100)[: sandbox.OUTPUT_BYTES]


def test_no_network(run):
    """A server that is really there, on this machine, can't be reached."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = f"""
            import socket
            for family, kind in ((socket.AF_INET, socket.SOCK_STREAM), (socket.AF_INET, socket.SOCK_DGRAM),
                                 (socket.AF_INET6, socket.SOCK_STREAM), (40, socket.SOCK_STREAM)):
                try:
                    s = socket.socket(family, kind)
                    s.connect(("127.0.0.1", {server.getsockname()[1]}))
                except OSError:
                    continue
                raise SystemError(f"reached by {{family}}")
        """
        assert_all_ok(run(program))


def test_sees_none_of_the_hosts_files_and_environment(run, monkeypatch, tmp_path):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    (tmp_path / "secret").write_text("hunter2")
    program = f"""
        import os
        for path in ({str(tmp_path / "secret")!r}, {str(Path(__file__))!r}, {str(Path.home())!r}, "/root", "/home",
                     "/etc/passwd", "/proc/1/environ", "/proc/self/maps", "/sys", "/dev/shm"):
            assert not os.path.exists(path), path
        assert os.getcwd() == "/tmp" and os.listdir() == []
        assert not os.environ, os.environ
    """
    assert_all_ok(run(program))


def test_writes_nothing_outside_its_tmp(run):
    program = """
        import os, posix, sys
        for path in ("/x", "/usr/x", "/python/x", "/dev/x", "/etc/x", "/python/lib/x", sys.executable):
            try:
                posix.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
            except OSError:
                continue
            raise SystemError(path)
        open("/tmp/x", "w").write("fine")
    """
    assert_all_ok(run(program))


def test_files_are_laid_out(run):
    assert_all_ok(run("assert open('a/b.txt').read() == 'here'", files={"a/b.txt": b"here"}))
    for name in ("../x", "/x"):
        with pytest.raises(ValueError, match="relative"):
            run("pass", files={name: b""})


def test_no_processes_and_few_threads(run):
    program = """
        import os, subprocess, sys, threading, time
        for make in (os.fork, lambda: subprocess.run([sys.executable, "-c", ""]), lambda: os.system("true") and 1 / 0,
                     lambda: os.posix_spawn("/bin/true", ["true"], {})):
            try:
                make()
            except (OSError, ZeroDivisionError):
                continue
            raise SystemError("made a process")
        started = []
        thread = threading.Thread(target=lambda: started.append(1))
        thread.start()
        thread.join()
        assert started == [1]
        try:
            for n in range(500):
                threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        except RuntimeError:
            pass
        assert n < 100, n
    """
    assert_all_ok(run(program))


def test_no_privileges(run):
    program = """
        import ctypes, os
        libc = ctypes.CDLL(None)
        assert libc.unshare(0x10000000) == -1, "user namespace"
        assert libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == -1, "mount"
        assert libc.ptrace(16, os.getppid(), 0, 0) == -1, "attached to the supervisor"
        assert libc.prctl(39, 0, 0, 0, 0) == 1, "no_new_privs"
        for uid in (0, 1):
            try:
                os.setuid(uid)
            except OSError:
                continue
            assert uid == os.getuid(), "another user"
    """
    assert_all_ok(run(program))


def processes_holding(marker: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if marker.encode() in (entry / "cmdline").read_bytes():
                    found.append(entry.name)
            except OSError:
                continue
    return found


def test_nothing_survives_a_killed_caller(run, tmp_path):
    """The caller dies by SIGKILL in mid-run: launcher, supervisor and program go with it."""
    script = f"""
import sys
sys.path.insert(0, {str(Path(sandbox.__file__).parent)!r})
import sandbox
sandbox.rung = lambda commands=False: {run("pass").rung!r}
sandbox.DISK_BYTES = 7654321  # a mark on the command lines
print("started", flush=True)
sandbox.run("import time; time.sleep(60)", cpu_seconds=5, wall_seconds=60, memory_bytes={GIB})
"""
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    caller = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment)
    assert caller.stdout and caller.stdout.readline() == b"started\n"
    deadline = time.monotonic() + 10
    while len(processes_holding("7654321")) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(processes_holding("7654321")) >= 3
    os.kill(caller.pid, signal.SIGKILL)
    caller.wait()
    while processes_holding("7654321") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_holding("7654321") == []


def test_many_at_once_from_threads(run):
    outcomes: list[sandbox.Outcome] = []
    workers = [
        threading.Thread(target=lambda i=i: outcomes.append(run(f"print({i})", check="", entry_point="f")))
        for i in range(12)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(int(o.stdout) for o in outcomes) == list(range(12))
    assert {o.status for o in outcomes} == {"ok"}


CHECK = """
assert candidate(2, 3) == 5
assert candidate(-1, b=1) == 0
assert candidate([1], [2]) == [1, 2]
"""


def test_check_passes_a_right_solution_and_names_the_line_a_wrong_one_fails(run):
    assert run("def add(a, b): return a + b", check=CHECK, entry_point="add").status == "ok"
    outcome = run("def add(a, b): return abs(a) + b", check=CHECK, entry_point="add")
    assert (outcome.status, outcome.detail) == ("error", "AssertionError at assert candidate(-1, b=1) == 0")


FORGERIES = {
    "always_equal": """
        class Yes(int):
            __eq__ = lambda self, other: True
            __ne__ = lambda self, other: False
            __hash__ = int.__hash__
        def add(a, b): return Yes()
    """,
    "always_equal_object": """
        class Always:
            def __eq__(self, other): return True
        def add(a, b): return Always()
    """,
    "global_in_the_answer": """
        import sys
        class Channel: pass
        def add(a, b):
            frame = sys._getframe()
            while "channel" not in frame.f_locals: frame = frame.f_back
            class Evil:
                def __reduce__(self): return (exec, ("import builtins; builtins.AssertionError = None",))
            frame.f_locals["channel"].send(("value", Evil()))
            return 5
    """,
    "verdict_for_an_answer": """
        import sys
        def add(a, b):
            frame = sys._getframe()
            while "channel" not in frame.f_locals: frame = frame.f_back
            for kind in ("ok", "value", "passed"):
                frame.f_locals["channel"].send((kind, ""))
            return 0
    """,
    "exit": "import os\ndef add(a, b): os._exit(0)",
    "system_exit": "def add(a, b): raise SystemExit(0)",
    "exit_at_import": "import os\nprint('ok', flush=True)\nos._exit(0)",
    "walks_frames": """
        import sys
        def add(a, b):
            frame = sys._getframe()
            while frame:
                for key, value in list(frame.f_locals.items()) + list(frame.f_globals.items()):
                    if isinstance(value, list): value.append("passed")
                frame = frame.f_back
            return 0
    """,
    "kills_supervisor": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nimport time; time.sleep(5)",
    "patches_builtins": """
        import builtins
        builtins.AssertionError = type("Never", (Exception,), {})
        builtins.__build_class__ = None
        def add(a, b): return 1
    """,
    "writes_on_every_descriptor": """
        import os
        def add(a, b):
            for fd in range(128):
                for text in (b"0" * 32 + b"\\nok\\n0\\n", b"ok\\n", b"passed\\n"):
                    try: os.write(fd, text)
                    except OSError: pass
            return 1
    """,
    "closes_the_channel_and_waits": """
        import os, time
        def add(a, b):
            os.closerange(3, 128)
            time.sleep(60)
    """,
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forgery_scores_nothing(run, name):
    outcome = run(FORGERIES[name], check="assert candidate(2, 2) == 4\nassert candidate(3, 4) == 7", entry_point="add")
    assert outcome.status not in ("ok", "refused"), outcome


def test_program_cannot_find_the_token_in_its_memory(run):
    """The caller's secret and the tests never existed in the program's process, not even freed."""
    program = """
        import gc, sys
        found = [o for o in gc.get_objects() if isinstance(o, (str, bytes)) and "telltale" in repr(o)]
        def f():
            frame, seen = sys._getframe(), ""
            while frame:
                seen += repr(frame.f_locals) + repr(frame.f_globals)
                frame = frame.f_back
            return "tell" + "tale_of_tests" in seen or bool(found)
    """
    assert run(program, check="telltale_of_tests = 1\nassert candidate() is False", entry_point="f").status == "ok"


def test_values_equal_to_plain_ones_pass(run):
    program = """
        import collections, decimal, enum, fractions
        Point = collections.namedtuple("Point", "x y")
        class Colour(enum.IntEnum): RED = 3
        def f(which):
            return {
                "counter": collections.Counter("aab"), "tuple": Point(1, 2), "keys": {"a": 1}.keys(),
                "enum": Colour.RED, "complex": 1j,
                "decimal": decimal.Decimal("0.5"), "fraction": fractions.Fraction(1, 4),
                "nested": {"k": [collections.OrderedDict(a={1, 2}), frozenset("x"), None, True, b"y"]},
            }[which]
    """
    check = """
assert candidate("counter") == {"a": 2, "b": 1}
assert candidate("tuple") == (1, 2)
assert candidate("keys") == {"a"}
assert candidate("enum") == 3
assert candidate("decimal") == 0.5 and candidate("fraction") == 0.25 and candidate("complex") == 1j
assert candidate("nested") == {"k": [{"a": {1, 2}}, {"x"}, None, True, b"y"]}
"""
    outcome = run(program, check=check, entry_point="f")
    assert_all_ok(outcome)
    assert run("def f(): return (i for i in [1])", check="assert candidate() == [1]", entry_point="f").status == "error"


def test_hash_order_is_the_same_in_every_run(run):
    program = "print(list({'alpha', 'beta', 'gamma', 'delta', 'epsilon'}))"
    assert len({run(program).stdout for _ in range(4)}) == 1


def test_without_a_sandbox_it_refuses_unless_told(monkeypatch):
    monkeypatch.setattr(sandbox, "rung", lambda commands=False: None)
    limits = {"cpu_seconds": 2, "wall_seconds": 20.0, "memory_bytes": GIB}
    assert sandbox.run("print(1)", **limits).status == "refused"
    outcome = sandbox.run("print(1)", **limits, allow_unsandboxed=True)
    assert (outcome.status, outcome.stdout, outcome.rung) == ("ok", "1\n", "none")


def test_launcher_that_cannot_start_is_not_the_programs_fault(monkeypatch):
    monkeypatch.setattr(sandbox, "rung", lambda commands=False: "bwrap")
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: "/bin/false")
    with pytest.raises(RuntimeError, match="did not start"):
        sandbox.run("pass", cpu_seconds=2, wall_seconds=20.0, memory_bytes=GIB)
