"""A real server on a real socket, asked by the `openai` client and by clients that misbehave."""

import concurrent.futures
import http.client
import json
import threading
import time

import jax
import numpy as np
import openai
import pyarrow as pa
import pytest
import uvicorn
from etils import epath

from data_prep import documents as docs
from data_prep.files import write_parquet
from oc_jax.decode import Engine, Request
from oc_jax.model import ModelConfig, init_params
from oc_jax.serve import main
from oc_jax.serve.app import Api, Limits
from oc_jax.serve.worker import Worker
from oc_jax.sharding import MeshConfig, make_layout
from oc_jax.tokenizer import Tokenizer

PROMPT = "def add(a, b):"


class Server:
    """The app under uvicorn in a thread."""

    def __init__(self, engine, *, max_queue=64, **limits):
        self.worker = Worker(engine, max_queue=max_queue)
        self.worker.start()
        app = Api(self.worker, "tiny", api_key="secret", limits=Limits(**limits)).app()
        self.server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
        threading.Thread(target=self.server.run, daemon=True).start()
        while not self.server.started:
            time.sleep(0.01)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        self.client = openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="secret", max_retries=0)

    def post(self, path, body, key="secret"):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, data, {"Authorization": f"Bearer {key}"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    def wait_until_idle(self):
        deadline = time.monotonic() + 30
        while self.worker.pending and time.monotonic() < deadline:
            time.sleep(0.02)
        assert self.worker.pending == 0

    def close(self):
        self.server.should_exit = True
        self.worker.stop()


@pytest.fixture(scope="module")
def engine(datasets):
    tokenizer = Tokenizer.load(datasets.tokenizer)
    config = ModelConfig(tokenizer.vocab_size, 32, 64, 2, 4, 2, 8, 256)
    params = jax.tree.map(lambda p: 8 * p if p.ndim > 1 else p, init_params(config, jax.random.key(1)))
    return Engine(config, params, tokenizer, make_layout(MeshConfig(), jax.devices()[:1]), slots=4)


@pytest.fixture(scope="module")
def server(engine):
    server = Server(engine, body_bytes=100_000)
    yield server
    server.close()


@pytest.fixture(scope="module")
def expected(engine):
    """Greedy text after a prompt, from the engine itself, before the server's thread owns it."""

    def text(prompt, count):
        ids = [*engine.tokenizer.prefix, *engine.tokenizer.encode(prompt)]
        return engine.generate([ids], max_new_tokens=count)[0].text

    return {count: text(PROMPT, count) for count in (8, 24)}


def test_completions_are_the_engines(expected, server):
    assert [model.id for model in server.client.models.list()] == ["tiny"]
    answer = server.client.completions.create(model="tiny", prompt=PROMPT, max_tokens=24, temperature=0)
    assert answer.choices[0].text == expected[24]
    assert answer.usage.completion_tokens <= 24 and answer.usage.prompt_tokens > 0
    pieces = server.client.completions.create(model="tiny", prompt=PROMPT, max_tokens=24, temperature=0, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == expected[24]


def test_several_prompts_and_samples_come_back_in_order(expected, server):
    prompts = [PROMPT, "import os"]
    answer = server.client.completions.create(model="tiny", prompt=prompts, max_tokens=8, temperature=1.0, n=3, seed=3)
    again = server.client.completions.create(model="tiny", prompt=prompts, max_tokens=8, temperature=1.0, n=3, seed=3)
    texts = [choice.text for choice in answer.choices]
    assert texts == [choice.text for choice in again.choices] and len(set(texts)) > 3
    assert [choice.index for choice in answer.choices] == list(range(6))


def test_chat_answers_and_streams(server):
    messages = [{"role": "user", "content": "Say hello."}]
    whole = server.client.chat.completions.create(model="tiny", messages=messages, max_tokens=12, temperature=0)
    stream = server.client.chat.completions.create(
        model="tiny",
        messages=messages,
        max_tokens=12,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_stop_strings_end_a_stream_before_they_show(expected, server):
    stop = expected[24][6:9]
    arguments = dict(model="tiny", prompt=PROMPT, max_tokens=24, temperature=0, stop=[stop])
    whole = server.client.completions.create(**arguments).choices[0]
    pieces = list(server.client.completions.create(**arguments, stream=True))
    assert whole.text == "".join(p.choices[0].text for p in pieces) == expected[24][: expected[24].index(stop)]
    assert whole.finish_reason == pieces[-1].choices[0].finish_reason == "stop"


def test_echo_with_log_probabilities_scores_a_prompt_as_lm_eval_asks(engine, server):
    ids = engine.tokenizer.encode("import numpy as np\nx = np.zeros(3)")
    answer = server.client.completions.create(
        model="tiny", prompt=[ids], max_tokens=1, temperature=0, logprobs=1, echo=True
    )
    found = answer.choices[0].logprobs
    assert len(found.tokens) == len(ids) + 1 and found.token_logprobs[0] is None
    server.wait_until_idle()
    (score,) = engine.scores([ids])
    assert found.token_logprobs[1:-1] == pytest.approx(score.logprobs.tolist(), abs=1e-5)
    greedy = [
        value == max(top.values())
        for value, top in zip(found.token_logprobs[1:-1], found.top_logprobs[1:-1], strict=True)
    ]
    assert greedy == (score.best_tokens == ids[1:]).tolist()
    only = server.client.completions.create(model="tiny", prompt=[ids], max_tokens=0, logprobs=1, echo=True)
    assert only.choices[0].logprobs.token_logprobs[1:] == found.token_logprobs[1:-1]


def test_a_checkpoint_scores_pages_by_the_odds_of_yes(engine, server, tmp_path, monkeypatch):
    from data_prep.synthesis import pipeline, stage, teacher
    from data_prep.web.autods import autods

    (tmp_path / "about.txt").write_text("$text\nAbout code?\n")
    monkeypatch.setattr(pipeline, "PROMPTS", tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    pages = epath.Path(tmp_path) / "pages"
    pages.mkdir()
    texts = ["import numpy", "a garden", "def f(x): return x"]
    about = dict.fromkeys(docs.SCHEMA.names) | {"language": "text", "doc_type": "text", "repo": "r", "source": "s"}
    rows = [about | {"id": t, "path": t, "text": t, "size": 1, "provenance": "{}", "reasons": []} for t in texts]
    write_parquet(iter([pa.Table.from_pylist(rows, docs.SCHEMA)]), pages / "part-00000.parquet")
    out = epath.Path(tmp_path) / "seed"
    out.mkdir()
    endpoint = teacher.Endpoint(base_url=f"http://127.0.0.1:{server.port}/v1")
    questions = autods(questions=["about"], min_score=0.0)
    stage.synthesis(out, seeds=pages, pipeline=questions, model="tiny", endpoint=endpoint, buckets=1)
    found = {
        row["id"]: json.loads(row["provenance"])["score"] for row in docs.read_part(docs.parts(out)[0]).to_pylist()
    }
    server.wait_until_idle()
    for text in texts:
        ends = (f"{text}\nAbout code?{word}" for word in (" YES", " NO"))
        ids = [[*engine.tokenizer.prefix, *engine.tokenizer.encode(end)] for end in ends]
        yes, no = (float(score.logprobs.sum()) for score in engine.scores(ids))
        assert float(found[text]) == pytest.approx(1 / (1 + np.exp(no - yes)), abs=1e-4)
    assert len(set(found.values())) == 3


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/v1/completions", b"{", 400, "no JSON"),
        ("/v1/completions", b"[" * 90_000, 400, ""),
        ("/v1/completions", [], 400, "must be a JSON object"),
        ("/v1/completions", {}, 400, "'prompt' must be"),
        ("/v1/completions", {"prompt": [10**9]}, 400, "'prompt' must be"),
        ("/v1/completions", {"prompt": []}, 400, "'prompt' must be"),
        ("/v1/completions", {"prompt": "x", "max_tokens": -1}, 400, "'max_tokens' must be"),
        ("/v1/completions", {"prompt": "x", "temperature": "hot"}, 400, "'temperature' must be"),
        ("/v1/completions", {"prompt": "x", "n": 10_000}, 400, "'n' must be"),
        ("/v1/completions", {"prompt": "x", "stop": ["a"] * 99}, 400, "'stop' must be"),
        ("/v1/completions", {"prompt": "x y " * 500}, 400, "the context of this model 256"),
        ("/v1/completions", {"prompt": "x", "model": "gpt-4"}, 404, "this is 'tiny'"),
        ("/v1/completions", b'{"prompt": "' + b"x" * 200_000 + b'"}', 413, "larger than"),
        ("/v1/chat/completions", {"messages": [{"role": "tool", "content": "x"}]}, 400, "role 'tool' is unknown"),
        ("/v1/chat/completions", {"messages": [{"role": "user"}]}, 400, "needs a 'role' and a 'content'"),
        ("/v1/chat/completions", {"messages": [], "tools": [{}]}, 400, "'tools' is not supported"),
        ("/v1/nothing", {}, 404, "Not Found"),
    ],
)
def test_bad_requests_get_a_reason(server, path, body, status, message):
    found, answer = server.post(path, body)
    assert found == status and message in answer["error"]["message"]


def test_the_key_is_asked_for(server):
    status, answer = server.post("/v1/completions", {"prompt": "x"}, key="guess")
    assert status == 401 and "Authorization" in answer["error"]["message"]
    with pytest.raises(ValueError, match="is open to others: give a key"):
        main(["--checkpoint=x", "--host=0.0.0.0"])


def test_many_clients_at_once_each_get_their_own_answer(expected, server):
    def ask(i):
        prompt = f"x{i % 7} = {i % 7} *"
        answer = server.client.completions.create(model="tiny", prompt=prompt, max_tokens=6, temperature=0)
        return i % 7, answer.choices[0].text

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(42)))
    assert len(set(answers)) == 7


def test_a_client_that_goes_away_frees_its_place(server):
    body = json.dumps({"prompt": PROMPT, "max_tokens": 200, "temperature": 1.0, "stream": True}).encode()
    for _ in range(6):
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request("POST", "/v1/completions", body, {"Authorization": "Bearer secret"})
        connection.getresponse().read(10)
        connection.close()
    server.wait_until_idle()


def test_a_full_queue_says_so_and_a_slow_request_ends(engine, server):
    server.wait_until_idle()
    small = Server(engine, max_queue=2, request_seconds=0.0)
    try:
        status, answer = small.post("/v1/completions", {"prompt": ["a", "b", "c"], "max_tokens": 100})
        assert status == 429 and "waiting" in answer["error"]["message"]
        small.wait_until_idle()
        status, answer = small.post("/v1/completions", {"prompt": "a", "max_tokens": 100})
        assert status == 504
        small.wait_until_idle()
    finally:
        small.close()


def test_a_step_that_fails_fails_its_requests_only(engine, server, expected, monkeypatch):
    server.wait_until_idle()
    monkeypatch.setattr(engine, "step", lambda: 1 / 0)
    status, answer = server.post("/v1/completions", {"prompt": "a"})
    assert status == 500
    monkeypatch.undo()
    answer = server.client.completions.create(model="tiny", prompt=PROMPT, max_tokens=8, temperature=0)
    assert answer.choices[0].text == expected[8]


def test_requests_that_the_engine_refuses_do_not_reach_it():
    with pytest.raises(ValueError):
        Request([1], max_new_tokens=0)
