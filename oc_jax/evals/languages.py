"""Languages beyond Python: how a program is compiled, run, and made to say that its tests have come to their end."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable

from oc_jax.evals.sandbox import SENTINEL, Step

AT_END = r"\Z"
IN_LAST_BLOCK = r"(?:return 0;\s*)?\}\s*\Z"  # of main()
IN_LAST_METHOD = r"\}\s*\}\s*;?\s*\Z"  # main() of the last class
_STDLIB = re.compile(r"^\s*#\s*include\s*<bits/stdc\+\+\.h>", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Language:
    """A toolchain and what its programs look like.

    source: file name. commands: the last one runs, those in front compile; an executable is found on PATH.
    say: a statement that prints SENTINEL. place: regular expression for where it goes, among the tests.
    folders: finds other directories that have to be visible, by name; raises FileNotFoundError.
    """

    source: str
    commands: tuple[tuple[str, ...], ...]
    say: str
    place: str = AT_END
    folders: Callable[[], dict[str, str]] = dict
    version: tuple[str, ...] = ("--version",)

    def finished(self, tests: str) -> str:
        """`tests` that print SENTINEL where they end; unchanged, and thereby never passed, where that isn't found."""
        return re.sub(self.place, lambda end: f"\n{self.say}\n{end[0]}", tests, count=1)

    def steps(self, text: str, cpu_seconds: int, compile_cpu_seconds: int) -> tuple[list[Step], dict[str, str]]:
        """(steps, folders) that compile and run `text`. Raises FileNotFoundError: the toolchain isn't installed."""
        folders = self.folders()
        commands = []
        for executable, *rest in self.commands:
            if not executable.startswith((".", "{")):
                executable, prefix = _locate(executable)
                folders |= prefix
            commands.append((executable, *rest))
        if self.source.endswith(".cpp") and _STDLIB.search(text):
            folders["headers"] = _precompiled_stdlib()
            commands[0] += ("-I{headers}", "-include", "first.h")
        seconds = [*[compile_cpu_seconds] * (len(commands) - 1), cpu_seconds]
        return [Step(tuple(c), s) for c, s in zip(commands, seconds, strict=True)], folders

    @functools.cached_property
    def toolchain(self) -> str | None:
        """First line of what the tool that reads the source says of its version; None: not installed."""
        try:
            self.steps("", 1, 1)
        except FileNotFoundError:
            return None
        argv = [shutil.which(self.commands[0][0]) or "", *self.version]
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        return next(iter(done.stdout.splitlines()), "").strip()


@functools.cache
def _locate(executable: str) -> tuple[str, dict[str, str]]:
    """(how a command calls it inside, folders needed for that)."""
    path = shutil.which(executable)
    if path is None:
        raise FileNotFoundError(f"{executable} is not installed")
    path = os.path.realpath(path)
    if os.path.basename(path) == "rustup":
        root = subprocess.run([executable, "--print", "sysroot"], stdout=subprocess.PIPE, text=True, check=True)
        path = f"{root.stdout.strip()}/bin/{executable}"
    if path.startswith(("/usr/", "/bin/", "/lib/")):
        return executable, {}
    return f"{{{executable}}}/bin/{os.path.basename(path)}", {executable: os.path.dirname(os.path.dirname(path))}


@functools.cache
def _precompiled_stdlib() -> str:
    """A directory whose first.h is bits/stdc++.h compiled ahead: saves more than half the time of a compilation."""
    directory = tempfile.TemporaryDirectory(prefix="headers-")
    _KEPT.append(directory)
    os.chmod(directory.name, 0o755)
    header = f"{directory.name}/first.h"
    with open(header, "w") as file:
        file.write("#include <bits/stdc++.h>\n")
    subprocess.run(["g++", "-std=c++17", "-x", "c++-header", header, "-o", f"{header}.gch"], check=True)
    return directory.name


_KEPT: list[tempfile.TemporaryDirectory[str]] = []  # removed when the process ends


@functools.cache
def _typescript() -> str:
    path = shutil.which("tsc")
    if path is None:
        raise FileNotFoundError("tsc is not installed")
    return os.path.dirname(os.path.dirname(os.path.realpath(path)))


def _tuples() -> dict[str, str]:
    if not os.path.exists("/usr/share/java/javatuples.jar"):
        raise FileNotFoundError("the library javatuples is not installed")
    return {}


