"""The stage against teachers that fail in every way, kills and caps: nothing is lost, nothing is paid for twice."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import pytest
from etils import epath

from data_prep import documents
from data_prep.engine import LocalEngine
from data_prep.synthesis import uses
from data_prep.synthesis.stage import synthesis
from data_prep.synthesis.teacher import Endpoint, Stopped, retry_after

sys.path.insert(0, os.path.dirname(__file__))
from fake_teacher import FAULTS, FakeTeacher  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
SEEDS = 20


def chapter(prompt: str, attempt: int) -> str:
    """What a textbook looks like, about the seed in the prompt."""
    seed = prompt.split("def ")[1].split("(")[0]
    return f"# On {seed}\n\n" + "".join(f"## Part {i}\n\n```python\n{seed}({i})\n```\n\n" for i in range(3))


@pytest.fixture
def seeds(write_documents: Callable[..., epath.Path]) -> epath.Path:
    rows = [{"path": f"{i}.py", "text": f"def seed_{i}(x):\n    return x * {i}\n"} for i in range(SEEDS)]
    return write_documents("seeds", rows[::2], rows[1::2])


@pytest.fixture
def run(tmp_path: pathlib.Path, seeds: epath.Path) -> Callable[..., tuple[dict[str, Any], bytes]]:
    """Runs the stage and returns (its result, the bytes of all that it has written)."""

    def run(teacher: FakeTeacher, workdir: str, pipeline: Any = None, **endpoint: Any) -> tuple[dict[str, Any], bytes]:
        out = epath.Path(tmp_path / workdir / "out")
        out.mkdir(parents=True, exist_ok=True)
        settings = {
            "base_url": teacher.url,
            "backoff_seconds": 0.02,
            "timeout_seconds": 20.0,
            "concurrency": 8,
        } | endpoint
        result = synthesis(
            out,
            seeds=seeds,
            pipeline=pipeline or uses.textbooks(),
            model="teacher",
            endpoint=Endpoint(**settings),
            engine=LocalEngine(workers=1),
        )
        return result, written(out)

    return run


def written(out: epath.Path) -> bytes:
    return b"".join(path.read_bytes() for path in (*documents.parts(out), out / "yield.json", out / "funnel.json"))


def rows_of(directory: pathlib.Path) -> list[dict[str, Any]]:
    return [row for part in documents.parts(epath.Path(directory)) for row in pq.read_table(part).to_pylist()]


def test_an_endpoint_that_fails_in_every_way_loses_nothing(run: Callable[..., Any], tmp_path: pathlib.Path) -> None:
    with FakeTeacher(chapter) as healthy:
        result, expected = run(healthy, "healthy")
    assert result["files_kept"] == SEEDS
    order = iter(FAULTS * SEEDS)

    def faulty(prompt: str, attempt: int) -> Any:
        return (0, next(order)) if attempt < 2 else chapter(prompt, attempt)

    with FakeTeacher(faulty, delay=0.01) as teacher:
        _, got = run(teacher, "faulty", timeout_seconds=1.0, concurrency=SEEDS)
    assert got == expected  # whatever the order of arrival was
    assert set(teacher.answered.values()) == {1} and len(teacher.answered) == SEEDS
    ids = [json.loads(row["provenance"])["seed"] for row in rows_of(tmp_path / "faulty" / "out")]
    assert ids == sorted(ids)


def test_retry_after_holds_everybody(run: Callable[..., Any]) -> None:
    times: list[float] = []

    def busy_once(prompt: str, attempt: int) -> Any:
        times.append(time.monotonic())
        return (0, "busy") if len(times) == 1 else chapter(prompt, attempt)

    with FakeTeacher(busy_once) as teacher:
        run(teacher, "busy", concurrency=1)
    assert times[1] - times[0] >= 0.3
    assert retry_after({"retry-after": "Wed, 21 Oct 2065 07:28:00 GMT"}) > 1e9
    assert retry_after({"retry-after": "soon"}) is None


def test_killed_twice_nothing_is_asked_again_and_the_bytes_are_the_same(
    run: Callable[..., Any], seeds: epath.Path, tmp_path: pathlib.Path
) -> None:
    with FakeTeacher(chapter) as undisturbed:
        _, expected = run(undisturbed, "undisturbed")
    given = gate = 0

    def gated(prompt: str, attempt: int) -> Any:
        nonlocal given
        if given == gate:
            return 0, "stall"
        given += 1
        return chapter(prompt, attempt)

    responses = tmp_path / "killed" / "responses" / "responses.jsonl"
    with FakeTeacher(gated) as teacher:
        for gate in (7, 15):
            process = subprocess.Popen(
                [sys.executable, "-c", KILLED, seeds, tmp_path / "killed" / "out", teacher.url], cwd=ROOT
            )
            lines = 0
            while lines < gate and process.poll() is None:  # all that was answered is in the store, more is under way
                time.sleep(0.02)
                lines = responses.read_bytes().count(b"\n") if responses.exists() else 0
            assert process.poll() is None
            process.kill()
            process.wait()
        with responses.open("ab") as file:
            file.write(b'{"key": "torn')  # as a crash in the middle of a line would leave it
        gate = SEEDS
        _, got = run(teacher, "killed")
    assert got == expected
    assert set(teacher.answered.values()) == {1} and len(teacher.answered) == SEEDS


KILLED = """
import sys
from etils import epath
from data_prep.engine import LocalEngine
from data_prep.synthesis import uses
from data_prep.synthesis.stage import synthesis
from data_prep.synthesis.teacher import Endpoint
seeds, out, url = sys.argv[1:]
epath.Path(out).mkdir(parents=True, exist_ok=True)
endpoint = Endpoint(base_url=url, concurrency=3)
synthesis(epath.Path(out), seeds=epath.Path(seeds), pipeline=uses.textbooks(), model="teacher", endpoint=endpoint,
          engine=LocalEngine(workers=1))
