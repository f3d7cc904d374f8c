import json
import os
import signal

import numpy as np
import pytest

from oc_jax import checkpoint
from oc_jax import train as train_lib
from oc_jax.decode import Engine
from oc_jax.model import ModelConfig
from oc_jax.optim import adamw
from oc_jax.schedule import cosine, wsd
from oc_jax.sharding import MeshConfig
from oc_jax.train import Preempted, train

MODEL = ModelConfig(
    vocab_size=700,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    max_position_embeddings=128,
)


@pytest.fixture
def stage(datasets, tmp_path):
    """stage(name, **changes) runs one training stage in tmp_path/name; its last part is the name of the stage."""
    from etils import epath

    def run(name, **changes):
        out = epath.Path(tmp_path) / name
        out.mkdir(parents=True, exist_ok=True)
        settings = dict(
            mixture={datasets.corpus: 1.0},
            tokenizer=datasets.tokenizer,
            model=MODEL,
            mesh=MeshConfig(fsdp=-1, tensor=1),
            optimizer=adamw(),
            schedule=wsd(1e-2, 2, 12, 6, 1e-4),
            steps=12,
            batch_size=8,
            seq_len=64,
            checkpoint_every=4,
            log_every=1,
        )
        return out, train(out, **{**settings, **changes})

    return run


