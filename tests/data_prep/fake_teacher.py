"""A teacher for tests: a server of chat completions, spoken over plain sockets so that it can fail in every way."""

from __future__ import annotations

import asyncio
import collections
import json
import threading
from collections.abc import Callable
from typing import Any

FAULTS = ("stall", "busy", "broken", "cut", "garbage", "empty", "reset")
Reply = str | tuple[int, str]  # a text, a status with a message, or one of FAULTS as (0, name)


class FakeTeacher:
    """Answers with `reply(prompt, number of earlier attempts at this request)`; a context manager.

    Attributes:
      attempts: key of a request → how often it was sent.
      answered: key → how often it was answered.
      bodies: of all requests, in the order of arrival.
      echoed: the choices that answer a request with prompts in place of messages.
    """

    def __init__(
        self,
        reply: Callable[[str, int], Reply],
        model: str = "teacher",
        delay: float = 0.0,
        echoed: Callable[[dict[str, Any]], list[dict[str, Any]]] = lambda body: [],
    ) -> None:
        self.reply, self.model, self.delay, self.echoed = reply, model, delay, echoed
        self.attempts: collections.Counter[str] = collections.Counter()
        self.answered: collections.Counter[str] = collections.Counter()
        self.bodies: list[dict[str, Any]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> FakeTeacher:
        self._thread.start()
        opened = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop)
        self._server = opened.result()
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _close(self) -> None:
        self._server.close()
        serving = asyncio.all_tasks() - {asyncio.current_task()}
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().split("\r\n")
                headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                if not await self._answer(writer, headers, body):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, headers: dict[str, str], body: bytes) -> bool:
        request = json.loads(body)
        if request["model"] != self.model:
            return await _send(writer, 404, {"error": {"message": f"there is only {self.model}"}})
        key = headers["idempotency-key"]
        number = self.attempts[key]
        self.attempts[key] += 1
        self.bodies.append(request)
        if "prompt" in request:
            return await _send(writer, 200, {"choices": self.echoed(request), "usage": None})
        reply = self.reply(request["messages"][-1]["content"], number)
        if isinstance(reply, str):
            await asyncio.sleep(self.delay * (int(key[:4], 16) % 8))
            answer = {"message": {"role": "assistant", "content": reply}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 30, "completion_tokens": 10}
            self.answered[key] += 1
            return await _send(writer, 200, {"choices": [answer], "usage": usage})
        status, name = reply
        if name == "stall":
            await asyncio.sleep(60)
        elif name == "busy":
            return await _send(writer, 429, {"error": {"message": "too many"}}, "Retry-After: 0.3\r\n")
        elif name == "broken":
            return await _send(writer, 500, {"error": {"message": "sorry"}})
        elif name == "empty":
            return await _send(writer, 200, {"choices": []})
        elif name == "garbage":
            return await _send(writer, 200, b'{"choices": [{"mess')
        elif name == "cut":
            writer.write(
                b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"choices": ['
            )
            await writer.drain()
        elif status:
            return await _send(writer, status, {"error": {"message": name}})
        return False  # "reset" just goes away


async def _send(writer: asyncio.StreamWriter, status: int, body: Any, headers: str = "") -> bool:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{headers}Content-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    await writer.drain()
    return True
