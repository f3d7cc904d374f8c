"""Judges a published model's generations again and compares with the published verdicts; then the data's own solutions.

    python benchmarks/replay.py DATA [--only humaneval cpp …] [--every N]

DATA holds the benchmarks' files and real_generations/1.5b-base: Qwen2.5-Coder-1.5B's outputs with the verdicts of
EvalPlus, MultiPL-E and BigCodeBench. Whole sets take about 20 minutes of CPU time, --every 10 a tenth of that.
"""

from __future__ import annotations

import argparse
import gzip
import json
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from etils import epath

from oc_jax.evals import benchmark as lib
from oc_jax.evals import sandbox
from oc_jax.evals.registry import REGISTRY

FILES = {
    "humaneval": "humaneval/HumanEval.jsonl",
    "humaneval_plus": "humanevalplus/HumanEvalPlus-OriginFmt.jsonl.gz",
    "mbpp": "mbppplus/MbppPlus-OriginFmt.jsonl.gz",
    "mbpp_plus": "mbppplus/MbppPlus-OriginFmt.jsonl.gz",
    "mbpp_3shot": "mbpp/mbpp.jsonl",
    "cruxeval_i": "cruxeval/cruxeval.jsonl",
    "cruxeval_o": "cruxeval/cruxeval.jsonl",
    "bigcodebench": "bigcodebench/BigCodeBench-hf.jsonl.gz",
}
LANGUAGES = ("js", "sh", "php", "cpp", "cs", "ts", "java")
Case = tuple[lib.Sample, bool]  # and the published verdict


def read(path: epath.Path):
    return json.loads(gzip.decompress(path.read_bytes()))


def evalplus(data: epath.Path, name: str) -> list[Case]:
    benchmark, kind = REGISTRY[name], "plus" if name.endswith("plus") else "base"
    folder = data / "real_generations/1.5b-base/evalplus" / name.removesuffix("_plus")
    official = read(folder / "generated_eval_results.json.gz")["eval"]
    written = {row["task_id"]: row["completion"] for row in lib.read_rows(folder / "generated.jsonl.gz")}
    problems = [p for p in lib.load(benchmark, data / FILES[name]) if p.task_id in official]
    return [(lib.Sample.of(benchmark, p, written[p.task_id]), _passed(official[p.task_id][0], kind)) for p in problems]


def _passed(row: dict[str, str], kind: str) -> bool:
    return row["base_status"] == "pass" and (kind == "base" or row["plus_status"] == "pass")


def multipl_e(data: epath.Path, language: str) -> list[Case]:
    benchmark, folder = REGISTRY["multipl_e"], data / "real_generations/1.5b-base/multipl-e"
    problems = {p.task_id: p for p in lib.load(benchmark, data / f"multipl-e/humaneval-{language}.jsonl")}
    written = {row["task_id"]: row for row in lib.read_rows(folder / f"pred_{language}_output.jsonl.gz")}
    cases = []
    for task_id, rows in read(folder / f"humaneval-{language}-details.json.gz").items():
        row = written[task_id]
        completion = row["wholecode"].removeprefix(row["prompt"].rstrip())
        cases.append((lib.Sample.of(benchmark, problems[task_id], completion), rows[0][1]["passed"]))
    return cases


def stdlib_only(problem: lib.Problem) -> bool:
    libraries = problem.row["libs"]
    if isinstance(libraries, str):
        libraries = json.loads(libraries.replace("'", '"'))
    return all(name.split(".")[0] in sys.stdlib_module_names for name in libraries)


def bigcodebench(data: epath.Path) -> list[Case]:
    """The tasks that need no other library; their tests may still need one."""
    benchmark, folder = REGISTRY["bigcodebench"], data / "real_generations/1.5b-base/bigcodebench/full"
    name = "completion-sanitized-calibrated"
    official = read(folder / f"{name}_eval_results.json.gz")["eval"]
    written = {row["task_id"]: row["solution"] for row in lib.read_rows(folder / f"{name}.jsonl.gz")}
    problems = [p for p in lib.load(benchmark, data / FILES["bigcodebench"]) if stdlib_only(p)]
    truth = lib.ground_truth(benchmark, problems, benchmark.limits)
    return [
        (lib.Sample(p, None, written[p.task_id]), official[p.task_id][0]["status"] == "pass")
        for p in problems
        if truth[p.task_id]
    ]


def canonical(data: epath.Path, name: str) -> list[Case]:
    benchmark = REGISTRY[name]
    problems = lib.load(benchmark, data / FILES[name])
    if name == "bigcodebench":
        problems = [p for p in problems if stdlib_only(p)]
    return [(lib.Sample(p, None, benchmark.canonical(p) or ""), True) for p in problems]


def extracted(data: epath.Path, name: str, chat: bool) -> list[Case]:
    """The data's own solutions as a model would write them, through our extraction."""
    benchmark = REGISTRY[name]
    cases = []
    for problem in lib.load(benchmark, data / FILES[name]):
        code = problem.row.get("code") or problem.prompt + problem.row["canonical_solution"]
        if chat:
            text = f"Sure, here it is.\n```python\n{code}\n```\nIt works as follows."
        else:
            text = (problem.row.get("canonical_solution") or code) + "\n```\n\nYou are an expert"
        cases.append((lib.Sample.of(benchmark, problem, text), True))
    return cases


def report(name: str, cases: list[Case], every: int) -> None:
    cases = cases[::every]
    benchmark = REGISTRY[name.split(" ")[0]]
    started = time.monotonic()
    outcomes = list(lib.verdicts(benchmark, [sample for sample, _ in cases], benchmark.limits))
    wall, cpu = time.monotonic() - started, sum(outcome.cpu_seconds for outcome in outcomes)
    ours = [outcome.status == "ok" for outcome in outcomes]
    equal = sum(a == b for a, (_, b) in zip(ours, cases, strict=True))
    published = sum(passed for _, passed in cases)
    print(f"{name:28} {equal:5} of {len(cases):5} {published:9} {sum(ours):6} {cpu:8.0f} {wall:8.0f}", flush=True)
    for (sample, passed), outcome in zip(cases, outcomes, strict=True):
        if passed != (outcome.status == "ok"):
            print(f"    {sample.problem.task_id}: published {passed}, here {outcome.status}: {outcome.detail[-100:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=epath.Path)
    parser.add_argument("--only", nargs="+", help="rows whose name holds one of these words")
    parser.add_argument("--every", type=int, default=1, help="take each n-th task only")
    args = parser.parse_args()
    if not (args.data / "real_generations").exists():
        sys.exit(f"no real_generations in {args.data}: nothing to replay")
    rows = {name: lambda name=name: evalplus(args.data, name) for name in list(FILES)[:4]}
    rows |= {f"multipl_e {name}": lambda name=name: multipl_e(args.data, name) for name in LANGUAGES}
    rows["bigcodebench"] = lambda: bigcodebench(args.data)
    rows |= {f"{name} canonical": lambda name=name: canonical(args.data, name) for name in FILES}
    for name in ("humaneval", "mbpp_3shot"):
        rows[f"{name} extracted base"] = lambda name=name: extracted(args.data, name, chat=False)
        rows[f"{name} extracted chat"] = lambda name=name: extracted(args.data, name, chat=True)
    print(f"sandbox: {sandbox.rung()}")
    print(f"{'set':28} {'verdicts equal':>14} {'published':>9} {'passed':>6} {'CPU s':>8} {'wall s':>8}")
    for name, cases in rows.items():
        if not args.only or any(word in name for word in args.only):
            report(name, cases(), args.every)


if __name__ == "__main__":
    main()
