"""A part of benchmarks/replay.py: verdicts on a published model's generations equal the published ones."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from etils import epath

from oc_jax.evals import benchmark as lib
from oc_jax.evals.registry import REGISTRY

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "replay.py"
spec = importlib.util.spec_from_file_location("replay", PATH)
assert spec and spec.loader
replay = importlib.util.module_from_spec(spec)
spec.loader.exec_module(replay)

# name → (take every n-th task, differences allowed). MBPP's published verdicts are on an older edition of the tests; in
# C# the published harness passes programs that die of an exception.
EVALPLUS = {"humaneval_plus": (8, 0), "mbpp": (8, 2), "mbpp_plus": (12, 2)}
LANGUAGES = {"js": (4, 0), "sh": (4, 1), "php": (4, 1), "cpp": (20, 0), "cs": (10, 1), "ts": (30, 0), "java": (30, 0)}


def differences(benchmark: lib.Benchmark, cases: list) -> list[str]:
    outcomes = list(lib.verdicts(benchmark, [sample for sample, _ in cases], benchmark.limits))
    if all(outcome.status == "refused" for outcome in outcomes):
        pytest.skip(outcomes[0].detail)
    pairs = zip(cases, outcomes, strict=True)
    return [f"{s.problem.task_id}: {o.status} {o.detail}" for (s, passed), o in pairs if passed != (o.status == "ok")]


@pytest.mark.slow
@pytest.mark.parametrize("name", EVALPLUS)
def test_evalplus(shared_data, name):
    every, allowed = EVALPLUS[name]
    found = differences(REGISTRY[name], replay.evalplus(epath.Path(shared_data / "eval"), name)[::every])
    assert len(found) <= allowed, found


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_multipl_e(shared_data, language):
    every, allowed = LANGUAGES[language]
    found = differences(REGISTRY["multipl_e"], replay.multipl_e(epath.Path(shared_data / "eval"), language)[::every])
    assert len(found) <= allowed, found


@pytest.mark.slow
def test_bigcodebench_solutions_that_need_no_library(shared_data):
    cases = replay.canonical(epath.Path(shared_data / "eval"), "bigcodebench")[::40]
    assert len(differences(REGISTRY["bigcodebench"], cases)) <= 1 < len(cases)
