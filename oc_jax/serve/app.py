"""The HTTP side: routes, limits and errors in the shapes that OpenAI's clients expect."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hmac
import json
import pathlib
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from oc_jax.decode import Completion
from oc_jax.serve import protocol
from oc_jax.serve.worker import Busy, Job, Worker

PAGE = pathlib.Path(__file__).with_name("page.html")


@dataclasses.dataclass(frozen=True)
class Limits:
    body_bytes: int = 4 << 20
    request_seconds: float = 600.0


class Api:
    """The routes over one worker."""

    def __init__(self, worker: Worker, name: str, *, api_key: str | None, limits: Limits):
        self.worker, self.name, self.api_key, self.limits = worker, name, api_key, limits
        self.started = int(time.time())

    def app(self) -> Starlette:
        routes = [
            Route("/", self.page),
            Route("/health", self.health),
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", self.models),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
        ]
        handlers: dict[Any, Any] = {HTTPException: _http_error, protocol.BadRequest: _bad_request, Busy: _busy}
        return Starlette(routes=routes, exception_handlers=handlers | {Exception: _failure})

    async def page(self, request: Request) -> Response:
        return HTMLResponse(PAGE.read_text())

    async def health(self, request: Request) -> Response:
        alive = self.worker.is_alive()
        return JSONResponse(
            {"status": "ok" if alive else "down", "pending": self.worker.pending}, 200 if alive else 503
        )

    async def models(self, request: Request) -> Response:
        self._authorise(request)
        context = self.worker.engine.config.max_position_embeddings
        model = {"id": self.name, "object": "model", "created": self.started, "owned_by": "oc_jax"}
        model["max_model_len"] = context
        asked = request.path_params.get("name")
        if asked is None:
            return JSONResponse({"object": "list", "data": [model]})
        self._named(asked)
        return JSONResponse(model)

    async def completions(self, request: Request) -> Response:
        return await self._answer(request, is_chat=False)

    async def chat(self, request: Request) -> Response:
        return await self._answer(request, is_chat=True)

    async def _answer(self, request: Request, *, is_chat: bool) -> Response:
        self._authorise(request)
        body = await self._body(request)
        engine = self.worker.engine
        call = await asyncio.to_thread(  # a long text takes a while to encode
            protocol.parse, body, engine.tokenizer, engine.config.max_position_embeddings, is_chat=is_chat
        )
        self._named(body.get("model", self.name))
        jobs = self._submit(call)
        if call.stream:
            wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))
            return StreamingResponse(self._stream(call, jobs, wants_usage), media_type="text/event-stream")
        try:
            async with asyncio.timeout(self.limits.request_seconds), _cancel_on_disconnect(request, jobs):
                scores = None
                if call.echo and call.logprobs is not None:
                    scores = await self.worker.call(lambda engine: engine.scores(call.prompts))
                completions = [await _last(job) for job in jobs]
        except TimeoutError:
            raise HTTPException(504, f"not done within {self.limits.request_seconds:g} s: ask for less") from None
        finally:
            for job in jobs:
                job.cancel()
        choices = [
            protocol.choice(call, i, found, scores[i // call.n] if scores else None, engine.tokenizer)
            for i, found in enumerate(completions or [None] * len(call.requests))
        ]
        answer = self._envelope(is_chat, uuid.uuid4().hex) | {"choices": choices}
        return JSONResponse(answer | {"usage": protocol.usage(call, completions)})

    def _submit(self, call: protocol.Call) -> list[Job]:
        jobs: list[Job] = []
        if call.max_tokens:
            try:
                for wanted in call.requests:
                    jobs.append(self.worker.submit(wanted))
            except Busy:
                for job in jobs:
                    job.cancel()
                raise
        return jobs

    async def _stream(self, call: protocol.Call, jobs: list[Job], wants_usage: bool) -> AsyncIterator[bytes]:
        """Server-sent events; the client going away cancels what is left."""
        envelope = self._envelope(call.chat, uuid.uuid4().hex, chunk=True)
        queue: asyncio.Queue[tuple[int, str, str | None] | BaseException] = asyncio.Queue()

        async def follow(index: int, job: Job) -> None:
            sent = 0
            try:
                async for completion in job.updates():
                    text = protocol.settled(completion)
                    if len(text) > sent or completion.finish_reason:
                        queue.put_nowait((index, text[sent:], completion.finish_reason or None))
                        sent = len(text)
            except Exception as error:
                queue.put_nowait(error)

        tasks = [asyncio.create_task(follow(i, job)) for i, job in enumerate(jobs)]
        try:
            async with asyncio.timeout(self.limits.request_seconds):
                if call.chat:
                    for i in range(len(jobs)):
                        yield _event(envelope | {"choices": [_delta(True, i, "", None, role="assistant")]})
                running = len(jobs)
                while running:
                    item = await queue.get()
                    if isinstance(item, BaseException):
                        raise item
                    index, text, finish = item
                    yield _event(envelope | {"choices": [_delta(call.chat, index, text, finish)]})
                    running -= finish is not None
            if wants_usage:
                done = [job.completion for job in jobs if job.completion]
                yield _event(envelope | {"choices": [], "usage": protocol.usage(call, done)})
            yield b"data: [DONE]\n\n"
        except TimeoutError:
            yield _event(_error_body(f"not done within {self.limits.request_seconds:g} s: ask for less", "timeout"))
        except Exception as error:
            yield _event(_error_body(f"generation failed: {error}", "server_error"))
        finally:
            for task, job in zip(tasks, jobs, strict=True):
                task.cancel()
                job.cancel()

    def _envelope(self, is_chat: bool, name: str, *, chunk: bool = False) -> dict[str, Any]:
        kind = ("chat.completion.chunk" if chunk else "chat.completion") if is_chat else "text_completion"
        prefix = "chatcmpl" if is_chat else "cmpl"
        return {"id": f"{prefix}-{name}", "object": kind, "created": int(time.time()), "model": self.name}

    def _authorise(self, request: Request) -> None:
        if self.api_key is not None:
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self.api_key.encode()):
                raise HTTPException(401, "this server wants 'Authorization: Bearer KEY' with its key")

    def _named(self, name: Any) -> None:
        if name != self.name:
            raise HTTPException(404, f"the model {name!r} is not here; this is '{self.name}'")

    async def _body(self, request: Request) -> Any:
        data = bytearray()
        async for piece in request.stream():
            data += piece
            if len(data) > self.limits.body_bytes:
                raise HTTPException(413, f"the body is larger than {self.limits.body_bytes:,} bytes")
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise protocol.BadRequest(f"the body is no JSON: {error}") from None


async def _last(job: Job) -> Completion:
    *_, whole = [completion async for completion in job.updates()]
    return whole


@contextlib.asynccontextmanager
async def _cancel_on_disconnect(request: Request, jobs: list[Job]) -> AsyncIterator[None]:
    async def watch() -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(0.2)
        for job in jobs:
            job.cancel()

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()


def _delta(is_chat: bool, index: int, text: str, finish: str | None, role: str | None = None) -> dict[str, Any]:
    if not is_chat:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}
    delta = ({"role": role} if role else {}) | ({"content": text} if text or role else {})
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def _error_body(message: str, kind: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = "invalid_request_error" if error.status_code < 500 else "server_error"
    return JSONResponse(_error_body(str(error.detail), kind), error.status_code)


async def _bad_request(request: Request, error: Exception) -> Response:
    return JSONResponse(_error_body(str(error), "invalid_request_error"), 400)


async def _busy(request: Request, error: Exception) -> Response:
    message = "too many requests are waiting: try again in a few seconds"
    return JSONResponse(_error_body(message, "rate_limit_error"), 429, {"Retry-After": "2"})


async def _failure(request: Request, error: Exception) -> Response:
    if isinstance(error, ClientDisconnect):
        return Response(status_code=499)
    return JSONResponse(_error_body(f"the server failed: {type(error).__name__}", "server_error"), 500)
