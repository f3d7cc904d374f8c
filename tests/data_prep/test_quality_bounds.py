"""Nothing that a file holds, or is called, ends the command; what would take too long is not done, and said."""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
import time
import tracemalloc

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import languages
from data_prep.quality import __main__ as command
from data_prep.quality import records, rules
from data_prep.quality.profiles import PROFILES, measure, profile_named

EXTENSIONS = [
    ".py",
    ".js",
    ".ts",
    ".html",
    ".sql",
    ".java",
    ".c",
    ".cpp",
    ".cs",
    ".go",
    ".sh",
    ".json",
    ".md",
    ".ipynb",
]
NAMES = st.binary(min_size=1, max_size=20).filter(lambda n: n not in (b".", b"..") and not {0, 47} & set(n))
FRAGMENTS = [
    "/*",
    "*/",
    "//",
    "#",
    '"',
    "'",
    "`${",
    "{",
    "}",
    "(",
    ")",
    "[",
    "\\",
    "\n",
    "\r",
    "\x00",
    "\ufeff",
    "é",
    "中",
]
FRAGMENTS += [
    "def f(",
    "function ",
    "class A",
    "import a",
    "<script>",
    "<a ",
    "var x = ",
    "return ",
    "0x12 ",
    "=>",
    "1e9",
]
CONTENTS = st.binary(max_size=200) | st.text(max_size=60).map(lambda t: t.encode("utf-8", "replace"))
CONTENTS |= st.lists(st.sampled_from(FRAGMENTS), max_size=40).map(lambda pieces: "".join(pieces).encode())
FILES = st.dictionaries(
    st.tuples(NAMES, st.sampled_from(["", *EXTENSIONS])).map(lambda n: n[0] + n[1].encode()), CONTENTS, max_size=6
)


@pytest.mark.parametrize("profile", ["refinecode", "reference"])
@hypothesis.settings(max_examples=15)
@given(FILES)
def test_every_file_has_a_record_whatever_it_holds(profile: str, files: dict[bytes, bytes]):
    with tempfile.TemporaryDirectory() as top:
        directory = os.fsencode(top) + b"/files"
        os.mkdir(directory)
        for name, data in files.items():
            with open(os.path.join(directory, name), "wb") as file:
                file.write(data)
        out = pathlib.Path(top, "out.jsonl")
        flags = ["--profile", profile, "--workers", "1", "--out", str(out)]
        assert command.main([*flags, f"{top}/files"]) == 0
        found = [json.loads(line) for line in out.read_bytes().decode("utf-8", "surrogatepass").split("\n")[:-1]]
    assert sorted(record["bytes"] for record in found) == sorted(map(len, files.values()))
    assert all(record["keep"] in (0, 1) or record["error"] for record in found)


UNITS = ["{a:", "var a=", "case a:", "([{", "`${", "ab ", "x=1;", "a\n", "<a b={", "\"'", "/*"]


@pytest.mark.parametrize("name", ["a.py", "a.js", "a.ts", "a.html", "a.sql", "a.java", "a.c", "a.go", "a.json", "a.md"])
def test_ten_megabytes_of_anything_are_refused_with_a_cause_or_measured(name: str):
    profile, groups = profile_named("refinecode"), rules.load()
    for unit in UNITS[:: 1 if name == "a.js" else 5]:
        data = (unit * (10_000_000 // len(unit))).encode()
        start = time.process_time()
        found = records.record(name, data, profile, groups)
        assert time.process_time() - start < 60
        assert found["keep"] == 0
        assert all(cause.startswith("OverBudgetError: ") for cause in found["signal_errors"].values())


@pytest.mark.slow
@pytest.mark.parametrize("unit", UNITS)
def test_a_megabyte_that_is_no_program_is_refused_the_same_way_each_time(unit: str):
    profile, groups = profile_named("refinecode"), rules.load()
    data = (unit * (900_000 // len(unit))).encode()
    one, two = (records.record("a.js", data, profile, groups) for _ in range(2))
    assert one == two
    assert one["keep"] == 0 or languages.detect("a.js", None)[0] != "javascript"


def test_memory_does_not_grow_with_files_parsed():
    def measured(number: int) -> None:
        measure(f"const a{number} = (x) => x + 1;\n" * 2000, "typescript", "code", None, PROFILES["refinecode"])

    measured(0)
    tracemalloc.start()
    try:
        for number in range(1, 31):
            measured(number)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 500_000  # the text of one file is 60,000
