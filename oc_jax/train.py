"""The training stage: pretraining, annealing and both stages of fine-tuning are this function under four gin scopes."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import zlib
from collections.abc import Sequence
from typing import Any

import gin
import jax
import numpy as np
import optax
from etils import epath

from oc_jax import checkpoint, flops
from oc_jax.data import batches, local_part, open_mixture
from oc_jax.distributed import Preemption
from oc_jax.metrics import RunLog
from oc_jax.mixture import Account
from oc_jax.model import ModelConfig
from oc_jax.packing import Batch
from oc_jax.schedule import Schedule
from oc_jax.sharding import Layout, MeshConfig, make_layout
from oc_jax.step import BATCH_AXES, TrainState, init_state, make_train_step, state_shardings
from oc_jax.tokenizer import Tokenizer
from oc_jax.watchdog import Watchdog

# Fields of ModelConfig that a checkpoint has to agree with.
SHAPE_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)


class Preempted(RuntimeError):
    """SIGTERM came; the state is saved and the same command continues from it."""

    exit_code = 0  # an orderly end, which whoever sent the signal asked for


@gin.configurable
def train(
    out: epath.Path,
    *,
    mixture: dict[epath.Path, float] = gin.REQUIRED,
    tokenizer: epath.Path = epath.Path("tokenizer"),
    init_from: epath.Path | None = None,
    init: str = "params",
    model: ModelConfig = gin.REQUIRED,
    mesh: MeshConfig = gin.REQUIRED,
    optimizer: optax.GradientTransformation = gin.REQUIRED,
    schedule: Schedule = gin.REQUIRED,
    steps: int = gin.REQUIRED,
    batch_size: int = gin.REQUIRED,
    seq_len: int = gin.REQUIRED,
    accumulation: int = 1,
    mask_documents: bool = False,
    pack_chats: bool = True,
    skip_empty: bool = False,
    compute_dtype: str | None = None,
    loss_chunk: int = 512,
    z_loss: float = 0.0,
    seed: int = 0,
    order: str | None = None,
    block_len: int | None = None,
    checkpoint_every: int | None = 1000,
    checkpoint_minutes: float = 30.0,
    keep_checkpoints: int = 2,
    keep_every: int | None = None,
    log_every: int = 10,
    profile_steps: Sequence[int] | None = None,
    watchdog_minutes: float = 30.0,
) -> dict[str, Any]:
    """Trains for `steps` steps and leaves the final state in out/checkpoints.

    Args:
      out: the stage's directory: checkpoints/, metrics.jsonl, tensorboard/, and mixture.json, the tokens that each data
        set was to give and has given.
      mixture: dataset directory → share of the tokens.
      tokenizer: the tokenizer directory that the data sets were made with.
      init_from: a train stage to start from; None starts from random parameters.
      init: what to take from it: "params" (fresh optimizer, step 0: fine-tuning) or "state" (optimizer moments and
        step go on: annealing, a second phase of pretraining).
      model, mesh, optimizer, schedule: the collaborators; `schedule` is a function of the global step.
      steps: optimizer steps of this stage.
      batch_size: sequences per step, over all devices; accumulation: into how many micro-batches it is cut.
      seq_len: tokens per sequence.
      mask_documents: whether packed documents are hidden from each other.
      pack_chats: whether a sequence holds as many conversations as fit (hidden from each other), or one, as in the
        paper.
      skip_empty: leave data sets without a single example out of the mixture, instead of refusing them.
      compute_dtype: of activations and gathered parameters; None: float32 on CPU, bfloat16 elsewhere. Master weights
        are always fp32.
      loss_chunk: positions per slice of the loss; bounds the memory of the logits.
      z_loss: weight of log² Z in the objective, against drifting logits (PaLM: 1e-4); the reported loss is without it.
      seed: of initialisation and of the order of the data.
      order: names the order of the data. A stage that takes the state of another one under the same name goes on in the
        data where that one stopped; None: the stage's own.
      block_len: tokens that the order keeps together; a common multiple of the `seq_len` of stages that share it.
      checkpoint_every, checkpoint_minutes: steps and time between saves, of which the newest `keep_checkpoints` stay.
      keep_every: steps between saves that stay for good.
      log_every: steps between rows of metrics.jsonl.
      profile_steps: first and last step of a window to trace into out/profile.
      watchdog_minutes: how long nothing may happen before the stacks of all threads are logged.

    Returns:
      step, tokens, loss of the last step, epochs per data set, and the SHA-256 of the parameters (on one process).

    Raises:
      Preempted: after SIGTERM, once the state is saved.
      ValueError, FileNotFoundError: damaged or missing data, another tokenizer, a mesh that does not divide.
      FloatingPointError: the loss is no longer finite.
    """
    # 1. Where to compute: the mesh, and the precision of the platform.
    layout = make_layout(mesh)
    if batch_size % accumulation or (batch_size // accumulation) % layout.batch_shards:
        raise ValueError(
            f"{batch_size} sequences in {accumulation} micro-batches do not divide over {layout.batch_shards} batch "
            "shards of the mesh: change train.batch_size, train.accumulation or MeshConfig"
        )
    if seq_len > model.max_position_embeddings or seq_len % layout.mesh.shape["context"]:
        raise ValueError(
            f"train.seq_len = {seq_len} must be at most ModelConfig.max_position_embeddings = "
            f"{model.max_position_embeddings} and divide over {layout.mesh.shape['context']} context shards"
        )
    compute_dtype = compute_dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")

    # 2. What to read: every shard is checked before the first step.
    vocabulary = Tokenizer.load(tokenizer)
    if vocabulary.vocab_size > model.vocab_size:
        raise ValueError(f"the tokenizer has {vocabulary.vocab_size} ids, ModelConfig.vocab_size is {model.vocab_size}")
    # Each stage has its own order, or annealing would begin with the windows that pretraining began with.
    order = order or out.name
    order_seed = zlib.crc32(f"{seed} {order}".encode())
    block_len = block_len or seq_len
    if block_len % seq_len:
        raise ValueError(f"train.block_len = {block_len} is no multiple of train.seq_len = {seq_len}")
    sources = open_mixture(
        mixture,
        vocabulary,
        seq_len=seq_len,
        seed=order_seed,
        mask_documents=mask_documents,
        pack_chats=pack_chats,
        skip_empty=skip_empty,
    )

    # 3. What to start from: own checkpoint, else init_from, else random parameters. Never one in place of another.
    start, first_step = _starting_point(init_from, init, model)
    shapes, shardings = state_shardings(model, optimizer, layout)
    state, read = checkpoint.restore_newest(out / "checkpoints", shapes, shardings), {}
    if state is not None:
        read = checkpoint.metadata(out / "checkpoints")["read"]
    else:
        state = _initial_state(start, init_from, init, model, optimizer, layout, seed)

    # 4. The step, and its data from where the state stands.
    step_fn = make_train_step(
        model, optimizer, schedule, layout, compute_dtype=compute_dtype, loss_chunk=loss_chunk, z_loss=z_loss
    )
    step, last_step = int(state.step), first_step + steps
    tokens = batch_size * seq_len
    seen = start["tokens"] if start and init == "state" and start.get("order") == order else 0
    batch_shape = (accumulation, batch_size // accumulation, seq_len)
    part, parts, columns = local_part(layout.sharding(*BATCH_AXES), batch_shape)
    data = batches(
        sources,
        batch_size=batch_size,
        accumulation=accumulation,
        seed=order_seed,
        start=math.ceil(seen / tokens) + step - first_step,
        block=block_len // seq_len,
        part=part,
        parts=parts,
    )

    available = {name: examples.tokens for name, (examples, _) in sources.items()}
    account = Account(mixture, available, part=part, parts=parts, read=read)

    # 5. The loop.
    described = {"model": dataclasses.asdict(model), "seq_len": seq_len, "stage": out.name, "config": gin.config_str()}
    log = RunLog(
        out,
        step,
        last_step,
        log_every=log_every,
        tokens=tokens,
        flops_per_token=flops.train_flops_per_token(model, seq_len),
        sources=[os.path.basename(name) for name in sources],
        profile_steps=profile_steps,
    )
    saver = checkpoint.Saver(
        out / "checkpoints",
        keep=keep_checkpoints,
        every=checkpoint_every,
        minutes=checkpoint_minutes,
        keep_every=keep_every,
    )
    stopped = False
    with Preemption() as preemption, log, Watchdog(out.name, minutes=watchdog_minutes) as watchdog, saver:
        while step < last_step and not stopped:
            batch, drawn = next(data)
            state, metrics = step_fn(state, _to_devices(batch, columns, layout, batch_shape))
            step += 1
            account.add(drawn)
            log.after_step(step, metrics, drawn)
            watchdog.alive(f"step {step}")
            stopped = preemption.reached()
            if stopped or step == last_step or saver.due(step, look_at_clock=step % log_every == 0):
                log.require_finite(step, metrics)
                read = account.write(out / "mixture.json")
                position = {"order": order, "tokens": seen + (step - first_step) * tokens, "read": read}
                saver.save(step, state, described | position, required=stopped or step == last_step)
    if stopped:
        raise Preempted(f"{out.name} stopped by SIGTERM, saved at step {step}: run again to continue")

    # 6. What a reader wants to know of it.
    return {
        "step": step,
        "tokens": steps * tokens,
        "parameters": flops.parameter_count(model),
        "loss": log.last_loss,
        "epochs": account.epochs(read),
        "left_out": sorted(path.name for path in mixture if os.fspath(path) not in sources),
        "params_sha256": params_sha256(state.params),
    }


def _starting_point(init_from: epath.Path | None, init: str, model: ModelConfig) -> tuple[dict | None, int]:
    """(metadata of the checkpoint to start from, global step at which this stage begins)."""
    if init not in ("params", "state"):
        raise ValueError(f"train.init = '{init}' is unknown: use 'params' or 'state'")
    if init_from is None:
        return None, 0
    found = checkpoint.metadata(init_from / "checkpoints")
    if init == "state" and "order" not in found:
        raise ValueError(f"{init_from} was imported and holds parameters only: bind train.init = 'params'")
    theirs, ours = found["model"], dataclasses.asdict(model)
    for name in SHAPE_FIELDS:
        if theirs[name] != ours[name]:
            raise ValueError(f"ModelConfig.{name} is {ours[name]}, but {init_from} was trained with {theirs[name]}")
    return found, found["step"] if init == "state" else 0


def _initial_state(start, init_from, init, model, optimizer, layout: Layout, seed: int) -> TrainState:
    if start is None:
        return init_state(model, optimizer, layout, seed)
    shapes, shardings = state_shardings(model, optimizer, layout)
    directory = init_from / "checkpoints"
    if init == "state":
        return checkpoint.restore(directory, shapes, shardings, start["step"])
    params = checkpoint.restore_params(directory, shapes.params, shardings.params, start["step"])
    fresh = jax.jit(lambda p: TrainState(np.int32(0), p, optimizer.init(p)), out_shardings=shardings)
    return fresh(params)


def _to_devices(batch: Batch, columns: slice, layout: Layout, shape: tuple[int, int, int]) -> Batch:
    """Global arrays [accumulation, batch, length] from the rows that this process has read."""
    sharding = layout.sharding(*BATCH_AXES)
    return Batch(*(jax.make_array_from_process_local_data(sharding, x[..., columns], shape) for x in batch))


def params_sha256(params) -> str | None:
    """SHA-256 over the parameters' names and bytes; None when they are spread over processes."""
    if jax.process_count() > 1:
        return None
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
