"""The door as a user sees it: what the flags print, and one line for every mistake."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def door(*arguments, cwd=ROOT):
    return subprocess.run([sys.executable, str(ROOT / "run.py"), *arguments], capture_output=True, text=True, cwd=cwd)


def test_help_lists_every_run_file_and_mode():
    shown = door("--help").stdout
    for path in (ROOT / "gin" / "runs").glob("*.gin"):
        assert f"gin/runs/{path.name}" in shown
    assert "generate" in shown and "recipe" in shown and "OC_TRACEBACK" in shown
    assert "--prompt" in door("--mode", "generate", "--help").stdout


def test_print_shows_bindings_and_defaults_of_every_stage(tmp_path):
    result = door("--mode=print", "--gin_file=gin/runs/opencoder_8b.gin", cwd=tmp_path)
    assert result.returncode == 0 and result.stderr == ""
    assert "pretrain_8k/train.seq_len = 8192" in result.stdout and "pretrain/wsd.peak = 0.0003" in result.stdout


COOKBOOK = "--gin_file=gin/runs/cookbook.gin"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--gin_file=gin/runs/nope.gin"], "nope.gin"),
        ([COOKBOOK, "--gin_bindings=train.stepz = 5"], "stepz"),
        ([COOKBOOK, "--gin_bindings=no_such_thing.x = 5"], "no_such_thing"),
        ([COOKBOOK, "--gin_bindings=train.steps = "], "train.steps"),
        ([COOKBOOK, "--gin_bindings=PRETRAIN_STEP = 5"], "did you mean PRETRAIN_STEPS?"),
        ([COOKBOOK, "--gin_bindings=pretrian/train.steps = 5"], "did you mean pretrain?"),
        ([COOKBOOK, "--gin_bindings=run.recipe = [@eval/mine/evaluate]"], "not bound: eval/mine/evaluate.checkpoint"),
        ([COOKBOOK], "--workdir"),
        ([COOKBOOK, f"--workdir={__file__}"], "test_run.py"),
        ([COOKBOOK, "--workdir=WORK", '--gin_bindings=preprocess.sources = ["/no/such/folder"]'], "'/no/such/folder'"),
        (["--mode=generate", "--checkpoint=nowhere", "--prompt=x"], "no complete checkpoint in nowhere/checkpoints"),
    ],
)
def test_mistakes_are_one_line_and_a_failing_exit_code(arguments, message, tmp_path):
    result = door(*(a.replace("WORK", os.fspath(tmp_path / "w")) for a in arguments))
    lines = [line for line in result.stderr.splitlines() if line.startswith("run.py: ")]
    assert result.returncode == 1 and len(lines) == 1, result.stderr
    assert message in lines[0] and "Traceback" not in result.stderr and "In call to" not in result.stderr


def test_a_mistaken_source_can_be_corrected_in_the_same_workdir(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("print('hello')\n")
    only = "--gin_bindings=run.recipe = [@preprocess]"
    flags = [COOKBOOK, only, f"--workdir={tmp_path / 'w'}"]
    assert door(*flags, f'--gin_bindings=preprocess.sources = ["{tmp_path}/scr"]').returncode == 1
    source = f'--gin_bindings=preprocess.sources = ["{tmp_path}/src"]'
    assert door(*flags, source).returncode == 0
    assert "skipped" in door(*flags, source).stderr
    (tmp_path / "src" / "b.py").write_text("print('more')\n")
    again = door(*flags, source)
    assert again.returncode == 0 and "runs again" in again.stderr and "source " in again.stderr
