"""Checkpoints: the only importer of Orbax, whose names still move.

A checkpoint is a `TrainState` plus a small JSON of metadata (model configuration, tokens seen, configuration text). It
restores onto any mesh and process count. A save that was killed half-way is invisible to `latest` and `restore`.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

logging.getLogger("absl").setLevel(logging.WARNING)  # Orbax narrates every save through absl


class Saver:
    """Asynchronous saves into `directory`/<step>, keeping the `keep` newest and, for good, every `keep_every` steps."""

    def __init__(self, directory: epath.Path, *, keep: int = 2, keep_every: int | None = None):
        policies = ocp.training.preservation_policies
        keepers: list[Any] = [policies.LatestN(keep)]
        if keep_every:
            keepers.append(policies.EveryNSteps(keep_every))
        self._checkpointer = ocp.training.Checkpointer(
            _absolute(directory),
            preservation_policy=policies.AnyPreservationPolicy(keepers),  # pyright: ignore[reportArgumentType]
            cleanup_tmp_directories=True,
        )

    def save(self, step: int, state: Any, metadata: dict[str, Any]) -> None:
        """Copies `state` off the devices, then writes in the background. Does nothing if `step` is already saved."""
        if self._checkpointer.latest is None or self._checkpointer.latest.step < step:
            self._checkpointer.save_async(step, state, force=True, custom_metadata=metadata)

    def close(self) -> None:
        """Waits for the last save to be complete."""
        self._checkpointer.close()


def latest(directory: epath.Path) -> int | None:
    """The newest complete step in `directory`, or None."""
    if not epath.Path(directory).exists():
        return None
    with ocp.training.Checkpointer(_absolute(directory)) as checkpointer:
        return None if checkpointer.latest is None else checkpointer.latest.step


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


def _existing(directory: epath.Path, step: int | None) -> int:
    newest = latest(directory)
    if newest is None:
        raise FileNotFoundError(f"no complete checkpoint in {directory}: train that stage first, or name another one")
    return newest if step is None else step
