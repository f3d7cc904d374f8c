"""Hugging Face in and out; `safetensors`, `tokenizers` and (slow) transformers are the independent truth."""

import dataclasses
import json
import pathlib
import random
import sysconfig

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax import nnx

from oc_jax import chat, checkpoint, hf
from oc_jax import model as model_lib
from oc_jax.hf import safetensors
from oc_jax.model import ModelConfig
from oc_jax.sharding import MeshConfig, make_layout
from oc_jax.tokenizer import Tokenizer

# OpenCoder's shape in small: 8B shares key-value heads, 1.5B has heads whose sizes do not add up to a power of two.
CONFIG = ModelConfig(
    vocab_size=700,
    hidden_size=48,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=20,
    max_position_embeddings=128,
    rope_theta=500_000.0,
)


def random_params(config, seed=0, tied=False):
    _, shapes, _ = model_lib.abstract(config)
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(seed)
    params = jax.tree.unflatten(tree, [jnp.asarray(rng.normal(0, 0.3, s.shape), jnp.float32) for s in leaves])
    return params | ({"lm_head": params["embedding"].T} if tied else {})


def save_stage(stage, params, config=CONFIG):
    saver = checkpoint.Saver(stage / "checkpoints", keep=1)
    described = {"model": dataclasses.asdict(config), "stage": stage.name, "config": "train.steps = 7\n"}
    saver.save(7, {"params": params}, described)
    saver.close()


def load_stage(stage, mesh=MeshConfig()):
    config = ModelConfig(**checkpoint.metadata(stage / "checkpoints")["model"])
    _, shapes, axes = model_lib.abstract(config)
    return config, checkpoint.restore_params(stage / "checkpoints", shapes, make_layout(mesh).tree(axes, shapes))


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("tied", [False, True])
def test_a_round_trip_keeps_every_bit_and_the_files_are_what_the_library_reads(tmp_path, datasets, tied):
    from safetensors.numpy import load_file

    root = epath.Path(tmp_path)
    params = random_params(CONFIG, tied=tied)
    save_stage(root / "mine", params)
    out = root / "exported"
    hf.export_model(root / "mine", datasets.tokenizer, out, dtype="float32", max_file_bytes=100_000)
    index = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
    theirs = {name: load_file(out / file)[name] for name, file in index.items()}
    assert ("lm_head.weight" in theirs) is not tied and len(set(index.values())) > 2
    np.testing.assert_array_equal(theirs["model.embed_tokens.weight"], params["embedding"])
    o = params["layers"]["attention"]["o"][2]
    np.testing.assert_array_equal(theirs["model.layers.2.self_attn.o_proj.weight"], o.reshape(80, 48).T)

    hf.import_model(out, root / "back" / "base", mesh=MeshConfig(fsdp=4, tensor=2))
    config, back = load_stage(root / "back" / "base")
    assert config == dataclasses.replace(CONFIG, attention_backend=config.attention_backend)
    equal(back, params)
    assert Tokenizer.load(root / "back" / "tokenizer").encode("def f():\n") == Tokenizer.load(
        datasets.tokenizer
    ).encode("def f():\n")


def test_bfloat16_stays_bfloat16_and_shards_hold_what_their_devices_do(tmp_path, datasets):
    root = epath.Path(tmp_path)
    save_stage(root / "mine", random_params(CONFIG))
    hf.export_model(root / "mine", datasets.tokenizer, root / "exported")
    loaded = hf.load_params(root / "exported", CONFIG, make_layout(MeshConfig(fsdp=4, tensor=2)))
    assert {x.dtype for x in jax.tree.leaves(loaded)} == {jnp.bfloat16.dtype}
    equal(loaded, jax.tree.map(lambda x: x.astype(jnp.bfloat16), random_params(CONFIG)))
    q = loaded["layers"]["attention"]["q"]
    assert {s.data.shape for s in q.addressable_shards} == {(3, 12, 2, 20)}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"architectures": ["MistralForCausalLM"]}, "only LlamaForCausalLM can be imported"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_type = 'llama3' is not supported"),
        ({"attention_bias": True}, "attention_bias = True is not supported"),
        ({"num_hidden_layers": 4}, "layers.3.* is missing"),
        ({"num_hidden_layers": 2}, "which has no place"),
        ({"intermediate_size": 95}, r"has the shape \[48, 96\]; by config.json it is \[48, 95\]"),
    ],
)
def test_a_model_that_is_not_what_it_says_is_refused(tmp_path, datasets, change, message):
    root = epath.Path(tmp_path)
    save_stage(root / "mine", random_params(CONFIG))
    hf.export_model(root / "mine", datasets.tokenizer, root / "exported")
    path = root / "exported" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        hf.import_model(root / "exported", root / "back" / "base")


def test_damaged_weights_are_refused(tmp_path):
    root = epath.Path(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no"):
        safetensors.open_directory(root)
    (root / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(ValueError, match="is damaged"):
        safetensors.open_directory(root)


def texts(count, seed=0):
    """Code, Chinese and odd Unicode, cut anywhere."""
    rng = random.Random(seed)
    sources = [p.read_text() for p in sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py"))[:60]]
    odd = "\u2581 \u00a0\u3000\t\r\n\x00\u200d\u0301é\U0001f468\u200d\U0001f469🏳️‍🌈\ufeff\u202e<s></s><0x41><unk>"
    for i in range(count):
        if i % 4 < 2:
            source = rng.choice(sources)
            start = rng.randrange(max(1, len(source) - 300))
            yield source[start : start + rng.randrange(1, 300)]
        elif i % 4 == 2:
            letters = (chr(rng.randrange(0x4E00, 0x9FFF)) for _ in range(rng.randrange(1, 80)))
            yield "".join(c + rng.choice(["", "", "，", "。\n", " x = 1\n"]) for c in letters)
        else:
            any_character = lambda: chr(rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)]))
            yield "".join(
                rng.choice([rng.choice(odd), any_character(), " " * 5, "aaa"]) for _ in range(rng.randrange(60))
            )


