from __future__ import annotations

import json
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
from etils import epath

from oc_jax import evals
from oc_jax.evals import benchmark as lib
from oc_jax.evals import score
from oc_jax.evals.humaneval import load
from oc_jax.evals.registry import REGISTRY

ROOT = Path(__file__).resolve().parents[2]
ONE = load(None)[0]
BENCHMARK = REGISTRY["humaneval"]
RIGHT = {"task_id": ONE.task_id, "completion": ONE.row["canonical_solution"]}
WRONG = {"task_id": ONE.task_id, "completion": "    return None\n"}


def write(path: Path, rows: list[dict]) -> epath.Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return epath.Path(path)


def run(tmp_path, samples, **settings):
    output = epath.Path(tmp_path / "verdicts.jsonl")
    numbers = score.score(BENCHMARK, None, samples, output, BENCHMARK.limits, **settings)
    return numbers, [json.loads(line) for line in output.read_text().splitlines()]


def test_verdicts_of_completions_and_solutions_without_gin_or_workdir(tmp_path):
    whole = {"task_id": ONE.task_id, "solution": ONE.prompt + ONE.row["canonical_solution"]}
    samples = write(tmp_path / "samples.jsonl", [RIGHT, WRONG, whole])
    command = [sys.executable, "run.py", "--mode=score", "--benchmark=humaneval", f"--samples={samples}"]
    command += [f"--output={tmp_path / 'verdicts.jsonl'}", "--k", "1", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    verdicts = [json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_text().splitlines()]
    assert [(v["task_id"], v["sample"], v["passed"], v["status"]) for v in verdicts] == [
        (ONE.task_id, 0, True, "ok"), (ONE.task_id, 1, False, "error"), (ONE.task_id, 2, True, "ok")
    ]  # fmt: skip
    numbers = json.loads(done.stdout)
    assert numbers["pass@1"] == pytest.approx(2 / 3) and numbers["pass@2"] == 1.0
    assert numbers["ground_truth"] == {"passed": 1, "tasks": 1} and numbers["tasks_without_samples"] == 163
    assert numbers == json.loads((tmp_path / "verdicts.summary.json").read_text())
    assert "jax" not in done.stderr.lower()


def test_a_run_that_was_cut_off_goes_on(tmp_path, monkeypatch):
    samples = write(tmp_path / "samples.jsonl", [RIGHT, WRONG, RIGHT])
    whole, verdicts = run(tmp_path, samples)
    output = tmp_path / "verdicts.jsonl"
    text = output.read_text()
    output.write_text(text[: len(text) // 2])  # a torn line
    judged = []
    verdicts_of = lib.verdicts

    def counting(benchmark, samples, limits):
        judged.append(len(samples))
        return verdicts_of(benchmark, samples, limits)

    monkeypatch.setattr(lib, "verdicts", counting)
    assert run(tmp_path, samples) == (whole, verdicts)
    assert judged[0] == 2


def test_verdicts_of_other_samples_are_not_continued(tmp_path):
    run(tmp_path, write(tmp_path / "samples.jsonl", [RIGHT]), check_ground_truth=False)
    with pytest.raises(ValueError, match="different samples_sha256"):
        run(tmp_path, write(tmp_path / "samples.jsonl", [WRONG]))


@pytest.mark.parametrize(
    "row, message",
    [
        ({"task_id": "HumanEval/999", "completion": ""}, "no task 'HumanEval/999'"),
        ({"task_id": ONE.task_id}, "neither"),
    ],
)
def test_a_sample_that_can_not_be_judged_is_named(tmp_path, row, message):
    with pytest.raises(ValueError, match=f"sample 2 .*{message}"):
        run(tmp_path, write(tmp_path / "samples.jsonl", [RIGHT, row]))


def test_generate_writes_what_score_reads(tmp_path, monkeypatch):
    asked = []

    class Engine:
        tokenizer = types.SimpleNamespace(prefix=[2], encode=lambda text: [ord(c) for c in text])

        def generate(self, prompts, *, stop, **settings):
            asked.append((len(prompts), stop, settings["temperature"]))
            return [types.SimpleNamespace(text=RIGHT["completion"], finish_reason="stop") for _ in prompts]

    monkeypatch.setattr(evals, "load_engine", lambda checkpoint, tokenizer, **how: Engine())
    output = tmp_path / "samples.jsonl"
    score.generate([f"--output={output}", "--benchmark=humaneval", "--checkpoint=x", "--max_problems=1",
                    "--samples_per_problem=2", "--temperature=0.5"])  # fmt: skip
    assert asked == [(2, BENCHMARK.stops(ONE), 0.5)]
    numbers, _ = run(tmp_path, epath.Path(output), k=(1, 2))
    assert (numbers["samples"], numbers["pass@2"]) == (2, 1.0)


def descendants(pid: int) -> set[int]:
    """Of the process: its children, theirs, and so on."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # ended meanwhile
            continue
    found, new = set(), {pid}
    while new:
        found |= new
        new = {child for child, parent in parents.items() if parent in new} - found
    return found - {pid}


@pytest.mark.slow
def test_an_evaluator_killed_in_the_middle_leaves_no_process_and_goes_on(tmp_path):
    problems = load(None)[:16]
    rows = [{"task_id": p.task_id, "solution": p.prompt + p.row["canonical_solution"]} for p in problems]
    for row in rows[4:8]:  # two of them run when the kill comes
        row["solution"] = "import time; time.sleep(2)\n" + row["solution"]
    samples, output = write(tmp_path / "samples.jsonl", rows), tmp_path / "verdicts.jsonl"
    command = [sys.executable, "run.py", "--mode=score", "--benchmark=humaneval", f"--samples={samples}"]
    command += [f"--output={output}", "--no_ground_truth", "--workers=2"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as evaluator:
        while not output.exists() or output.read_text().count("\n") < 4:
            assert evaluator.poll() is None
            time.sleep(0.05)
        time.sleep(0.7)
        programs = descendants(evaluator.pid)
        evaluator.kill()
    before = output.read_text()
    assert len(programs) >= 4 and before.count("\n") < 16
    deadline = time.monotonic() + 5
    while left := {pid for pid in programs if Path(f"/proc/{pid}").exists()}:
        assert time.monotonic() < deadline, f"{left} outlive the evaluator"
        time.sleep(0.05)
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    assert output.read_text().startswith(before)
    verdicts = [json.loads(line) for line in output.read_text().splitlines()]
    assert [v["task_id"] for v in verdicts] == [p.task_id for p in problems] and all(v["passed"] for v in verdicts)
