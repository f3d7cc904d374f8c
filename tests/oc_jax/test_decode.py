"""Decoding against the model without a cache, and against itself in other company."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax import nnx

from oc_jax import decode, hf, sampling
from oc_jax.decode import Engine, Request
from oc_jax.model import ModelConfig, abstract, init_params
from oc_jax.sharding import MeshConfig, make_layout
from oc_jax.tokenizer import Tokenizer

rng = np.random.default_rng(0)
PROMPTS = [rng.integers(4, 200, n).tolist() for n in (3, 90, 17, 1, 64, 65, 40, 300)]


@pytest.fixture(scope="module")
def tokenizer(datasets):
    return Tokenizer.load(datasets.tokenizer)


@pytest.fixture(scope="module")
def model(tokenizer):
    config = ModelConfig(tokenizer.vocab_size, 32, 64, 2, 4, 2, 16, 512)
    # Large weights, so that the best token stands out and changes with the text.
    return config, jax.tree.map(lambda p: 8 * p if p.ndim > 1 else p, init_params(config, jax.random.key(2)))


@pytest.fixture(scope="module")
def make_engine(model, tokenizer):
    def make(slots=4, devices=1, **mesh):
        layout = make_layout(MeshConfig(**mesh), jax.devices()[:devices])
        config, params = model
        params = jax.tree.map(jax.device_put, params, layout.tree(*reversed(abstract(config)[1:])))
        return Engine(config, params, tokenizer, layout, slots=slots)

    return make


@pytest.fixture(scope="module")
def engine(make_engine):
    return make_engine()


def without_cache(model, prompt, count, ends):
    """Greedy tokens, each from a forward pass over everything before it."""
    config, params = model
    graphdef, _, _ = abstract(config)
    width = 512

    @jax.jit
    def logits(tokens, last):
        hidden = nnx.merge(graphdef, params)(tokens[None], jnp.arange(width)[None])
        return hidden[0, last] @ params["lm_head"]

    tokens = list(prompt)
    while len(tokens) < min(len(prompt) + count, config.max_position_embeddings):
        padded = np.zeros(width, np.int32)
        padded[: len(tokens)] = tokens
        best = int(jnp.argmax(logits(padded, len(tokens) - 1)))
        if best in ends:
            break
        tokens.append(best)
    return tokens[len(prompt) :]


def test_greedy_is_what_the_model_says_token_by_token(model, engine, tokenizer):
    completions = engine.generate(PROMPTS, max_new_tokens=24)
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        assert completion.tokens == without_cache(model, prompt, 24, tokenizer.ends)
        assert completion.text == tokenizer.decode_text(completion.tokens)
        assert completion.finish_reason == ("length" if len(completion.tokens) == 24 else "stop")


def test_a_completion_does_not_depend_on_its_neighbours(engine, make_engine):
    requests = [Request(p, max_new_tokens=40, temperature=0.8, top_p=0.9, seed=i) for i, p in enumerate(PROMPTS)]
    requests += [Request(p, max_new_tokens=40) for p in PROMPTS]
    order = np.random.default_rng(1).permutation(len(requests))
    found = {i: engine.submit(requests[i]) for i in order}
    while not engine.idle:
        engine.step()
    alone = make_engine(slots=1)
    assert [found[i].tokens for i in range(len(requests))] == [_alone(alone, request).tokens for request in requests]
    assert len({tuple(completion.tokens) for completion in found.values()}) == len(requests)


def _alone(engine, request):
    completion = engine.submit(request)
    while not engine.idle:
        engine.step()
    return completion


def test_a_mesh_decodes_the_same(engine, make_engine):
    spread = make_engine(devices=8, fsdp=4, tensor=2)
    one, eight = ([c.tokens for c in e.generate(PROMPTS[:3], max_new_tokens=12)] for e in (engine, spread))
    assert one == eight


def test_equal_prompts_in_a_list_draw_apart_and_a_seed_repeats_them(engine):
    first, second = (engine.generate([PROMPTS[1]] * 3, max_new_tokens=20, temperature=1.0, seed=5) for _ in range(2))
    assert [c.tokens for c in first] == [c.tokens for c in second]
    assert len({tuple(c.tokens) for c in first}) == 3


def test_draws_follow_the_distribution_and_stay_in_the_nucleus():
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    rows = 4000
    logits = jnp.broadcast_to(jnp.log(probabilities)[:, None], (4, rows))
    count, seeds = jnp.zeros(rows, jnp.int32), jnp.arange(rows, dtype=jnp.uint32)

    def shares(temperature, top_p):
        fill = lambda x: jnp.full(rows, x, jnp.float32)
        settings = sampling.Settings(count, fill(temperature), fill(top_p), seeds)
        return np.bincount(sampling.draw(logits, count, settings), minlength=4) / rows

    np.testing.assert_allclose(shares(1.0, 1.0), probabilities, atol=0.03)
    np.testing.assert_allclose(shares(1.0, 0.79), [0.625, 0.375, 0, 0], atol=0.03)
    np.testing.assert_allclose(shares(0.5, 1.0), probabilities**2 / sum(probabilities**2), atol=0.03)
    np.testing.assert_array_equal(shares(0.0, 1.0), [1, 0, 0, 0])


def test_log_probabilities_are_those_of_scoring(engine):
    completion = _alone(engine, Request(PROMPTS[1], max_new_tokens=20, logprobs=True))
    (score,) = engine.scores([[*PROMPTS[1], *completion.tokens]])
    start = len(PROMPTS[1]) - 1
    np.testing.assert_allclose(completion.logprobs, score.logprobs[start:], atol=1e-4)
    np.testing.assert_array_equal(completion.tokens, score.best_tokens[start:])
    assert [max(top, key=top.__getitem__) for top in completion.top] == completion.tokens


def test_scores_are_those_of_the_model(model, engine):
    config, params = model
    hidden = nnx.merge(abstract(config)[0], params)(jnp.asarray([PROMPTS[1][:-1]]), jnp.arange(89)[None])
    log_probs = np.asarray(jax.nn.log_softmax(hidden[0] @ params["lm_head"]))
    first, second = engine.score([PROMPTS[1], PROMPTS[0]])
    np.testing.assert_allclose(first, log_probs[np.arange(89), PROMPTS[1][1:]], atol=1e-4)
    assert len(second) == len(PROMPTS[0]) - 1


def test_stop_strings_cut_and_leave_the_slot(engine):
    (free,) = engine.generate(PROMPTS[4:5], max_new_tokens=40)
    stop = free.text[len(free.text) // 2 :][:3]
    (stopped,) = engine.generate(PROMPTS[4:5], max_new_tokens=40, stop=["never", stop])
    assert stopped.text == free.text[: free.text.index(stop)] and stopped.finish_reason == "stop"
    assert engine.generate(PROMPTS[4:5], max_new_tokens=40)[0].tokens == free.tokens


def test_prompts_at_the_edge_of_the_context(engine):
    prompts = [[], [7] * 511, [7] * 512, [7] * 505]
    empty, one, none, seven = engine.generate(prompts, max_new_tokens=30)
    assert [len(c.tokens) for c in (empty, none)] == [0, 0]
    assert len(one.tokens) <= 1 and len(seven.tokens) <= 7
    assert {c.finish_reason for c in (empty, none)} == {"length"}


def test_a_cancelled_sequence_makes_room(make_engine):
    engine = make_engine(slots=1)
    first, second = (engine.submit(Request(p, max_new_tokens=400)) for p in PROMPTS[:2])
    engine.step()
    first.cancel()
    second.request = dataclasses.replace(second.request, max_new_tokens=4)
    while not engine.idle:
        engine.step()
    assert (first.finish_reason, len(second.tokens)) == ("cancelled", 4)


@pytest.mark.parametrize("bad", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match="generation needs max_new_tokens"):
        Request([1], **({"max_new_tokens": 1} | bad))


def test_shapes_are_few():
    assert [decode._power_of_two(n, 64) for n in (1, 64, 65, 128, 129, 512)] == [64, 64, 128, 128, 256, 512]
    assert [[width for _, width in decode._pieces(n)] for n in (1, 32, 33, 150)] == [[32], [32], [32, 32], [128, 32]]
    assert [*decode._pieces(1100)] == [(0, 512), (512, 512), (1024, 64), (1088, 32)]


@pytest.mark.slow
def test_real_weights_go_on_as_in_transformers_alone_and_in_company(tmp_path, smollm2):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    root = epath.Path(tmp_path)
    hf.import_model(smollm2, root / "base")
    engine = Engine.load(root / "base", root / "tokenizer", slots=3)
    texts = [
        "def fibonacci(n):",
        "The capital of France is",
        "import numpy as np\n\n" * 30,
        "x",
        "中文的代码",
        "class A:\n",
    ]
    prompts = [engine.tokenizer.encode(text) for text in texts]
    together = [c.tokens for c in engine.generate(prompts, max_new_tokens=24)]
    reference = transformers.AutoModelForCausalLM.from_pretrained(str(smollm2), dtype=torch.float32)
    for prompt, tokens in zip(prompts, together, strict=True):
        found = reference.generate(
            torch.tensor([prompt]), max_new_tokens=24, do_sample=False, eos_token_id=list(engine.tokenizer.ends)
        )
        expected = [t for t in found[0, len(prompt) :].tolist() if t not in engine.tokenizer.ends]
        assert tokens == expected
    alone = Engine.load(root / "base", root / "tokenizer", slots=1)
    assert [alone.generate([prompt], max_new_tokens=24)[0].tokens for prompt in prompts] == together
