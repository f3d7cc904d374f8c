"""A pipeline: steps that turn a seed into rows. A step asks the teacher with a template and parses what it says.

    Ask("question", parse_question)         prompts/question.txt, filled from the fields known so far → more fields
    some_function                           fields and the seed's id → more fields, without a teacher

What a step raises `Rejected` for is asked again, as another sample, as often as the step allows; after that the seed is
dropped with the last reason. Everything that was asked and why it was turned down stands in the row's provenance.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import hashlib
import pathlib
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data_prep.synthesis.grammar import Rejected
from data_prep.synthesis.programs import Judge
from data_prep.synthesis.teacher import Teacher

PROMPTS = pathlib.Path(__file__).parent / "prompts"
Fields = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Ask:
    """A question to the teacher.

    Attributes:
      name: of the step and, unless `template` is given, of the file in prompts/.
      parse: (answer, fields) → new fields; raises Rejected.
      samples: independent answers, each of which goes on by itself.
      regenerations: further answers asked for where one is rejected; None for as many as the stage allows.
      max_tokens, temperature: of a request. The paper's large-scale synthesis has T = 1.
      tested: the fields "solution" and "test", in the language "language", must pass in the sandbox.
      cut: answers that end at max_tokens are parsed as well.
      words: instead of letting the teacher write, ask how likely it goes on with each of them: the answer is a JSON
        list of log-probabilities. Needs an endpoint that echoes prompts with log-probabilities.
      when: whether the step is taken; by default always.
    """

    name: str
    parse: Callable[[str, Fields], dict[str, str]]
    template: str = ""
    samples: int = 1
    regenerations: int | None = None
    max_tokens: int = 2048
    temperature: float = 1.0
    tested: bool = False
    cut: bool = False
    words: tuple[str, ...] = ()
    when: Callable[[Fields], bool] = lambda fields: True


Step = Ask | Callable[[Fields, str], dict[str, str]]


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """name: kind of its rows. reads, writes: "documents" or "conversations".

    finish: (fields, seed) → columns of a new row: "messages" of a conversation, "text" and "doc_type" of a document,
        "language" of either. Without it the seeds themselves go on, or are dropped.
    """

    name: str
    reads: str
    writes: str
    steps: tuple[Step, ...]
    finish: Callable[[Fields, Mapping[str, Any]], dict[str, Any]] | None = None


@dataclasses.dataclass(frozen=True)
class Grown:
    """What became of a seed, or of one of its branches. trail: what happened at each step; reason: why it ended."""

    fields: dict[str, str]
    trail: tuple[dict[str, Any], ...] = ()
    reason: str = ""


@functools.cache
def template(name: str) -> string.Template:
    """The prompt of that name, in which $field stands for a field. Raises FileNotFoundError."""
    return string.Template((PROMPTS / f"{name}.txt").read_text())


@functools.cache
def digest(name: str) -> str:
    """SHA-256 hex of a prompt."""
    return hashlib.sha256(template(name).template.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Runner:
    """Takes seeds through the steps.

    requests: step → what its requests hold beside, or instead of, the defaults. regenerations: see `Ask`.
    """

    teacher: Teacher
    judge: Judge
    model: str
    requests: Mapping[str, Mapping[str, Any]]
    regenerations: int

    async def grow(self, state: Grown, seed: str, steps: Sequence[Step]) -> list[Grown]:
        """The branches of a seed after `steps`, in the order of their samples, those that ended early as well."""
        if state.reason or not steps:
            return [state]
        step, rest = steps[0], steps[1:]
        if not isinstance(step, Ask):
            return await self.grow(_by_function(state, seed, step), seed, rest)
        if not step.when(state.fields):
            return await self.grow(state, seed, rest)

        async def branch(number: int) -> list[Grown]:
            return await self.grow(await self._ask(state, step, number), seed, rest)

        return [grown for branches in await asyncio.gather(*map(branch, range(step.samples))) for grown in branches]

    async def _ask(self, state: Grown, step: Ask, branch: int) -> Grown:
        """`state` after the first answer that is accepted, or with the reason why the last one was not."""
        name = step.template or step.name
        request = self.request(step, template(name).substitute(state.fields))
        entry: dict[str, Any] = {"step": step.name, "prompt": digest(name)[:16], "model": request["model"]}
        entry |= {"requests": [], "rejected": []}
        fields = state.fields
        for draw in range(1 + (self.regenerations if step.regenerations is None else step.regenerations)):
            # Branches draw from disjoint samples, so that none repeats another's answer.
            answer = await self.teacher.ask(request, branch + draw * step.samples)
            entry["requests"].append(answer.key[:16])
            try:
                fields = state.fields | {"answer": answer.text}
                if answer.finish in ("refused", "unanswered"):
                    raise Rejected(f"{answer.finish}: {answer.text}")
                if answer.finish == "length" and not step.cut:
                    raise Rejected("cut_off")
                fields |= step.parse(answer.text.strip(), state.fields)
                if step.tested:
                    await self.judge.check(fields["language"], fields["solution"], fields["test"])
                return Grown(fields, (*state.trail, entry))
            except Rejected as rejected:
                entry["rejected"].append(str(rejected))
                if answer.finish in ("refused", "unanswered"):
                    break
        return Grown(fields, (*state.trail, entry), entry["rejected"][-1])

    def request(self, step: Ask, prompt: str) -> dict[str, Any]:
        """The body of the request; a value None in `requests` takes a setting away."""
        if step.words:
            request: dict[str, Any] = {"model": self.model, "prompt": [prompt.rstrip() + w for w in step.words]}
            request |= {"max_tokens": 0, "echo": True, "logprobs": 0}
        else:
            request = {"model": self.model, "messages": [{"role": "user", "content": prompt}]}
            request |= {"max_tokens": step.max_tokens, "temperature": step.temperature}
        request |= self.requests.get(step.name, {})
        return {name: value for name, value in request.items() if value is not None}


def _by_function(state: Grown, seed: str, step: Callable[[Fields, str], dict[str, str]]) -> Grown:
    entry: dict[str, Any] = {"step": step.__name__, "requests": [], "rejected": []}
    try:
        return Grown(state.fields | step(state.fields, seed), (*state.trail, entry))
    except Rejected as rejected:
        entry["rejected"].append(str(rejected))
        return Grown(state.fields, (*state.trail, entry), str(rejected))
