"""What happens to a run over weeks: unreadable checkpoints, a full disk, a step that hangs."""

import contextlib
import logging
import resource
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from oc_jax import checkpoint
from oc_jax.checkpoint import Saver
from oc_jax.watchdog import Watchdog

STATE = {"params": jnp.asarray(np.random.default_rng(0).normal(size=300_000), jnp.float32), "step": jnp.int32(3)}


def shapes_and_shardings(state=STATE):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state), jax.tree.map(
        lambda x: x.sharding, state
    )


def save(directory, *steps):
    with Saver(directory, keep=9) as saver:
        for step in steps:
            saver.save(step, STATE | {"step": jnp.int32(step)}, {}, required=True)


@pytest.fixture
def directory(tmp_path):
    return epath.Path(tmp_path) / "checkpoints"


def files(directory):
    return [f for p in directory.iterdir() for f in (files(p) if p.is_dir() else [p])]


def spoil(directory):
    for path in files(directory):
        path.write_bytes(b"not a checkpoint")


def test_an_unreadable_checkpoint_gives_way_to_the_one_before_loudly(directory, caplog):
    save(directory, 1, 2, 3)
    spoil(directory / "3")
    with caplog.at_level(logging.ERROR, "oc_jax"):
        state = checkpoint.restore_newest(directory, *shapes_and_shardings())
    assert int(state["step"]) == 2
    assert "checkpoints/3 CANNOT BE READ" in caplog.text and "going on from step 2" in caplog.text
    assert checkpoint.latest(directory) == 2 and (directory / "3.unreadable").exists()
    save(directory, 3)  # the step can be saved again
    assert int(checkpoint.restore_newest(directory, *shapes_and_shardings())["step"]) == 3


def test_a_run_never_starts_afresh_over_checkpoints_that_cannot_be_read(directory):
    assert checkpoint.restore_newest(directory, *shapes_and_shardings()) is None
    save(directory, 1, 2)
    spoil(directory / "1")
    spoil(directory / "2")
    with pytest.raises(ValueError, match="none of 2 checkpoints .* can be read"):
        checkpoint.restore_newest(directory, *shapes_and_shardings())
    assert {p.name for p in directory.iterdir()} == {"1", "2"}


def test_saves_leave_no_threads_behind(directory):
    waiting = lambda: sum("_run_loop" in thread.name for thread in threading.enumerate())
    before = waiting()
    with Saver(directory, keep=2) as saver:
        for step in range(1, 6):
            saver.save(step, STATE, {}, required=True)
        assert waiting() <= before + 1  # of the save that may be under way
    assert waiting() == before


def wait(saver):
    while saver._checkpointer.is_saving_in_progress():
        time.sleep(0.01)


@contextlib.contextmanager
def full_disk():
    """No file of this process may grow beyond 100 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_costs_saves_not_the_run(directory, caplog):
    saver = Saver(directory, keep=2)
    saver.save(1, STATE, {})
    wait(saver)
    with full_disk(), caplog.at_level(logging.ERROR, "oc_jax"):
        saver.save(2, STATE, {}, required=True)
        saver.save(3, STATE, {}, required=True)
        wait(saver)  # or it might end when there is room again
    with caplog.at_level(logging.ERROR, "oc_jax"):
        saver.save(4, STATE, {}, required=True)
    assert caplog.text.count("tries again at the next save") == 2
    saver.close()
    assert checkpoint.latest(directory) == 4
    assert not [p for p in directory.iterdir() if "tmp" in p.name]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_last_save_that_fails_fails_the_run(directory):
    saver = Saver(directory)
    with full_disk():
        saver.save(1, STATE, {})
        with pytest.raises(OSError, match="make room there"):
            saver.close()


def test_saves_are_due_by_step_and_by_time(directory):
    saver = Saver(directory, every=4, keep_every=6, minutes=0.0)
    assert [step for step in range(1, 13) if saver.due(step, look_at_clock=False)] == [4, 6, 8, 12]
    assert saver.due(5, look_at_clock=True)
    assert not Saver(directory, every=4).due(5, look_at_clock=True)


def test_a_step_that_hangs_is_reported_with_every_stack(caplog):
    with caplog.at_level(logging.ERROR, "oc_jax"), Watchdog("pretrain", minutes=0.2 / 60) as watchdog:
        watchdog.alive("step 7")
        waiting = threading.Event()
        waiting.wait(0.6)
    assert "pretrain: nothing since step 7" in caplog.text and "waiting.wait(0.6)" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.ERROR, "oc_jax"), Watchdog("pretrain", minutes=2 / 60) as watchdog:
        for step in range(8):
            watchdog.alive(f"step {step}")
            time.sleep(0.1)
    assert not caplog.text
