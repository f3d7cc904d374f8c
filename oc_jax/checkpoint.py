"""Checkpoints: the only importer of Orbax, whose names still move.

A checkpoint is a `TrainState` plus a small JSON of metadata (model configuration, tokens seen, configuration text). It
restores onto any mesh and process count. A save that was killed half-way is invisible to `latest` and `restore`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from typing import Any

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

from oc_jax import distributed

LOGGER = logging.getLogger("oc_jax.checkpoint")
logging.getLogger("absl").setLevel(logging.WARNING)  # Orbax narrates every save through absl


class Saver:
    """Asynchronous saves into `directory`/<step>: temporary ones, of which the `keep` newest stay, and permanent ones.

    A context manager; on its normal end it waits for the last save to be complete.

    Args:
      every, minutes: a temporary save is due after so many steps, and after so much time.
      keep_every: every so many steps a save is due that stays for good; None: never.
    """

    ATTEMPTS = 3  # saves in a row that may fail before the run does

    def __init__(
        self,
        directory: epath.Path,
        *,
        keep: int = 2,
        every: int | None = None,
        minutes: float = math.inf,
        keep_every: int | None = None,
    ):
        policies = ocp.training.preservation_policies
        keepers: list[Any] = [policies.LatestN(keep)]
        if keep_every:
            keepers.append(policies.EveryNSteps(keep_every))
        self._directory = _absolute(directory)
        self._checkpointer = ocp.training.Checkpointer(
            self._directory,
            preservation_policy=policies.AnyPreservationPolicy(keepers),  # pyright: ignore[reportArgumentType]
            cleanup_tmp_directories=True,
        )
        self._every, self._seconds, self._keep_every = every, 60 * minutes, keep_every
        self._saved_at = time.monotonic()
        self._failures = 0
        self._saving: Any = None  # what Orbax does in the background

    def due(self, step: int, *, look_at_clock: bool) -> bool:
        """Whether to save; all processes look at the first one's clock together, so it should not be at every step."""
        if any(n and step % n == 0 for n in (self._every, self._keep_every)):
            return True
        late = lambda: time.monotonic() - self._saved_at > self._seconds
        return look_at_clock and self._seconds < math.inf and distributed.from_leader(late)

    def save(self, step: int, state: Any, metadata: dict[str, Any], *, required: bool = False) -> None:
        """Copies `state` off the devices, then writes in the background. Does nothing if `step` is already saved.

        Slow storage does not hold up the run: a save is left out while the one before is still being written. One that
        failed (a full disk) is reported and the next one tries again. With `required` this waits instead.

        Raises OSError when three saves in a row failed, or at once where there are several processes.
        """
        if not (required or distributed.everywhere(not self._checkpointer.is_saving_in_progress())):
            LOGGER.warning(f"step {step} is not saved: the save before it is still being written")
            return
        self._finish()
        if self._checkpointer.latest is None or self._checkpointer.latest.step < step:
            self._saving = self._checkpointer.save_async(step, state, force=True, custom_metadata=metadata)
        self._saved_at = time.monotonic()

    def _finish(self, attempts: int = ATTEMPTS) -> None:
        """Waits for the save under way. Raises OSError if it fails as the last of `attempts`."""
        try:
            self._checkpointer.wait()
            self._failures = 0
        except (OSError, ValueError, RuntimeError) as error:  # TensorStore has no type of its own
            self._failures += 1
            said = f"saving into {self._directory} failed ({' '.join(str(error).split())[:300]})"
            if self._failures >= attempts or jax.process_count() > 1:
                raise OSError(f"{said}: make room there and run the same command again") from error
            LOGGER.error(f"{said}: the run goes on and tries again at the next save")
            for path in self._directory.glob("*.orbax-checkpoint-tmp"):
                path.rmtree()  # of what failed; it would fill the disk further
        finally:
            if self._saving:  # each save has a thread of its own, which ends when somebody asks for its result
                with contextlib.suppress(Exception):
                    self._saving.result()
                self._saving = None

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None or jax.process_count() == 1:  # else a process that is gone would be waited for
            self.close()

    def close(self) -> None:
        """Waits for the last save to be complete. Raises OSError if it is not."""
        self._finish(attempts=1)
        self._checkpointer.close()


