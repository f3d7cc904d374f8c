"""gin/runs/synthesis.gin on a small workdir: what a teacher writes becomes data sets, and is asked for once."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import subprocess
import sys

import pytest

sys.path[:0] = [os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))]
import small_recipe  # noqa: E402
from fake_teacher import FakeTeacher  # noqa: E402

pytestmark = pytest.mark.slow
DATA_SETS = ("educational", "package", "diverse", "evol", "textbooks", "snippets")
BEFORE = (
    "run.recipe = [@preprocess, @split, @tokenizer, @algorithmic]",
    'split.documents = "preprocess"',
    "split.heldout_fraction = 0.3",
    "split.max_heldout_share = 0.5",
    "VOCAB_SIZE = 1024",
    'algorithmic.keywords = ["import "]',
    "algorithmic.self_contained = False",
)


def reply(prompt: str, attempt: int) -> str:
    """An answer to any of the prompts, of its own for each."""
    name = f"shift_{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"
    code = f"```python\nimport random\n\ndef {name}(x):\n    return x + 3\n```"
    tests = "```python\n" + "\n".join(f"assert {name}({i}) == {i + 3}" for i in range(10)) + "\n```"
    if "Score: N" in prompt:
        return f"Score: {prompt.count('e') % 3 + 7}"
    if "teaching assistant" in prompt:
        return f"[Task]\nWrite {name}.\n[Analysis]\nAdd.\n[Solution]\n{code}\n[Test]\n{tests}"
    if "[Library Api Doc]" in prompt:
        return (
            f"[Problem Description]\nWith packaging, write {name}.\n[Solution]\n{code.replace('random', 'packaging')}"
        )
    if "Copy the sentences" in prompt:
        return f"[Useful Text]\n{name}"
    if "You design questions" in prompt:
        return f"[Created Question]\nHow is {name} written?"
    if "[Refined Answer]" in prompt:
        return "[Refined Answer]\n```python" + prompt.split("```python")[1].split("```")[0] + "```"
    if "[Rewritten Instruction]" in prompt:
        return f"[Rewritten Instruction]\nWrite {name} fast."
    if "textbook" in prompt:
        return f"# {name}\n" + "\n## Why\n\nSo.\n" * 3 + code
    if "self-contained function in" in prompt:
        return f"[Solution]\n{code}\n[Test]\n{tests}"
    return f"[Answer]\n{code}\n[Test]\n{tests}" if "[Test]" in prompt else code


def run(workdir: pathlib.Path, *bindings: str, name: str = "synthesis") -> subprocess.CompletedProcess[str]:
    every = [f"--gin_bindings={binding}" for binding in bindings]
    command = [sys.executable, "run.py", f"--gin_file=gin/runs/{name}.gin", f"--workdir={workdir}", *every]
    return subprocess.run(command, cwd=small_recipe.ROOT, capture_output=True, text=True)


BINDINGS = (
    'TEACHER = "teacher"',
    "synthesis.max_seeds = 6",
    'package_seeds.packages = ["packaging"]',
    "snippets.languages = {'python': 1.0}",
    "diverse.languages = {'python': 1.0}",
)


def test_synthesised_data_becomes_data_sets_and_is_paid_for_once(tmp_path: pathlib.Path) -> None:
    corpus = small_recipe.write_corpus(tmp_path / "corpus")
    (corpus / "tools" / "versions.py").write_text(
        "from packaging.version import parse\n\n\ndef newest(names):\n    return max(names, key=lambda n: parse(n))\n"
    )
    made = run(tmp_path / "w", f'preprocess.sources = ["{corpus}"]', *BEFORE, name="cookbook")
    assert made.returncode == 0, made.stderr[-2000:]
    with FakeTeacher(reply) as teacher:
        where = f'TEACHER_URL = "{teacher.url}"'
        first = run(tmp_path / "w", where, *BINDINGS)
        assert first.returncode == 0, first.stderr[-2000:]
        asked = len(teacher.bodies)
        again = run(tmp_path / "w", where, *BINDINGS, "Endpoint.concurrency = 2")
        assert again.stderr.count("done before") == first.stderr.count(": starts") and len(teacher.bodies) == asked
        # More seeds: the stages run again, and only what is new is asked for.
        more = run(tmp_path / "w", where, *BINDINGS, "synthesis.max_seeds = 7")
        assert more.returncode == 0, more.stderr[-2000:]
    assert asked < len(teacher.bodies) and set(teacher.answered.values()) == {1}
    for name in DATA_SETS:
        manifest = json.loads((tmp_path / "w" / "data" / name / "manifest.json").read_text())
        assert manifest["records"] > 0 and manifest["tokens"] > 0, name
        assert manifest["kind"] == ("tokens" if name in ("textbooks", "snippets") else "messages")
    done = json.loads((tmp_path / "w" / "synthesis" / "educational" / "DONE.json").read_text())
    assert done["result"]["steps"][0]["passed"] == 7 and "prompts" in done["inputs"]
