"""The one thread that touches the engine, and what the event loop sees of it."""

from __future__ import annotations

import asyncio
import collections
import logging
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

from oc_jax.decode import Completion, Engine, Request

LOGGER = logging.getLogger("oc_jax.serve")


class Busy(Exception):
    """The queue is full."""


class Job:
    """A request on its way through the engine. `updates` yields its completion each time that it has grown."""

    def __init__(self, request: Request):
        self.request = request
        self.completion: Completion | None = None  # set by the worker
        self.cancelled = False
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._error: BaseException | None = None

    async def updates(self) -> AsyncIterator[Completion]:
        """Ends with the whole completion. Raises what the engine raised."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._error is not None:
                raise self._error
            assert self.completion is not None
            yield self.completion
            if self.completion.finish_reason:
                return

    def cancel(self) -> None:
        self.cancelled = True
        if self.completion is not None:
            self.completion.cancel()

    def notify(self, error: BaseException | None = None) -> None:
        """Called from the worker's thread."""

        def tell() -> None:
            self._error = error
            self._changed.set()

        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(tell)


class Worker(threading.Thread):
    """Runs the engine for as long as there are jobs; at most `max_queue` requests wait or run."""

    def __init__(self, engine: Engine, *, max_queue: int):
        super().__init__(name="engine", daemon=True)
        self.engine, self.max_queue = engine, max_queue
        self._inbox: collections.deque[Callable[[], None]] = collections.deque()
        self._jobs: list[Job] = []
        self._pending = 0  # jobs that are in the inbox or running
        self._lock = threading.Condition()
        self._stopping = False

    def submit(self, request: Request) -> Job:
        """Queues a request. Raises Busy where too many are there already."""
        job = Job(request)
        with self._lock:
            if self._pending >= self.max_queue or self._stopping:
                raise Busy
            self._pending += 1
        self._put(lambda: self._start(job))
        return job

    async def call(self, function: Callable[[Engine], Any]) -> Any:
        """`function(engine)`, run between two steps. Raises Busy as `submit` does."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Any] = loop.create_future()

        def run() -> None:
            try:
                value, error = function(self.engine), None
            except Exception as caught:
                value, error = None, caught
            with self._lock:
                self._pending -= 1
            loop.call_soon_threadsafe(lambda: None if result.done() else _resolve(result, value, error))

        with self._lock:
            if self._pending >= self.max_queue or self._stopping:
                raise Busy
            self._pending += 1
        self._put(run)
        return await result

    @property
    def pending(self) -> int:
        return self._pending

    def stop(self) -> None:
        """Lets running jobs end and takes no new ones."""
        with self._lock:
            self._stopping = True
            self._lock.notify()

    def run(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._inbox or self._jobs or self._stopping)
                if self._stopping and not self._inbox and not self._jobs:
                    return
                waiting, self._inbox = list(self._inbox), collections.deque()
            for task in waiting:
                task()
            if self._jobs:
                self._step()

    def _put(self, task: Callable[[], None]) -> None:
        with self._lock:
            self._inbox.append(task)
            self._lock.notify()

    def _start(self, job: Job) -> None:
        job.completion = self.engine.submit(job.request)
        if job.cancelled:
            job.completion.cancel()
        self._jobs.append(job)

    def _step(self) -> None:
        try:
            self.engine.step()
            error = None
        except Exception as caught:  # a failed program fails those who wait for it, not the server
            LOGGER.exception("the engine failed")
            self.engine.reset()
            error = caught
        ended = [job for job in self._jobs if error or (job.completion and job.completion.finish_reason)]
        with self._lock:
            self._pending -= len(ended)
        for job in self._jobs:
            job.notify(error)
        self._jobs = [job for job in self._jobs if job not in ended]


def _resolve(future: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
    future.set_result(value) if error is None else future.set_exception(error)
