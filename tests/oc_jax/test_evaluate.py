from __future__ import annotations

import json
import types

import gin
import pytest
from etils import epath

from oc_jax import checkpoint, evals
from oc_jax.evals.humaneval import load
from oc_jax.evals.task import Result
from oc_jax.report import gather

PROBLEMS = {p.prompt: p for p in load(None)}


class Tokenizer:
    eos, im_start, im_end = 2, 10_000_001, 10_000_000
    prefix = [2]

    def encode(self, text):
        return [ord(c) + 4 for c in text]

    def decode(self, ids):
        return "".join(chr(i - 4) for i in ids if 4 <= i < 10_000_000)


class Oracle:
    """Completes every HumanEval prompt with the canonical solution, the odd-numbered ones wrongly."""

    tokenizer = Tokenizer()

    def __init__(self):
        self.prompts: list[str] = []

    def generate(self, prompts, *, max_new_tokens, temperature=0.0, top_p=1.0, seed=0, stop=()):
        texts = [self.tokenizer.decode(ids) for ids in prompts]
        self.prompts += texts
        return [types.SimpleNamespace(text=self.complete(text), finish_reason="stop") for text in texts]

    def complete(self, text):
        for prompt, problem in PROBLEMS.items():
            if prompt in text:
                wrong = int(problem.task_id.split("/")[1]) % 2
                body = "    return 'wrong'\n" if wrong else problem.row["canonical_solution"]
                return body if text.endswith(prompt) else f"{prompt}{body}```\n"
        return "    # nothing"

    def score(self, sequences):
        raise NotImplementedError


@pytest.fixture
def engine(monkeypatch):
    engine = Oracle()
    monkeypatch.setattr(evals, "load_engine", lambda checkpoint, tokenizer, **how: engine)
    return engine


@pytest.fixture(autouse=True)
def clean_gin():
    yield
    gin.clear_config()


def run(out, tasks):
    return evals.evaluate(
        epath.Path(out), checkpoint=epath.Path("sft2"), tokenizer=epath.Path("t"), heldout=epath.Path("h"), tasks=tasks
    )


def test_humaneval_and_samples_from_gin_references(engine, tmp_path):
    gin.parse_config(
        """
        evaluate.tasks = {"humaneval": @humaneval, "humaneval_chat": @chat/humaneval, "samples": @samples}
        humaneval.max_problems = 6
        chat/humaneval.chat = True
        samples.completion_prompts = ["def f():\\n"]
        samples.chat_prompts = ["Hello"]
        """
    )
    headlines = evals.evaluate(epath.Path(tmp_path), checkpoint=epath.Path("sft2"))
    assert headlines == {"humaneval": 0.5, "humaneval_chat": 0.5}
    results = json.loads((tmp_path / "results.json").read_text())
    for name in ("humaneval", "humaneval_chat"):
        assert results[name]["pass@1"] == 0.5 and results[name]["tasks"] == 6
        assert [p["passed"] for p in results[name]["problems"]] == [True, False] * 3
        wrong = results[name]["problems"][1]
        assert wrong["status"] == "error" and "return 'wrong'" in wrong["completion"]
        assert "return 'wrong'" in wrong["program"] and "```" not in wrong["program"]
    assert "<|im_start|>" not in engine.prompts[0] and engine.prompts[6].startswith("system\nYou are OpenCoder")
    assert engine.prompts[6].endswith("```python\n")
    kinds = [(s["kind"], s["prompt"]) for s in json.loads((tmp_path / "samples.json").read_text())]
    assert kinds == [("completion", "def f():\n"), ("chat", "Hello")]


def test_a_rerun_does_only_what_is_missing(engine, tmp_path):
    calls = []

    def task(name, fail=False):
        def run(subject):
            calls.append(name)
            if fail:
                raise KeyboardInterrupt
            return Result(1.0, {"score": 1}, [{"prompt": name, "completion": "", "kind": "completion"}])

        return run

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, {"first": task("first"), "second": task("second", fail=True)})
    assert run(tmp_path, {"first": task("first"), "second": task("second")}) == {"first": 1.0, "second": 1.0}
    assert calls == ["first", "second", "second"]
    assert [s["prompt"] for s in json.loads((tmp_path / "samples.json").read_text())] == ["first", "second"]


def test_pass_at_k_over_several_samples(engine, tmp_path):
    gin.parse_config(
        """
        humaneval.max_problems = 2
        humaneval.samples_per_problem = 3
        humaneval.k = (1, 3)
        """
    )
    run(tmp_path, {"humaneval": evals.BENCHMARKS["humaneval"]})
    results = json.loads((tmp_path / "results.json").read_text())["humaneval"]
    assert (results["pass@1"], results["pass@3"], len(results["problems"])) == (0.5, 0.5, 6)


class FollowedRun:
    """A training whose checkpoints appear as a follower looks for them; the last of them is the end."""

    def __init__(self, monkeypatch, workdir, steps):
        self.workdir, self.steps, self.ran = workdir, list(steps), []
        monkeypatch.setattr(checkpoint, "latest", self.latest)
        monkeypatch.setattr(evals, "load_engine", lambda stage, tokenizer, step, slots: step)

    def latest(self, directory):
        if len(self.steps) == 1:
            (directory.parent / "DONE.json").write_text("{}")
        return self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]

    def task(self, name, dies_at=None):
        def run(subject):
            if subject.engine == dies_at and (name, dies_at) not in self.ran:
                self.ran.append((name, dies_at))
                raise KeyboardInterrupt
            self.ran.append((name, subject.engine))
            return Result(float(subject.engine), {})

        return run


def test_a_follower_keeps_each_tasks_cadence_takes_the_last_checkpoint_and_goes_on_after_a_kill(monkeypatch, tmp_path):
    workdir = epath.Path(tmp_path)
    (workdir / "pretrain").mkdir()
    run = FollowedRun(monkeypatch, workdir, [None, 10, 20, 20, 30, 40, 47])
    tasks = {"cheap": run.task("cheap"), "dear": run.task("dear", dies_at=30)}
    follow = lambda: evals.follow(
        workdir, ["pretrain"], tasks=tasks, every={"cheap": 10, "dear": 25}, poll_seconds=0.001
    )
    with pytest.raises(KeyboardInterrupt):
        follow()
    run.steps.insert(0, 30)
    follow()
    assert [step for name, step in run.ran if name == "cheap"] == [10, 20, 30, 40, 47]
    assert [step for name, step in run.ran if name == "dear"] == [30, 30, 47]
    curves = gather.scores(workdir)
    assert curves == {"cheap": {"pretrain": [(s, float(s)) for s in (10, 20, 30, 40, 47)]},
                      "dear": {"pretrain": [(30, 30.0), (47, 47.0)]}}  # fmt: skip
