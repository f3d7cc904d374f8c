"""The two halves of a benchmark, for different machines: writing samples needs a model, judging them a sandbox.

    python run.py --mode=generate --benchmark=humaneval --checkpoint=… --output=samples.jsonl
    python run.py --mode=score --benchmark=humaneval --samples=samples.jsonl --output=verdicts.jsonl

A sample is a JSON object with `task_id` and either `completion` (what a model wrote after the prompt, or answered) or
`solution` (a whole program, which is run as it is). So anybody's samples can be judged, EvalPlus's files for instance.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import logging
import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from etils import epath

from oc_jax.evals import benchmark as lib
from oc_jax.evals.registry import REGISTRY


def read_samples(benchmark: lib.Benchmark, problems: Sequence[lib.Problem], path: epath.Path) -> list[lib.Sample]:
    """Raises ValueError for a line that names no task of the benchmark or holds no text."""
    by_id = {problem.task_id: problem for problem in problems}
    samples = []
    for number, row in enumerate(lib.read_rows(path), start=1):
        problem = by_id.get(str(row.get("task_id")))
        if problem is None:
            near = next(iter(by_id), "none")
            raise ValueError(
                f"sample {number} of {path}: {benchmark.name} has no task {row.get('task_id')!r}; has {near}"
            )
        if isinstance(row.get("solution"), str):
            samples.append(lib.Sample(problem, None, row["solution"]))
        elif isinstance(row.get("completion"), str):
            samples.append(lib.Sample.of(benchmark, problem, row["completion"]))
        else:
            raise ValueError(f"sample {number} of {path} has neither a completion nor a solution")
    return samples


def score(
    benchmark: lib.Benchmark,
    data: epath.Path | None,
    samples_path: epath.Path,
    output: epath.Path,
    limits: lib.Limits,
    *,
    k: Sequence[int] = (1,),
    check_ground_truth: bool = True,
) -> dict[str, Any]:
    """Writes a verdict line for each sample, in order, and the summary that is returned beside it (.summary.json).

    A run that was cut off goes on behind the last whole line. Raises ValueError where `output` belongs to a different
    benchmark, data, samples, limits or sandbox.
    """
    problems = lib.load(benchmark, data)
    samples = read_samples(benchmark, problems, samples_path)
    about = {"benchmark": benchmark.name, "samples_sha256": hashlib.sha256(samples_path.read_bytes()).hexdigest()}
    about |= lib.environment(benchmark, problems, limits)
    summary_path = output.parent / (output.name.removesuffix(".jsonl") + ".summary.json")
    written = _resume(output, summary_path, about)
    counted: dict[str, int] = defaultdict(int)
    numbered = []
    for sample in samples:
        numbered.append((sample, counted[sample.problem.task_id]))
        counted[sample.problem.task_id] += 1
    with output.open("a") as file:
        fresh = lib.verdicts(benchmark, samples[len(written) :], limits)
        for (sample, number), outcome in zip(numbered[len(written) :], fresh, strict=True):
            verdict = {
                "task_id": sample.problem.task_id,
                "sample": number,
                "passed": outcome.status == "ok",
                "status": outcome.status,
                "detail": outcome.detail,
            }
            written.append(verdict)
            file.write(json.dumps(verdict) + "\n")
            file.flush()
            _progress(len(written), len(samples), sum(row["passed"] for row in written))
    passes: dict[str, list[bool]] = defaultdict(list)
    for row in written:
        if row["status"] != "refused":
            passes[row["task_id"]].append(row["passed"])
    asked = [problem for problem in problems if problem.task_id in counted]
    truth = lib.ground_truth(benchmark, asked, limits) if check_ground_truth else {}
    numbers = lib.summary(asked, passes, k, truth)
    numbers |= {"samples": len(samples), "tasks_without_samples": len(problems) - len(asked)}
    _write(summary_path, numbers | about)
    return numbers | about


def _resume(output: epath.Path, summary_path: epath.Path, about: dict[str, Any]) -> list[dict[str, Any]]:
    """The verdicts that are there already; a torn last line is cut off."""
    lines = output.read_text().split("\n") if output.exists() else [""]
    if len(lines) > 1:
        before = json.loads(summary_path.read_text()) if summary_path.exists() else {}
        if changed := [name for name, value in about.items() if before.get(name) != json.loads(json.dumps(value))]:
            raise ValueError(f"{output} was written with different {', '.join(changed)}: remove it to start anew")
    output.write_text("".join(line + "\n" for line in lines[:-1]))
    _write(summary_path, about)
    return [json.loads(line) for line in lines[:-1]]


def _write(path: epath.Path, value: dict[str, Any]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    temporary.replace(path)


def _progress(done: int, total: int, passed: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {total} judged, {passed} passed", end="" if done < total else "\n", file=sys.stderr)
    elif done % max(1, total // 10) == 0:
        print(f"{done} of {total} judged, {passed} passed", file=sys.stderr, flush=True)


def _parser(mode: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"run.py --mode={mode}", description=description)
    parser.add_argument("--benchmark", required=True, choices=REGISTRY, metavar="NAME", help=", ".join(REGISTRY))
    parser.add_argument("--data", type=epath.Path, help="its data: file or directory, local or gs://")
    parser.add_argument("--output", required=True, type=epath.Path, help="JSONL file to write")
    return parser


def main(argv: list[str]) -> None:
    """python run.py --mode=score"""
    parser = _parser("score", "Judges samples of a benchmark, whoever wrote them.")
    parser.add_argument("--samples", required=True, type=epath.Path, help="JSONL: task_id, completion or solution")
    parser.add_argument("--k", type=int, nargs="+", default=[1], help="which pass@k to compute")
    parser.add_argument("--cpu_seconds", type=int, help="CPU time of a program")
    parser.add_argument("--workers", type=int, default=0, help="programs at a time (default: one per core)")
    parser.add_argument("--libraries", help="directory of Python packages for BigCodeBench's programs")
    parser.add_argument("--no_ground_truth", action="store_true", help="don't judge the data's own solutions")
    parser.add_argument("--allow_unsandboxed", action="store_true", help="run programs even where there is no sandbox")
    args = parser.parse_args(argv)
    benchmark = REGISTRY[args.benchmark]
    limits = dataclasses.replace(
        benchmark.limits,
        cpu_seconds=args.cpu_seconds or benchmark.limits.cpu_seconds,
        workers=args.workers,
        libraries=args.libraries and os.path.abspath(args.libraries),
        allow_unsandboxed=args.allow_unsandboxed,
    )
    numbers = score(
        benchmark, args.data, args.samples, args.output, limits, k=args.k, check_ground_truth=not args.no_ground_truth
    )
    print(json.dumps(numbers, indent=1))


def generate(argv: list[str]) -> None:
    """python run.py --mode=generate: with --benchmark samples for it, else completions of --prompt."""
    if not any(argument.split("=")[0] == "--benchmark" for argument in argv):
        from oc_jax import decode  # late: it needs JAX

        return decode.main(argv)
    parser = _parser("generate", "Writes samples of a benchmark, to be judged by --mode=score.")
    parser.add_argument("--checkpoint", required=True, type=epath.Path, help="directory of a finished train stage")
    parser.add_argument("--tokenizer", type=epath.Path, help="tokenizer directory (default: beside the checkpoint)")
    parser.add_argument("--chat", action="store_true", help="ask through the chat template")
    parser.add_argument("--max_problems", type=int, help="only the first so many problems")
    parser.add_argument("--samples_per_problem", type=int, default=1)
    parser.add_argument("--max_new_tokens", type=int, help="default: the benchmark's")
    parser.add_argument("--temperature", type=float, default=0.0, help="0: greedy")
    parser.add_argument("--top_p", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from oc_jax.evals import load_engine

    benchmark = REGISTRY[args.benchmark]
    problems = lib.load(benchmark, args.data, args.max_problems)
    engine = load_engine(args.checkpoint, args.tokenizer or args.checkpoint.parent / "tokenizer")
    settings = {name: getattr(args, name) for name in ("temperature", "top_p", "seed", "chat", "samples_per_problem")}
    settings["max_new_tokens"] = args.max_new_tokens or benchmark.max_new_tokens
    completions = lib.generate(benchmark, problems, engine, **settings)
    rows = [problem for problem in problems for _ in range(args.samples_per_problem)]
    args.output.write_text(
        "".join(
            json.dumps({"task_id": p.task_id, "completion": c.text, "finish_reason": c.finish_reason}) + "\n"
            for p, c in zip(rows, completions, strict=True)
        )
    )
    print(f"{len(rows)} samples in {args.output}")
