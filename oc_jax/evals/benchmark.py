"""What a benchmark is, and what all of them share: asking a model, judging what it wrote, and summing up."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import platform
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from etils import epath

from oc_jax import chat as chat_template
from oc_jax.evals import sandbox
from oc_jax.evals.execution import Choice, Judged, Limits, Source, judge
from oc_jax.evals.languages import LANGUAGES
from oc_jax.evals.metrics import pass_at_k, wilson_interval
from oc_jax.evals.task import Result, Subject


@dataclasses.dataclass(frozen=True)
class Problem:
    """One task. prompt: the text that a base model completes; request: what a chat model is asked, "" if it can't be.

    group: the part of the benchmark that it is reported under as well, e.g. a language. row: the data's own record.
    """

    task_id: str
    prompt: str
    request: str
    row: dict[str, Any]
    group: str = ""


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Prompts, extraction, programs.

    load: problems from a file or directory; from None where a package brings the data.
    extract: a completion → the solution that was meant; program: a solution → what is judged.
    canonical: the data's own solution, as `program` takes it, or None.
    stops: of a base model; chat_stops, answer_prefix: of a chat model, and the beginning of the answer it is given.
    """

    name: str
    load: Callable[[epath.Path | None], list[Problem]]
    extract: Callable[[Problem, str], str]
    program: Callable[[Problem, str], Judged]
    canonical: Callable[[Problem], str | None] = lambda problem: None
    stops: Callable[[Problem], Sequence[str]] = lambda problem: ()
    chat_stops: Sequence[str] = ()
    answer_prefix: Callable[[Problem], str] = lambda problem: ""
    max_new_tokens: int = 768
    limits: Limits = Limits()


@dataclasses.dataclass(frozen=True)
class Sample:
    """What was written for a problem: a completion, or (raw None) a whole solution."""

    problem: Problem
    raw: str | None
    solution: str

    @classmethod
    def of(cls, benchmark: Benchmark, problem: Problem, completion: str) -> Sample:
        return cls(problem, completion, benchmark.extract(problem, completion))


def read_rows(path: epath.Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl or .json file, gzipped or not. Raises ValueError naming a line that is no JSON."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode()
    if path.name.removesuffix(".gz").endswith(".json"):
        return json.loads(text)
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"line {number} of {path} is not JSON: {error}") from error
    return rows


def data_files(path: epath.Path | None, needed: str) -> list[epath.Path]:
    """The files of a benchmark's data. Raises FileNotFoundError, saying what is `needed`, where there are none."""
    files = [] if path is None else [path] if path.is_file() else sorted(path.glob("*.jsonl*")) if path.is_dir() else []
    if not files:
        raise FileNotFoundError(f"no data at {path}: give {needed} with --data, or bind the benchmark's `data`")
    return files


def load(benchmark: Benchmark, data: epath.Path | None, max_problems: int | None = None) -> list[Problem]:
    """The benchmark's problems. Raises ValueError where two have the same id, FileNotFoundError without data."""
    problems = benchmark.load(data)
    if len({problem.task_id for problem in problems}) < len(problems):
        raise ValueError(f"{data} holds a task_id twice")
    return problems[:max_problems]


def verdicts(benchmark: Benchmark, samples: Sequence[Sample], limits: Limits) -> Iterator[sandbox.Outcome]:
    """The outcome of each sample, in order. Equal programs are judged once in a row of them."""
    programs = [benchmark.program(sample.problem, sample.solution) for sample in samples]
    first = {program: i for i, program in reversed(list(enumerate(programs)))}
    fresh = judge((p for i, p in enumerate(programs) if first[p] == i), limits)
    known: dict[Judged, sandbox.Outcome] = {}
    for program in programs:
        if program not in known:
            known[program] = next(fresh)
        yield known[program]


def generate(
    benchmark: Benchmark,
    problems: Sequence[Problem],
    engine: Any,
    *,
    chat: bool,
    samples_per_problem: int = 1,
    **settings: Any,
) -> list[Any]:
    """`samples_per_problem` completions of each problem, one problem after the other."""
    asked: dict[tuple[str, ...], list[int]] = defaultdict(list)  # stops → places: they differ by language
    rows = [problem for problem in problems for _ in range(samples_per_problem)]
    if chat and (without := next((p.task_id for p in rows if not p.request), None)):
        raise ValueError(f"{benchmark.name} has no chat form for {without}")
    for place, problem in enumerate(rows):
        asked[tuple(benchmark.chat_stops if chat else benchmark.stops(problem))].append(place)
    completions: list[Any] = [None] * len(rows)
    for stops, places in asked.items():
        prompts = [_prompt_ids(benchmark, rows[i], engine.tokenizer, chat) for i in places]
        for place, completion in zip(places, engine.generate(prompts, stop=stops, **settings), strict=True):
            completions[place] = completion
    return completions


def _prompt_ids(benchmark: Benchmark, problem: Problem, tokenizer: Any, chat: bool) -> list[int]:
    if not chat:
        return [*tokenizer.prefix, *tokenizer.encode(problem.prompt)]
    messages: list[chat_template.Message] = [{"role": "user", "content": problem.request}]
    ids, _ = chat_template.render(messages, tokenizer, generation_prompt=True)
    return [*ids, *tokenizer.encode(benchmark.answer_prefix(problem))]