def test_the_exported_tokenizer_gives_the_same_ids(tmp_path, datasets):
    ours = Tokenizer.load(datasets.tokenizer)
    hf.export_tokenizer(datasets.tokenizer, epath.Path(tmp_path))
    theirs = Tokenizer.load(tmp_path)  # through the `tokenizers` library
    for text in texts(1000):
        ids = ours.encode(text)
        assert theirs.encode(text) == ids, text
        assert theirs.decode(ids) == text.encode()
    assert (theirs.eos, theirs.pad, theirs.im_start, theirs.im_end) == (2, 3, 600, 599)


def test_the_card_tells_data_configuration_and_scores(tmp_path):
    root = epath.Path(tmp_path)
    for name, inputs in {
        "pretrain": {"mixture: data/corpus": "c" * 64},
        "sft": {"init_from: pretrain": "p" * 64},
    }.items():
        (root / name).mkdir()
        result = {"tokens": 12_345_678, "step": 7, "loss": 1.5}
        record = {"stage": name, "inputs": inputs, "result": result, "code_version": "abc"}
        (root / name / "DONE.json").write_text(json.dumps(record))
    (root / "config.gin").write_text("")
    (root / "eval" / "chat").mkdir(parents=True)
    scores = {"checkpoint": "sft", "headlines": {"humaneval": 0.25}}
    (root / "eval" / "chat" / "results.json").write_text(json.dumps(scores))
    card = hf.model_card(root / "sft", {"step": 7, "model": {}, "config": "train.steps = 7"})
    for expected in ("c" * 64, "12,345,678 tokens", "| chat | humaneval | 0.25 |", "train.steps = 7"):
        assert expected in card
    assert card.index("`pretrain`") < card.index("`sft`: ")


def peers():
    pytest.importorskip("torch")
    return pytest.importorskip("transformers")


def our_logits(params, config, tokens):
    graphdef, _, _ = model_lib.abstract(config)
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    hidden = nnx.merge(graphdef, params)(tokens, positions)
    return np.asarray(hidden @ params["lm_head"])


def their_logits(directory, tokens, double=False):
    import torch

    model = peers().AutoModelForCausalLM.from_pretrained(str(directory), dtype=torch.float32)
    with torch.no_grad():
        return (model.double() if double else model)(torch.tensor(tokens, dtype=torch.long)).logits.numpy()


@pytest.mark.slow
def test_transformers_computes_the_same_logits_and_tokens(tmp_path, datasets):
    auto = peers().AutoTokenizer
    root = epath.Path(tmp_path)
    params = random_params(CONFIG)
    save_stage(root / "mine", params)
    hf.export_model(root / "mine", datasets.tokenizer, root / "exported", dtype="float32")
    tokens = np.random.default_rng(0).integers(0, 700, (3, 100)).astype(np.int32)
    np.testing.assert_allclose(our_logits(params, CONFIG, tokens), their_logits(root / "exported", tokens), atol=1e-4)
    ours, theirs = Tokenizer.load(datasets.tokenizer), auto.from_pretrained(str(root / "exported"))
    for text in texts(10_000, seed=1):
        assert theirs(text, split_special_tokens=True)["input_ids"] == ours.encode(text), text
    messages = [{"role": "user", "content": "Reverse a list."}]
    rendered = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert rendered == chat.render(messages, ours, generation_prompt=True)[0]
    assert theirs.decode(ours.encode("x  = [1 , 2]\n")) == "x  = [1 , 2]\n"


@pytest.mark.slow
def test_real_weights_give_the_logits_of_transformers(tmp_path, smollm2):
    root = epath.Path(tmp_path)
    hf.import_model(smollm2, root / "base")
    config, params = load_stage(root / "base", MeshConfig(fsdp=-1))
    tokenizer = Tokenizer.load(root / "tokenizer")
    text = pathlib.Path(random.__file__).read_text()[:600]
    tokens = np.asarray([tokenizer.encode(text)[:128]], np.int32)
    ours, theirs = our_logits(params, config, tokens), their_logits(smollm2, tokens)
    log_softmax = lambda x: np.asarray(jax.nn.log_softmax(x))
    np.testing.assert_allclose(log_softmax(ours), log_softmax(theirs), atol=2e-4)
    exact = their_logits(smollm2, tokens, double=True)
    assert np.abs(ours - exact).max() < 1e-5 * np.abs(exact).max()
    hf.export_model(root / "base", root / "tokenizer", root / "exported", dtype="float32")
    before, after = (safetensors.open_directory(d) for d in (smollm2, root / "exported"))
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name].read(), after[name].read())
    reference = peers().AutoTokenizer.from_pretrained(str(smollm2))
    for sample in texts(2000, seed=2):
        assert tokenizer.encode(sample) == reference(sample, split_special_tokens=True)["input_ids"], sample
