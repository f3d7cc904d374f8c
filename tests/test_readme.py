"""What the README and the other pages tell a reader to type exists."""

import functools
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands():
    """(page, words of one command) of every `python run.py …` and `python -m …` in the pages, code or prose."""
    for page in PAGES:
        text = re.sub(r"\\\n\s*", " ", page.read_text())
        for code in re.findall(r"^```\w*\n(.*?)^```|`([^`]+)`", text, flags=re.DOTALL | re.MULTILINE):
            for line in " ".join(code[1].split()).splitlines() or code[0].splitlines():
                if re.match(r"python (run\.py|-m (data_prep|oc_jax)\b)", line):
                    yield page.name, shlex.split(line.partition("  #")[0].replace("…", ""))


@functools.cache
def help_of(*program: str) -> str:
    shown = subprocess.run([sys.executable, *program, "--help"], capture_output=True, text=True, cwd=ROOT)
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


def test_the_pages_hold_commands():
    programs = {" ".join(words[1:3]) for page, words in commands() if page == "README.md"}
    assert {"run.py --mode=serve", "run.py --mode=score", "-m data_prep.rebuild", "-m data_prep.funnel"} <= programs


@pytest.mark.slow
@pytest.mark.parametrize("page, words", commands(), ids=lambda v: v if isinstance(v, str) else " ".join(v)[:60])
def test_a_printed_command_is_one_that_its_program_takes(page, words):
    flags = {word.partition("=")[0] for word in words if word.startswith("--")}
    if words[1] == "run.py":
        mode = next((word for word in words if word.startswith("--mode=")), "--mode=recipe")
        assert mode.partition("=")[2] in help_of("run.py"), f"{page}: {mode}"
        known = help_of("run.py") + help_of("run.py", mode)
    else:
        known = help_of(*words[1:3])
    assert all(re.search(rf"(?<![\w-]){re.escape(flag)}\b", known) for flag in flags), f"{page}: {flags}"
    for word in words:
        if (path := re.fullmatch(r"(?:--gin_file=)?(gin/[a-z0-9_/]+\.gin)", word)) is not None:
            assert (ROOT / path.group(1)).exists(), f"{page}: {word}"
