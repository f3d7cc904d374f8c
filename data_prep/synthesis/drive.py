"""Many seeds at a time through a pipeline, in the order of the seeds, until all are done or the teacher stops."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
from etils import epath

from data_prep import documents as docs
from data_prep.files import metadata, write_parquet
from data_prep.progress import Progress
from data_prep.synthesis import rows
from data_prep.synthesis.pipeline import Grown, Pipeline, Runner
from data_prep.synthesis.teacher import Stopped, Teacher


async def grow_parts(
    parts: Sequence[epath.Path], out: epath.Path, pipeline: Pipeline, max_chars: int, runner: Runner
) -> None:
    """Writes the rows of each part of the seeds under the same name; parts that are there are complete."""
    total = sum(metadata(part).num_rows for part in parts)
    with Progress(pipeline.name, total, unit="seeds") as progress, _told_to_stop(runner.teacher):
        try:
            for part in parts:
                seeds = docs.read_part(part).to_pylist()
                if (out / part.name).exists():
                    progress.update(len(seeds))
                else:
                    made = await _grow(seeds, pipeline, max_chars, runner, progress)
                    write_parquet(iter([pa.Table.from_pylist(made, rows.SCHEMAS[pipeline.writes])]), out / part.name)
        finally:
            await runner.teacher.close()


async def _grow(
    seeds: Sequence[dict[str, Any]], pipeline: Pipeline, max_chars: int, runner: Runner, progress: Progress
) -> list[dict[str, Any]]:
    """The rows of `seeds`, in their order."""
    made: list[list[dict[str, Any]]] = [[] for _ in seeds]
    waiting = iter(enumerate(seeds))
    teacher = runner.teacher

    async def work() -> None:
        for i, seed in waiting:
            state = Grown(rows.fields_of(seed, pipeline.reads, max_chars))
            branches = await runner.grow(state, seed["id"], pipeline.steps)
            made[i] = [rows.row(pipeline, seed, number, branch) for number, branch in enumerate(branches)]
            progress.update(1, teacher.account())

    async def guarded() -> None:
        try:
            await work()
        except BaseException as error:
            teacher.stop(error)
            raise

    # Whoever ends first waits for the others: what is under way is paid for, and ends in the store.
    workers = (guarded() for _ in range(2 * teacher.endpoint.concurrency))  # some seeds are at their tests
    errors = [e for e in await asyncio.gather(*workers, return_exceptions=True) if e is not None]
    if errors:
        raise next((error for error in errors if not isinstance(error, Stopped)), errors[0])
    return [row for branches in made for row in branches]


@contextlib.contextmanager
def _told_to_stop(teacher: Teacher) -> Iterator[None]:
    """SIGINT and SIGTERM end the run once the requests under way are answered; a second one ends it at once."""
    loop, signals = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM)

    def stop(number: int) -> None:
        loop.remove_signal_handler(number)
        teacher.stop(Stopped("told to stop: what was under way is answered and kept; run again to go on"))

    with contextlib.suppress(ValueError, RuntimeError):  # only the main thread hears signals
        for number in signals:
            loop.add_signal_handler(number, stop, number)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