def write(directory: epath.Path, step: int, state: Any, metadata: dict[str, Any]) -> None:
    """Saves one state that fills the memory: piece by piece, without the copy that lets `Saver` go on training."""
    context = ocp.Context()
    # Orbax writes the shard of an array in one piece, and refuses one that is as large as this.
    shards = (shard.data.nbytes for array in jax.tree.leaves(state) for shard in array.addressable_shards)
    context.memory.write_concurrent_bytes = 1 + max(shards)
    with context, ocp.training.Checkpointer(_absolute(directory)) as checkpointer:
        checkpointer.save(step, state, force=True, custom_metadata=metadata)


def latest(directory: epath.Path) -> int | None:
    """The newest complete step in `directory`, or None."""
    return max(_steps(epath.Path(directory)), default=None)


def metadata(directory: epath.Path, step: int | None = None) -> dict[str, Any]:
    """The metadata saved with `step` (newest by default).

    Raises FileNotFoundError if there is no checkpoint, ValueError if the metadata is damaged.
    """
    step = _existing(directory, step)
    with ocp.training.Checkpointer(_absolute(directory)) as checkpointer:
        found = checkpointer.metadata(step).custom_metadata
    if not isinstance(found, dict):
        raise ValueError(f"the metadata of checkpoint {directory}/{step} is damaged: delete that checkpoint")
    return {"step": step, **found}


def restore_newest(directory: epath.Path, shapes: Any, shardings: Any) -> Any | None:
    """The newest state that can be read, as `restore` gives it; None where nothing was ever saved.

    One that cannot be read is reported and, once an older one could, set aside as <step>.unreadable. Raises ValueError
    if there are checkpoints and none can be read: starting afresh over them would lose a run.
    """
    directory, unreadable = epath.Path(directory), {}
    for step in sorted(_steps(directory), reverse=True):
        state = None
        try:
            state = restore(directory, shapes, shardings, step)
        except Exception as error:  # Orbax raises whatever its parts raise
            unreadable[step] = " ".join(str(error).split())[:300]
        if distributed.everywhere(state is not None):
            for bad, why in unreadable.items():
                LOGGER.error(f"checkpoint {directory}/{bad} CANNOT BE READ ({why}): going on from step {step} instead")
                if distributed.leads():
                    (directory / str(bad)).rename(directory / f"{bad}.unreadable")
            distributed.everywhere(True)  # nobody looks at the directory before it is as it stays
            return state
        unreadable.setdefault(step, "on another process")
    if unreadable:
        step, why = next(iter(unreadable.items()))
        raise ValueError(f"none of {len(unreadable)} checkpoints in {directory} can be read ({step}: {why})")
    return None


def restore(directory: epath.Path, shapes: Any, shardings: Any, step: int | None = None) -> Any:
    """The state saved at `step` (newest by default): a tree like `shapes`, laid out as `shardings` say.

    Raises FileNotFoundError if there is no checkpoint: a run that should continue must never start afresh in silence.
    """
    step = _existing(directory, step)
    with ocp.training.Checkpointer(_absolute(directory)) as checkpointer:
        return checkpointer.load(step, _abstract(shapes, shardings))


def restore_params(directory: epath.Path, shapes: Any, shardings: Any, step: int | None = None) -> Any:
    """Only the parameters of a saved `TrainState`; the rest is not read. Raises as `restore`."""
    step = _existing(directory, step)
    with ocp.training.Checkpointer(_absolute(directory)) as checkpointer:
        saved = checkpointer.metadata(step).metadata
        wanted = {**jax.tree.map(lambda _: ocp.PLACEHOLDER, saved), "params": _abstract(shapes, shardings)}
        return checkpointer.load(step, wanted)["params"]


def _abstract(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def _absolute(directory: epath.Path) -> epath.Path:
    """Orbax finds no metadata below a relative path, and does not say so."""
    directory = epath.Path(directory)
    return directory if "://" in os.fspath(directory) else epath.Path(os.path.abspath(directory))


def _steps(directory: epath.Path) -> list[int]:
    """The complete steps in `directory`."""
    if not directory.exists():
        return []
    with ocp.training.Checkpointer(_absolute(directory)) as checkpointer:
        return [found.step for found in checkpointer.checkpoints]


def _existing(directory: epath.Path, step: int | None) -> int:
    newest = latest(directory)
    if newest is None:
        raise FileNotFoundError(f"no complete checkpoint in {directory}: train that stage first, or name another one")
    return newest if step is None else step