def rows(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


class Crash(Exception):
    pass


def crash_at(monkeypatch, step, how):
    real = train_lib.make_train_step

    def make(*args, **kwargs):
        step_fn = real(*args, **kwargs)

        def counted(state, batch):
            if int(state.step) == step:
                how()
            return step_fn(state, batch)

        return counted

    monkeypatch.setattr(train_lib, "make_train_step", make)


def crash():
    raise Crash


def test_a_crashed_stage_continues_to_the_same_bits_and_one_clean_log(stage, datasets, monkeypatch):
    mixture = {datasets.corpus: 5.0, datasets.other: 1.0, datasets.chats: 0.0}
    calm, expected = stage("calm/run", mixture=mixture, skip_empty=True)
    crash_at(monkeypatch, 7, crash)
    with pytest.raises(Crash):
        stage("crashed/run", mixture=mixture, skip_empty=True)
    monkeypatch.undo()
    out, result = stage("crashed/run", mixture=mixture, skip_empty=True)
    assert result["params_sha256"] == expected["params_sha256"] and result["loss"] == expected["loss"]
    assert [r["step"] for r in rows(out)] == list(range(1, 13))
    assert [r["loss"] for r in rows(out)] == [r["loss"] for r in rows(calm)]
    assert rows(out)[-1]["loss"] < rows(out)[0]["loss"]
    for directory in (calm, out):  # every token counted once
        account = json.loads((directory / "mixture.json").read_text())
        wanted = {name: source["wanted_tokens"] for name, source in account["sources"].items()}
        reached = {name: source["reached_tokens"] for name, source in account["sources"].items()}
        assert reached == wanted == {"corpus": 5120, "other": 1024, "chats": 0}


def test_sigterm_saves_the_very_step(stage, monkeypatch):
    _, expected = stage("calm/run")
    for step in (5, 11):  # the second time in the last step, so that the next stage does not start
        crash_at(monkeypatch, step, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Preempted, match=f"saved at step {step + 1}: run again to continue"):
            stage("stopped/run")
        monkeypatch.undo()
    out, result = stage("stopped/run")
    assert result["params_sha256"] == expected["params_sha256"]
    assert checkpoint.latest(out / "checkpoints") == 12


def test_annealing_goes_on_with_step_moments_and_schedule(stage):
    before, _ = stage("pretrain")
    after, result = stage("anneal", init_from=before, init="state", steps=6)
    assert result["step"] == 18 and [r["step"] for r in rows(after)] == list(range(13, 19))
    expected = 1e-2 * (1e-4 / 1e-2) ** (np.arange(6) / 6)
    np.testing.assert_allclose([r["learning_rate"] for r in rows(after)], expected, rtol=1e-5)


def test_a_second_phase_goes_on_in_the_data_of_the_first(stage):
    whole, _ = stage("whole", order="one", steps=10)
    first, _ = stage("first", order="one", steps=6)
    second, _ = stage("second", order="one", steps=4, init_from=first, init="state")
    assert [r["loss"] for r in rows(first) + rows(second)] == [r["loss"] for r in rows(whole)]


def test_rows_tell_of_time_data_and_memory(stage, tmp_path):
    out, _ = stage("seen", steps=6, log_every=3, profile_steps=(3, 4))
    compiled, third, last = rows(out)
    assert compiled["tokens_per_second"] is None and compiled["goodput"] == 0.0
    for row in (third, last):
        seconds = row["step_seconds"]
        assert 0 < seconds["p50"] <= seconds["p90"] <= seconds["p99"]
        assert row["tokens_per_second"] == pytest.approx(8 * 64 / seconds["mean"])
        assert row["sources"] == {"corpus": 1.0} and row["host_rss_gb"] > 0.1
        assert row["param_norm"] > row["grad_norm"] > 0
    assert third["goodput"] < last["goodput"] < 1 and third["wall_seconds"] < last["wall_seconds"]
    assert list((tmp_path / "seen" / "profile").rglob("*.xplane.pb"))


def test_fine_tuning_takes_parameters_only_and_starts_at_step_0(stage, datasets):
    before, pretrained = stage("pretrain")
    options = {"mixture": {datasets.chats: 1.0}, "schedule": cosine(0.0, 0, 4), "steps": 4}
    options["optimizer"] = adamw(weight_decay=0.0)
    after, result = stage("sft", init_from=before, **options)
    assert [r["step"] for r in rows(after)] == [1, 2, 3, 4]
    assert result["params_sha256"] == pretrained["params_sha256"]  # at a learning rate of 0 nothing moves


def test_a_checkpoint_restores_on_another_mesh_and_decodes_the_same(stage, datasets):
    import jax

    out, _ = stage("pretrain")
    meshes = MeshConfig(fsdp=8), MeshConfig(dcn=2, fsdp=2, context=2)
    engines = [Engine.load(out, datasets.tokenizer, mesh=mesh) for mesh in meshes]
    trees = [jax.tree.leaves(jax.tree.map(np.asarray, e.weights)) for e in engines]
    for a, b in zip(*trees, strict=True):
        np.testing.assert_array_equal(a, b)
    prompt = [engines[0].tokenizer.encode("import os\n")]
    texts = [e.generate(prompt, max_new_tokens=16)[0].text for e in engines]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"batch_size": 6}, "do not divide over 8 batch shards"),
        ({"init": "weights"}, "train.init = 'weights' is unknown"),
        ({"model": ModelConfig(600, 32, 64, 2, 2, 1, 16, 128)}, "tokenizer has 700 ids, ModelConfig.vocab_size is 600"),
        ({"seq_len": 256}, "must be at most ModelConfig.max_position_embeddings = 128"),
    ],
)
def test_wrong_settings_fail_before_the_first_step(stage, changes, message):
    with pytest.raises(ValueError, match=message):
        stage("wrong", **changes)


def test_starting_from_nothing_is_refused(stage, tmp_path):
    from etils import epath

    with pytest.raises(FileNotFoundError, match="no complete checkpoint"):
        stage("sft", init_from=epath.Path(tmp_path) / "nowhere")
    before, _ = stage("pretrain", steps=1)
    with pytest.raises(ValueError, match="hidden_size is 16, but .* was trained with 32"):
        stage("sft", init_from=before, model=ModelConfig(700, 16, 64, 2, 2, 1, 16, 128))


def test_a_loss_that_is_not_finite_stops_the_run_and_is_not_saved(stage, tmp_path):
    from etils import epath

    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        stage("diverged", schedule=lambda step: 1e30, checkpoint_every=1, log_every=100)
    assert checkpoint.latest(epath.Path(tmp_path) / "diverged" / "checkpoints") in (None, 1)
