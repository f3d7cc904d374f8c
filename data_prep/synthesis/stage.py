"""The stage `synthesis`: seeds in, what a teacher makes of them out, as documents or conversations with reasons."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import hashlib
import inspect
import json
from collections.abc import Collection, Iterator
from typing import Any

import gin
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from etils import epath

from data_prep import documents as docs
from data_prep import funnel
from data_prep.engine import Engine, LocalEngine
from data_prep.files import write_json
from data_prep.synthesis import pipeline as pipelines
from data_prep.synthesis.drive import grow_parts
from data_prep.synthesis.pipeline import Ask, Pipeline, Runner
from data_prep.synthesis.programs import Execute, Judge
from data_prep.synthesis.store import Store
from data_prep.synthesis.teacher import Endpoint, Teacher

ENDPOINT = Endpoint()
NOTHING: dict[str, dict[str, Any]] = {}


@gin.configurable
def synthesis(
    out: epath.Path,
    *,
    seeds: epath.Path = epath.Path("algorithmic"),
    pipeline: Pipeline = gin.REQUIRED,
    model: str = gin.REQUIRED,
    max_seeds: int | None = None,
    max_chars: int = 6000,
    regenerations: int = 2,
    requests: dict[str, dict[str, Any]] = NOTHING,
    execute: Execute | None = None,
    endpoint: Endpoint = ENDPOINT,
    buckets: int = 0,
    engine: Engine = LocalEngine(),
) -> dict[str, Any]:
    """Takes every seed through the steps of a pipeline; each row that comes out is kept once.

    A run that was killed, or stopped at its spending cap, goes on where it was and ends with the same bytes: answers
    and verdicts come from `Endpoint.responses`. Rows stand in the order of seed ids, in buckets of their own ids.

    Reasons: malformed: <what>, cut_off, tests_failed: <how>, tests_pass_without_solution, refused: <error>,
    unanswered: <error>, exact_duplicate: <seed of the first>, and those of the pipeline.

    Args:
      out: directory to write: documents or conversations, and yield.json: for each step its prompt and its yield.
      seeds: documents or conversations, as the pipeline reads them; held-out documents are left aside.
      pipeline: one of `data_prep.synthesis.uses`, such as @educational().
      model: the teacher, as the endpoint calls it.
      max_seeds: so many seeds with the smallest ids, which are hashes; by default all.
      max_chars: of a seed in a prompt; a longer document is represented by lines that are drawn by its id.
      regenerations: further answers asked for where one does not parse, or fails its tests.
      requests: step → settings of its requests, such as {"judge": {"model": "small", "max_tokens": 64}}.
      execute: runs tests: (language, solution, tests) → (status, detail); see `programs`.
      endpoint: how to reach the teacher, and the cap.
      buckets: number of parts, 0 for as many as fit in memory.

    Returns:
      The funnel; "steps", as in yield.json; "spent": money and tokens so far of all stages that share the responses.

    Raises:
      ValueError: the seeds are of another kind than the pipeline reads, or `requests` names no step.
      Stopped: nothing more can be asked; the message says why, and running again goes on.
    """
    asks = _asks(pipeline, requests)
    chosen, grown = out / "_scratch" / "seeds", out / "_scratch" / "rows"
    for directory in (chosen, grown):
        directory.mkdir(parents=True, exist_ok=True)
    choose = functools.partial(_chosen, last=_last_id(seeds, pipeline, max_seeds))
    engine.reduce(choose, docs.parts(seeds), chosen, key="id", buckets=buckets, label="seeds")
    responses = endpoint.responses if "://" in endpoint.responses else out.parent / endpoint.responses
    with contextlib.closing(Store(responses)) as store:
        teacher = Teacher(endpoint, store)
        runner = Runner(teacher, Judge(execute, store), model, requests, regenerations)
        asyncio.run(grow_parts(docs.parts(chosen), grown, pipeline, max_chars, runner))
        cost, tokens = teacher.spent()
    _distinct(docs.parts(grown), out, pipeline, engine)
    steps = list(_yields(out, asks))
    write_json(out / "yield.json", {"pipeline": pipeline.name, "writes": pipeline.writes, "steps": steps})
    result = funnel.write(out)
    (out / "_scratch").rmtree()
    return result | {"steps": steps, "spent": {"cost": cost, "tokens": int(tokens)}}


def _fingerprint() -> dict[str, str]:
    """The prompts: a stage runs again where one has changed, and pays for what is new."""
    names = sorted(path.stem for path in pipelines.PROMPTS.glob("*.txt"))
    return {"prompts": hashlib.sha256("".join(map(pipelines.digest, names)).encode()).hexdigest()}


inspect.unwrap(synthesis).fingerprint = _fingerprint


def _asks(pipeline: Pipeline, requests: Collection[str]) -> list[Ask]:
    asks = [step for step in pipeline.steps if isinstance(step, Ask)]
    if unknown := sorted(set(requests) - {step.name for step in asks}):
        known = ", ".join(step.name for step in asks)
        raise ValueError(f"synthesis.requests: {pipeline.name} has no step {unknown[0]!r}, only {known}")
    return asks


def _last_id(seeds: epath.Path, pipeline: Pipeline, max_seeds: int | None) -> str | None:
    """The largest id among the `max_seeds` smallest ones."""
    ids = []
    for part in docs.parts(seeds):
        with part.open("rb") as file:
            names = pq.read_schema(file).names
        if ("messages" in names) != (pipeline.reads == "conversations"):
            raise ValueError(f"{pipeline.name} reads {pipeline.reads}, and {seeds} holds none: bind synthesis.seeds")
        if max_seeds is not None:
            ids += _usable(docs.read_part(part, [n for n in ("id", "reasons", "split") if n in names]))[
                "id"
            ].to_pylist()
    return None if max_seeds is None or len(ids) <= max_seeds else sorted(ids)[max_seeds - 1] if max_seeds else ""


def _usable(table: pa.Table) -> pa.Table:
    table = docs.kept(table)
    if "split" in table.column_names:
        table = table.filter(pc.fill_null(pc.not_equal(table["split"], "heldout"), True))
    return table


def _chosen(table: pa.Table, *, last: str | None) -> pa.Table:
    table = _usable(table).sort_by("id")
    return table if last is None else table.filter(pc.less_equal(table["id"], last))


def _distinct(parts: list[epath.Path], out: epath.Path, pipeline: Pipeline, engine: Engine) -> None:
    column = "id" if pipeline.writes == "conversations" else "content_sha256"
    keep = functools.partial(_first_of_equals, column=column)
    engine.reduce(keep, parts, out, key=column, buckets=len(parts), label="distinct rows")


def _first_of_equals(table: pa.Table, *, column: str) -> pa.Table:
    """Of kept rows with an equal `column` all but the first are dropped."""
    first: dict[str, str] = {}
    rows = zip(*(table[name].to_pylist() for name in (column, "provenance", "reasons")), strict=True)
    reasons = []
    for number, (value, provenance, known) in enumerate(rows):
        seed = json.loads(provenance)["seed"]
        here = f"{number} {seed}"
        duplicate = not known and first.setdefault(value, here) != here
        reasons.append([f"exact_duplicate: {first[value].split()[1]}"] if duplicate else known)
    return docs.drop(table, reasons)


def _yields(out: epath.Path, asks: list[Ask]) -> Iterator[dict[str, Any]]:
    """For each step: its prompt, the model, how many states it had, passed and rejected, and the requests it took."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    reasons: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    about: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    for part in docs.parts(out):
        for text in docs.read_part(part, ["provenance"])["provenance"].to_pylist():
            provenance = json.loads(text)
            for entry in provenance["steps"]:
                step, asked, rejected = entry["step"], entry["requests"], entry["rejected"]
                if (once := (step, asked[0] if asked else provenance["seed"])) in seen:
                    continue  # branches share what came before
                seen.add(once)
                about[step] = entry.get("model", "")
                reasons[step].update(map(funnel.reason_key, rejected))
                passed = len(rejected) < max(1, len(asked))
                counts[step].update({"entered": 1, "passed": int(passed), "requests": len(asked)})
    prompts = {ask.name: ask.template or ask.name for ask in asks}
    for step in [*prompts, *sorted(set(counts) - set(prompts))]:
        described = {"step": step, "model": about.get(step, "")}
        if step in prompts:
            described |= {"prompt": f"{prompts[step]}.txt", "prompt_sha256": pipelines.digest(prompts[step])}
        numbers = {name: counts[step][name] for name in ("entered", "passed", "requests")}
        yield described | numbers | {"rejected": dict(sorted(reasons[step].items()))}
