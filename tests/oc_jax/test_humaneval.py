from __future__ import annotations

import dataclasses
import gzip
import json

import pytest

from oc_jax.evals import sandbox
from oc_jax.evals.execution import Limits, judge
from oc_jax.evals.humaneval import extract, load, program
from oc_jax.evals.metrics import pass_at_k

PROBLEMS = load(None)
QUICK = [PROBLEMS[i] for i in (0, 10, 32, 33, 38, 50, 100)]  # plain ones, and all whose tests use more than `candidate`
LIMITS = Limits(cpu_seconds=5)


def solved(problem) -> str:
    return problem.row["canonical_solution"]


def chat_answer(problem) -> str:
    return f"Sure.\n```python\n{problem.prompt}{solved(problem)}```\nIt works as follows."


def make_program(problem, completion):
    return program(problem, extract(problem, completion))


def passed(problems, completions) -> int:
    programs = [make_program(p, c) for p, c in zip(problems, completions, strict=True)]
    return sum(outcome.status == "ok" for outcome in judge(programs, LIMITS))


def test_there_are_164_problems_with_stripped_prompts():
    assert [p.task_id for p in PROBLEMS] == [f"HumanEval/{i}" for i in range(164)]
    assert all(p.prompt == p.prompt.strip() + "\n" and f"def {p.row['entry_point']}(" in p.prompt for p in PROBLEMS)


def test_canonical_solutions_pass_as_completion_and_as_answer():
    assert passed(QUICK, [solved(p) for p in QUICK]) == len(QUICK)
    assert passed(QUICK, map(chat_answer, QUICK)) == len(QUICK)


@pytest.mark.parametrize(
    "completion", ["", "    pass\n", "    return None\n", "no code at all", "    while True: pass\n"]
)
def test_wrong_completions_fail(completion):
    problems = QUICK[:2]
    programs = [make_program(p, completion) for p in problems]
    outcomes = judge(programs, dataclasses.replace(LIMITS, cpu_seconds=1))
    assert {o.status for o in outcomes} <= {"error", "timeout"}


def test_completions_that_forge_success_fail():
    forgeries = [
        "    import os\n    os._exit(0)\n",
        "    class A:\n        __eq__ = lambda s, o: True\n        __lt__ = __gt__ = __eq__\n    return A()\n",
        "    raise SystemExit(0)\n",
    ]
    assert passed(QUICK[:1] * len(forgeries), forgeries) == 0


def test_wall_timeouts_get_a_second_run_alone(monkeypatch):
    asked: list[str] = []

    def run(solution, **settings):
        asked.append(solution)
        first = asked.count(solution) == 1
        if solution == "slow" and first:
            return sandbox.Outcome("timeout", detail="wall limit of 60 s")
        if solution == "loop":
            return sandbox.Outcome("timeout", detail="CPU limit of 5 s")
        return sandbox.Outcome("ok")

    monkeypatch.setattr(sandbox, "run", run)
    program = make_program(QUICK[0], "")
    programs = [dataclasses.replace(program, solution=name) for name in ("fine", "slow", "loop")]
    assert [o.status for o in judge(programs, LIMITS)] == ["ok", "ok", "timeout"]
    assert sorted(asked) == ["fine", "loop", "slow", "slow"]


def test_pass_at_k():
    assert pass_at_k(1, 1, 1) == 1.0 and pass_at_k(1, 0, 1) == 0.0
    assert pass_at_k(10, 3, 1) == pytest.approx(0.3)
    assert pass_at_k(4, 2, 2) == pytest.approx(1 - 1 / 6)  # of the six pairs one holds both failures
    assert pass_at_k(10, 8, 3) == 1.0
    with pytest.raises(ValueError, match="pass@2"):
        pass_at_k(1, 1, 2)


@pytest.mark.slow
def test_all_canonical_solutions_pass():
    assert passed(PROBLEMS, [solved(p) for p in PROBLEMS]) == 164
    assert passed(PROBLEMS, map(chat_answer, PROBLEMS)) == 164
    assert passed(PROBLEMS, [""] * 164) == 0


REPLAY = "real_generations/1.5b-base/evalplus/humaneval"


@pytest.mark.slow
def test_replay_of_real_generations_gives_the_official_verdicts(shared_data):
    """A 1.5B model's generations and their published EvalPlus verdicts."""
    directory = shared_data / "eval" / REPLAY
    with gzip.open(directory / "generated.jsonl.gz", "rt") as file:
        completions = {row["task_id"]: row["completion"] for row in map(json.loads, file)}
    with gzip.open(directory / "generated_eval_results.json.gz", "rt") as file:
        official = {task: rows[0]["base_status"] == "pass" for task, rows in json.load(file)["eval"].items()}
    outcomes = judge([make_program(p, completions[p.task_id]) for p in PROBLEMS], LIMITS)
    ours = {p.task_id: o.status == "ok" for p, o in zip(PROBLEMS, outcomes, strict=True)}
    assert ours == official
