"""kill -9 in every stage of a whole recipe, then the same command again: the same bytes, the same parameters."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

sys.path.insert(0, os.path.dirname(__file__))
import small_recipe  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return small_recipe.write_corpus(tmp_path_factory.mktemp("corpus") / "modules")


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    finished = small_recipe.run(corpus, workdir)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return workdir


def kill_within(stage, corpus, workdir, delay):
    """Starts the recipe, waits until `stage` is at work, and kills the whole process group `delay` seconds later."""
    process = subprocess.Popen(
        small_recipe.command(corpus, workdir),
        cwd=small_recipe.ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and not (workdir / stage / "STARTED.json").exists():
        time.sleep(0.01)
    time.sleep(delay)
    killed = process.poll() is None and not (workdir / stage / "DONE.json").exists()
    os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
    process.wait()
    return killed


def test_a_recipe_killed_in_every_stage_ends_with_the_same_bytes(corpus, undisturbed, tmp_path):
    expected = small_recipe.done(undisturbed)
    draw = random.Random(0)
    killed = []
    for stage, record in expected.items():
        # Long stages are hit somewhere in the middle, short ones at once.
        delay = draw.uniform(0.1, 0.9) * record["seconds"] if record["seconds"] > 1 else draw.uniform(0, 0.2)
        if kill_within(stage, corpus, tmp_path / "w", delay):
            killed.append(stage)
    finished = small_recipe.run(corpus, tmp_path / "w")
    assert finished.returncode == 0, finished.stderr[-3000:]
    got = small_recipe.done(tmp_path / "w")
    assert got.keys() == expected.keys()
    for stage, record in expected.items():
        result = record["result"]
        if "params_sha256" in result:
            assert got[stage]["result"]["params_sha256"] == result["params_sha256"], stage
            assert got[stage]["result"]["loss"] == result["loss"], stage
        elif stage != "report" and not stage.startswith("eval"):
            assert got[stage]["outputs"] == record["outputs"], stage
    assert len(killed) >= len(expected) // 2, f"the kills came too late to mean anything: {killed}"
    assert {"pretrain", "anneal", "sft1", "sft2"} <= set(killed)


def test_sigterm_saves_and_the_next_run_goes_on(corpus, undisturbed, tmp_path):
    workdir = tmp_path / "w"
    process = subprocess.Popen(
        small_recipe.command(corpus, workdir),
        cwd=small_recipe.ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    metrics = workdir / "pretrain" / "metrics.jsonl"
    while not metrics.exists() or not metrics.read_text():
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    _, stderr = process.communicate()
    assert process.returncode == 0 and "stopped by SIGTERM, saved at step" in stderr.splitlines()[-1]
    assert not (workdir / "pretrain" / "DONE.json").exists()
    finished = small_recipe.run(corpus, workdir)
    assert finished.returncode == 0 and "pretrain: resumes" in finished.stderr
    sha = lambda w: small_recipe.done(w)["pretrain"]["result"]["params_sha256"]
    assert sha(workdir) == sha(undisturbed)


def test_running_again_does_nothing_and_changes_are_named(corpus, undisturbed):
    finished = small_recipe.run(corpus, undisturbed)
    assert finished.returncode == 0 and finished.stderr.count("skipped") == len(small_recipe.done(undisturbed))
    wrong = small_recipe.run(corpus, undisturbed, "train.no_such_parameter = 1")
    assert wrong.returncode == 1 and len(wrong.stderr.strip().splitlines()) == 1
    assert "no_such_parameter" in wrong.stderr
    shard = next((undisturbed / "data" / "corpus").glob("*.array_record*"))
    intact = shard.read_bytes()
    shard.write_bytes(intact[:100] + bytes([intact[100] ^ 1]) + intact[101:])
    damaged = small_recipe.run(corpus, undisturbed, "pretrain/train.seed = 5")
    assert damaged.returncode == 1 and f"shard {shard} is damaged" in damaged.stderr.splitlines()[-1]
    shard.write_bytes(intact)