"""


def test_the_cap_is_never_passed_and_can_be_raised(run: Callable[..., Any], tmp_path: pathlib.Path) -> None:
    with FakeTeacher(chapter) as teacher:
        _, expected = run(teacher, "free")
    prices = {"teacher": (10.0, 100.0)}  # an answer costs 30 and 10 tokens: 0.0013
    with FakeTeacher(chapter) as teacher:
        with pytest.raises(Stopped, match=r"cap is reached .* of 0\.425.*Endpoint\.max_cost"):
            run(teacher, "capped", prices=prices, max_cost=0.425)
        # The last request could have cost 4096 tokens of answer and a kilobyte or so of prompt.
        spent = len(teacher.answered) * 0.0013
        assert 0 < len(teacher.answered) < SEEDS and spent <= 0.425
        with pytest.raises(Stopped, match="tokens"):
            run(teacher, "capped", max_spent_tokens=5000)
        result, got = run(teacher, "capped", prices=prices, max_cost=10.0)
    assert got == expected and set(teacher.answered.values()) == {1}
    assert result["spent"] == {"cost": pytest.approx(SEEDS * 0.0013), "tokens": SEEDS * 40}
    with FakeTeacher(chapter) as teacher, pytest.raises(ValueError, match="price of teacher"):
        run(teacher, "priceless", max_cost=1.0)


def test_answers_that_do_not_parse_are_asked_for_again_and_then_kept_with_the_reason(
    run: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    asked: dict[str, int] = {}

    def stubborn(prompt: str, attempt: int) -> str:
        number = int(prompt.split("seed_")[1].split("(")[0])
        asked[prompt] = asked.get(prompt, 0) + 1
        good = {0: asked[prompt] > 1, 1: False}.get(number, True)
        return chapter(prompt, attempt) if good else "no chapter at all"

    with FakeTeacher(stubborn) as teacher:
        result, _ = run(teacher, "stubborn")
    (step,) = result["steps"]
    assert (step["entered"], step["passed"], step["requests"]) == (SEEDS, SEEDS - 1, SEEDS + 3)
    assert step["rejected"] == {"malformed": 4}
    (lost,) = [row for row in rows_of(tmp_path / "stubborn" / "out") if row["reasons"]]
    assert (lost["reasons"], lost["text"]) == (["malformed: no title"], "no chapter at all")
    again = [body for body in teacher.bodies if "seed_1(" in body["messages"][0]["content"]]
    assert len({body["seed"] for body in again}) == 3  # other samples, not the same one again


def test_rows_that_are_equal_are_kept_once(run: Callable[..., Any], tmp_path: pathlib.Path) -> None:
    with FakeTeacher(lambda prompt, attempt: chapter("def same(", 0)) as teacher:
        result, _ = run(teacher, "same")
    rows = rows_of(tmp_path / "same" / "out")
    first = min(json.loads(row["provenance"])["seed"] for row in rows)
    assert result["files_kept"] == 1
    assert {reason for row in rows for reason in row["reasons"]} == {f"exact_duplicate: {first}"}


@pytest.mark.parametrize(
    "settings, reply, message",
    [
        ({"base_url": ""}, chapter, "bind Endpoint.base_url"),
        ({"base_url": "http://127.0.0.1:9/v1"}, chapter, "nothing answers at http://127.0.0.1:9/v1"),
        ({"base_url": "https://example.org/v1", "key_variable": "NO_SUCH_KEY"}, chapter, "variable NO_SUCH_KEY"),
        ({}, lambda *_: (401, "who are you"), "refuses the key in OPENAI_API_KEY"),
        ({}, lambda *_: (400, "no such setting"), "refuses the first request: 400: no such setting"),
        ({"attempts": 2}, lambda *_: (0, "broken"), "failed 2 times on a request .500: sorry.: run again"),
        ({"responses": "gs://bucket/responses"}, chapter, "local path"),
    ],
)
def test_what_cannot_go_on_is_told_in_one_line(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, settings: Any, reply: Any, message: str
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with FakeTeacher(reply) as teacher, pytest.raises((Stopped, ValueError), match=message) as error:
        run(teacher, "out", **settings)
    assert "\n" not in str(error.value).split("\n  In call to configurable")[0]


def test_a_model_that_is_not_there_is_told_with_the_one_that_is(run: Callable[..., Any]) -> None:
    told = pytest.raises(Stopped, match="404: there is only teacher-7b")
    with FakeTeacher(chapter, model="teacher-7b") as other, told:
        run(other, "out")


def test_one_bad_request_among_good_ones_drops_its_seed_alone(run: Callable[..., Any], tmp_path: pathlib.Path) -> None:
    def picky(prompt: str, attempt: int) -> Any:
        if "seed_5(" in prompt:
            time.sleep(0.1)  # others come first
            return 400, "the prompt is too long"
        return (0, "broken") if "seed_6(" in prompt else chapter(prompt, attempt)

    with FakeTeacher(picky) as teacher:
        result, _ = run(teacher, "picky", attempts=3, max_unanswered=1)
    reasons = [row["reasons"] for row in rows_of(tmp_path / "picky" / "out") if row["reasons"]]
    assert sorted(reasons) == [["refused: 400: the prompt is too long"], ["unanswered: 500: sorry"]]
    assert result["files_kept"] == SEEDS - 2


@pytest.mark.slow
def test_sigterm_waits_for_what_is_under_way(seeds: epath.Path, tmp_path: pathlib.Path) -> None:
    with FakeTeacher(chapter, delay=0.2) as teacher:
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, seeds, tmp_path / "out", teacher.url],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        while not teacher.answered:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    assert "told to stop" in said and process.returncode
    assert (tmp_path / "responses" / "responses.jsonl").read_text().count("\n") == len(teacher.attempts) < SEEDS