_TSC = ("node", "{typescript}/lib/tsc.js", "--target", "es2020", "--module", "commonjs", "--skipLibCheck", "main.ts")
_JAVA = ("java", "-ea", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", "/usr/share/java/javatuples.jar:.")
_RUBY = """Test::Unit::AutoRunner.need_auto_run = false
exit 1 unless Test::Unit::AutoRunner.run
puts "{}"
"""

LANGUAGES: dict[str, Language] = {
    "c": Language(
        "main.c",
        (("gcc", "-std=gnu11", "main.c", "-o", "main", "-lm"), ("./main",)),
        f'puts("{SENTINEL}");',
        IN_LAST_BLOCK,
    ),
    "cpp": Language(
        "main.cpp",
        (("g++", "-std=c++17", "main.cpp", "-o", "main"), ("./main",)),
        f'puts("{SENTINEL}");',
        IN_LAST_BLOCK,
    ),
    "cs": Language(
        "main.cs",
        (("mcs", "-d:DEBUG", "-r:System.Numerics.dll", "-out:main.exe", "main.cs"), ("mono", "main.exe")),
        f'System.Console.WriteLine("{SENTINEL}");',
        IN_LAST_METHOD,
    ),
    "d": Language(
        "main.d",
        (("ldc2", "-unittest", "main.d"), ("./main",)),
        f'import std.stdio; writeln("{SENTINEL}");',
        IN_LAST_BLOCK,
    ),
    "go": Language(
        "main_test.go",
        (("go", "test", "-v", "main_test.go"),),
        f'if !t.Failed() {{ println("{SENTINEL}") }}',
        IN_LAST_BLOCK,
        version=("version",),
    ),
    "java": Language(
        "Problem.java",
        (
            ("javac", "-encoding", "UTF8", "-cp", "/usr/share/java/javatuples.jar:.", "Problem.java"),
            (*_JAVA, "Problem"),
        ),
        f'System.out.println("{SENTINEL}");',
        IN_LAST_METHOD,
        folders=_tuples,
    ),
    "js": Language("main.js", (("node", "main.js"),), f'console.log("{SENTINEL}");'),
    "lua": Language(
        "main.lua",
        (("lua5.4", "main.lua"),),
        f'if lu.LuaUnit.run() ~= 0 then os.exit(1) end\nprint("{SENTINEL}")',
        r"(?:os\.exit\(lu\.LuaUnit\.run\(\)\)\s*)?\Z",
        version=("-v",),
    ),
    "php": Language("main.php", (("php", "main.php"),), f'echo "{SENTINEL}";'),
    "pl": Language("main.pl", (("perl", "main.pl"),), f'print "{SENTINEL}";'),
    "r": Language("main.R", (("Rscript", "--vanilla", "main.R"),), f'cat("{SENTINEL}")'),
    "rb": Language("main.rb", (("ruby", "main.rb"),), _RUBY.format(SENTINEL)),
    "rs": Language("main.rs", (("rustc", "main.rs"), ("./main",)), f'println!("{SENTINEL}");', IN_LAST_BLOCK),
    "scala": Language(
        "main.scala",
        (("scalac", "main.scala"), ("scala", "Problem")),
        f'println("{SENTINEL}")',
        IN_LAST_METHOD,
        version=("-version",),
    ),
    "sh": Language("main.sh", (("bash", "main.sh"),), f"echo {SENTINEL}"),
    "ts": Language(
        "main.ts",
        (_TSC, ("node", "main.js")),
        f'console.log("{SENTINEL}");',
        folders=lambda: {"typescript": _typescript()},
    ),
    "tcl": Language("main.tcl", (("tclsh", "main.tcl"),), f"puts {SENTINEL}", version=("/dev/null",)),
    # The same languages where tests take other forms:
    "java_file": Language(  # a main() in any class
        "Main.java", ((*_JAVA, "Main.java"),), f'System.out.println("{SENTINEL}");', IN_LAST_METHOD, folders=_tuples
    ),
    "lua_assert": Language("main.lua", (("lua5.4", "main.lua"),), f'print("{SENTINEL}")', version=("-v",)),
    "php_assert": Language(
        "main.php",
        (("php", "-d", "zend.assertions=1", "-d", "assert.exception=1", "main.php"),),
        f'echo "{SENTINEL}";',
        r"(?:\?>\s*)?\Z",
    ),
    "rb_raise": Language("main.rb", (("ruby", "main.rb"),), f'puts "{SENTINEL}"'),
    "rs_test": Language(  # #[test] in a module
        "main.rs",
        (("rustc", "--test", "main.rs"), ("./main", "--nocapture", "--test-threads=1")),
        f'println!("{SENTINEL}");',
        IN_LAST_METHOD,
    ),
    "scala_solution": Language(
        "main.scala",
        (("scalac", "main.scala"), ("scala", "Solution")),
        f'println("{SENTINEL}")',
        IN_LAST_METHOD,
        version=("-version",),
    ),
}