def ground_truth(benchmark: Benchmark, problems: Sequence[Problem], limits: Limits) -> dict[str, bool]:
    """task_id → whether the data's own solution passes here, for the problems that have one."""
    known = [(p, solution) for p in problems if (solution := benchmark.canonical(p)) is not None]
    outcomes = verdicts(benchmark, [Sample(p, None, s) for p, s in known], limits)
    return {p.task_id: o.status == "ok" for (p, _), o in zip(known, outcomes, strict=True) if o.status != "refused"}


def summary(
    problems: Sequence[Problem], passes: dict[str, list[bool]], k: Sequence[int], truth: dict[str, bool]
) -> dict[str, Any]:
    """pass@k with 95 % intervals over `passes`, task_id → whether each of its samples passed; tasks not run are absent.

    The interval is Wilson's with the tasks as trials, which is what task-to-task variation amounts to at k = 1 and one
    sample, and wider than needed otherwise. "where_ground_truth_passes" leaves out tasks whose own solution fails here.
    Raises ValueError for a k greater than the number of a task's samples.
    """

    def scores(chosen: Sequence[Problem]) -> dict[str, Any]:
        counts = [(len(passes[p.task_id]), sum(passes[p.task_id])) for p in chosen if p.task_id in passes]
        out: dict[str, Any] = {}
        for i in k:
            value = sum(pass_at_k(n, c, i) for n, c in counts) / len(counts) if counts else None
            out[f"pass@{i}"] = value
            out[f"pass@{i}_interval"] = None if value is None else wilson_interval(value, len(counts))
        return out | {"tasks": len(counts), "not_run": len(chosen) - len(counts)}

    numbers = scores(problems)
    if truth:
        sound = [p for p in problems if truth.get(p.task_id)]
        numbers["ground_truth"] = {"passed": sum(truth.values()), "tasks": len(truth)}
        numbers["where_ground_truth_passes"] = scores(sound)
    if len(groups := sorted({p.group for p in problems})) > 1:
        numbers["by_group"] = {group: scores([p for p in problems if p.group == group]) for group in groups}
    return numbers


def environment(benchmark: Benchmark, problems: Sequence[Problem], limits: Limits) -> dict[str, Any]:
    """What verdicts depend on beside the programs; two runs compare where it is the same."""
    programs = [benchmark.program(p, benchmark.canonical(p) or "") for p in _one_per_group(problems)]
    languages = sorted({p.language for p in programs if isinstance(p, Source) and p.language in LANGUAGES})
    kinds = {isinstance(p, Source) for p in programs if not isinstance(p, Choice)}
    digest = hashlib.sha256(json.dumps([p.row for p in problems], sort_keys=True).encode()).hexdigest()
    return {
        "data_sha256": digest,
        "sandbox": sandbox.rung(commands=kinds == {True}) or "none",
        "python": platform.python_version(),
        "toolchains": {name: LANGUAGES[name].toolchain for name in languages},
        "limits": dataclasses.asdict(limits),
    }


def _one_per_group(problems: Sequence[Problem]) -> list[Problem]:
    return list({problem.group: problem for problem in problems}.values())


def make_task(benchmark: Benchmark) -> Callable[..., Result]:
    """`benchmark` as a task of the stage `evaluate`, to be bound under the benchmark's name."""

    def task(
        subject: Subject,
        *,
        data: str | None = None,
        chat: bool = False,
        max_new_tokens: int = benchmark.max_new_tokens,
        temperature: float = 0.0,
        top_p: float = 1.0,
        samples_per_problem: int = 1,
        k: Sequence[int] = (1,),
        seed: int = 0,
        max_problems: int | None = None,
        check_ground_truth: bool = True,
        limits: Limits = benchmark.limits,
    ) -> Result:
        """pass@k of the benchmark.

        Args:
          data: file or directory, local or gs://; None for data that comes with a package.
          chat: ask through the chat template instead of giving the text to complete.
          samples_per_problem: completions per problem; `k`: which pass@k to compute, each ≤ samples_per_problem.
          max_problems: only the first so many problems, for a quick look.
          check_ground_truth: judge the data's own solutions too, where it has some.
        """
        problems = load(benchmark, None if data is None else epath.Path(data), max_problems)
        settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
        completions = generate(
            benchmark, problems, subject.engine, chat=chat, samples_per_problem=samples_per_problem, **settings
        )
        rows = [p for p in problems for _ in range(samples_per_problem)]
        samples = [Sample.of(benchmark, p, c.text) for p, c in zip(rows, completions, strict=True)]
        truth = ground_truth(benchmark, problems, limits) if check_ground_truth else {}
        passes: dict[str, list[bool]] = defaultdict(list)
        judged = []
        for sample, completion, outcome in zip(samples, completions, verdicts(benchmark, samples, limits), strict=True):
            if outcome.status != "refused":
                passes[sample.problem.task_id].append(outcome.status == "ok")
            judged.append(
                {
                    "task_id": sample.problem.task_id,
                    "passed": outcome.status == "ok",
                    "status": outcome.status,
                    "detail": outcome.detail,
                    "completion": completion.text,
                    "solution": sample.solution,
                    "program": benchmark.program(sample.problem, sample.solution).solution,
                    "finish_reason": completion.finish_reason,
                }
            )
        numbers = summary(problems, passes, k, truth)
        about = {"benchmark": benchmark.name, "chat": chat, "samples_per_problem": samples_per_problem, **settings}
        about |= environment(benchmark, problems, limits)
        return Result(numbers[f"pass@{k[0]}"], {**numbers, **about, "problems": judged})

    task.__name__ = task.__qualname__ = benchmark.name
    return task
