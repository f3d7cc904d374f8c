"""Asking a teacher: any endpoint that speaks OpenAI's chat completions, through the client `openai`.

Every answer is in the `Store` before anybody sees it, so a request is sent only where no earlier run has an answer.
What fails for a while is tried again; what would change the data set if it were dropped (an endpoint that is down, a
cap that is reached) stops the run instead, with everything answered so far in the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import email.utils
import ipaddress
import json
import math
import os
import random
import time
import urllib.parse
from collections.abc import AsyncIterator, Mapping
from typing import Any

import gin

from data_prep.synthesis.store import Store, key_of


class Stopped(RuntimeError):
    """The run ends here and can be taken up again; the text says what to change."""


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Endpoint:
    """How to reach the teacher and what that may cost. Nothing here changes the data set.

    Attributes:
      base_url: for instance "http://localhost:8000/v1".
      key_variable: environment variable that holds the key; an endpoint on this machine may do without.
      responses: directory of what was answered, shared by all stages beside each other; relative to the stage's parent.
      concurrency: requests at a time.
      timeout_seconds: of one attempt.
      attempts: failures in a row after which a request counts as unanswered.
      backoff_seconds: first wait after a failure; each further one is twice as long, up to a minute.
      max_wait_seconds: if the endpoint's Retry-After asks for more, the run stops.
      max_unanswered: so many unanswered requests are recorded as such and their seeds dropped; one more stops the run.
      prices: model → money per million tokens of (prompt, completion).
      max_cost: money that everything in `responses` may have cost, lost answers included; None for no cap.
      max_spent_tokens: the same in tokens of prompts and completions.
    """

    base_url: str = ""
    key_variable: str = "OPENAI_API_KEY"
    responses: str = "responses"
    concurrency: int = 16
    timeout_seconds: float = 300.0
    attempts: int = 8
    backoff_seconds: float = 1.0
    max_wait_seconds: float = 600.0
    max_unanswered: int = 0
    prices: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    max_cost: float | None = None
    max_spent_tokens: int | None = None

    def key(self) -> str:
        """Raises ValueError: the endpoint is elsewhere and there is no key."""
        if not self.base_url:
            raise ValueError('there is no teacher: bind Endpoint.base_url, for instance to "http://localhost:8000/v1"')
        found = os.environ.get(self.key_variable, "")
        host = urllib.parse.urlsplit(self.base_url).hostname or ""
        with contextlib.suppress(ValueError):
            host = "localhost" if ipaddress.ip_address(host).is_loopback else host
        if not found and host != "localhost":
            raise ValueError(f"{self.base_url} wants a key: put it into the environment variable {self.key_variable}")
        return found or "none"

    def cost(self, model: str, usage: list[int] | tuple[int, int]) -> float:
        """Raises ValueError: costs are capped and the model has no price."""
        if model not in self.prices:
            if self.max_cost is not None:
                raise ValueError(f"Endpoint.max_cost needs the price of {model}: bind Endpoint.prices")
            return 0.0
        return sum(n * price / 1e6 for n, price in zip(usage, self.prices[model], strict=True))


@dataclasses.dataclass(frozen=True)
class Answer:
    """key: of the request; finish: "stop", "length", …, or "refused" and "unanswered" with the error as text."""

    key: str
    text: str
    finish: str
    usage: tuple[int, int]  # tokens of prompt and completion


class Teacher:
    """Answers requests from the store, and from the endpoint what the store does not hold."""

    def __init__(self, endpoint: Endpoint, store: Store) -> None:
        self.endpoint, self.store = endpoint, store
        self.sent = 0  # requests that this run has asked of the endpoint, every attempt counted
        self._answered = self._unanswered = 0
        self._stop: BaseException | None = None
        self._slots = asyncio.Semaphore(endpoint.concurrency)
        self._budget = asyncio.Condition()
        self._reserved: list[tuple[float, float]] = []  # money and tokens that requests under way may cost
        self._not_before = 0.0  # monotonic time that the endpoint asked everybody to wait for
        self._client: Any = None

    def stop(self, error: BaseException) -> None:
        """Sends nothing more; requests under way are waited for."""
        self._stop = self._stop or error

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    async def ask(self, request: Mapping[str, Any], sample: int) -> Answer:
        """The answer number `sample` to `request`, the body of a chat completion without seed.

        A request with a list of prompts in place of messages asks how likely their ends are, see `_read_compared`.

        Raises:
          Stopped: it is not in the store, and nothing more is to be asked.
        """
        key = key_of([request, sample])
        found = await self.store.once(key, lambda: self._pay(key, request))
        return Answer(key, found["text"], found["finish"], tuple(found["usage"]))

    async def _pay(self, key: str, request: Mapping[str, Any]) -> dict[str, Any]:
        async with self._slots:
            if self._stop is not None:
                raise self._stop
            try:
                return await self._fetch(key, request)
            except BaseException as error:
                self.stop(error)
                raise

    def spent(self) -> tuple[float, float]:
        """Money and tokens of everything in the store."""
        cost = sum(self.endpoint.cost(model, usage) for model, usage in self.store.usage.items())
        return cost, float(sum(sum(usage) for usage in self.store.usage.values()))

    def account(self) -> str:
        """Requests sent by this run and what all have cost, in a few words."""
        cost, tokens = self.spent()
        cap = "" if self.endpoint.max_cost is None else f" of {self.endpoint.max_cost:g}"
        return f"{self.sent:,} requests sent, {tokens / 1e6:.3g} M tokens, cost {cost:.4g}{cap}"

    async def _fetch(self, key: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Tries until there is an answer, which it stores."""
        record: dict[str, Any] = {"model": request["model"], "request": dict(request)}
        first = before = self._answered
        failures, error = 0, ""
        while failures < self.endpoint.attempts:
            await self._wait(failures)
            async with self._reserve(request) as bound:
                self.sent += 1
                try:
                    text, finish, usage = await self._attempt(key, request)
                except _Failure as failure:
                    error = str(failure)
                    if failure.refused:
                        return await self._refuse(key, record, error)
                    if failure.paid:
                        await self.store.add(None, {"model": request["model"], "lost": error, "usage": bound})
                    if failure.wait is not None:
                        self._hold(failure.wait)
                    # An endpoint that is busy answering others is worth waiting for, however long.
                    failures += not (failure.busy and self._answered > before)
                    before = self._answered
                else:
                    record |= {"text": text, "finish": finish, "usage": usage or bound}
                    await self.store.add(key, record)
                    self._answered += 1
                    return record
        if self._unanswered >= self.endpoint.max_unanswered or self._answered == first:
            raise Stopped(
                f"{self.endpoint.base_url} failed {failures} times on a request ({error}): run again to go on, or "
                "let some go with Endpoint.max_unanswered; what was answered is kept"
            )
        self._unanswered += 1
        return await self._give_up(key, record, "unanswered", error)

    async def _attempt(self, key: str, request: Mapping[str, Any]) -> tuple[str, str, tuple[int, int] | None]:
        """Raises _Failure, or Stopped where trying again is no use."""
        import openai  # late: it takes a second, and a run whose answers are all there needs none

        if self._client is None:
            self._client = openai.AsyncOpenAI(
                base_url=self.endpoint.base_url,
                api_key=self.endpoint.key(),
                max_retries=0,
                timeout=self.endpoint.timeout_seconds,
            )
        compares = "prompt" in request
        call = self._client.completions if compares else self._client.chat.completions
        given = {name: request[name] for name in ("model", "prompt" if compares else "messages")}
        rest = {name: value for name, value in request.items() if name not in given}
        body = rest | {"seed": int(key[:8], 16) >> 1}  # without it an endpoint may answer each sample alike
        try:
            async with asyncio.timeout(self.endpoint.timeout_seconds):
                response = await call.with_raw_response.create(
                    **given, extra_body=body, extra_headers={"Idempotency-Key": key}
                )
                return (_read_compared if compares else _read)(response.content)
        except openai.APIStatusError as error:
            raise self._status_failure(error) from error
        except openai.APIConnectionError as error:
            reached = type(error.__cause__).__name__ not in ("ConnectError", "ConnectTimeout")
            if not reached and not self._answered:
                raise Stopped(f"nothing answers at {self.endpoint.base_url}: start it, or bind another") from error
            raise _Failure(f"no connection: {error.__cause__ or error}", paid=reached) from error
        except TimeoutError:
            raise _Failure(f"no answer within {self.endpoint.timeout_seconds:g} s", paid=True) from None
        except (ValueError, LookupError, TypeError, openai.OpenAIError) as error:
            raise _Failure(f"an answer that is none: {error}", paid=True) from error

    def _status_failure(self, error: Any) -> Exception:
        status, said = error.status_code, _line(_message(error))
        if status in (401, 403):
            return Stopped(f"the endpoint refuses the key in {self.endpoint.key_variable} ({status}: {said})")
        if status == 404 or error.code == "insufficient_quota":
            return Stopped(f"{self.endpoint.base_url} cannot answer ({status}: {said})")
        refused = status < 500 and status not in (408, 409, 425, 429)
        return _Failure(
            f"{status}: {said}", refused=refused, busy=status == 429, wait=retry_after(error.response.headers)
        )

    async def _refuse(self, key: str, record: dict[str, Any], error: str) -> dict[str, Any]:
        if not len(self.store):  # more likely a mistake in the configuration than in every seed
            raise Stopped(f"{self.endpoint.base_url} refuses the first request: {error}")
        return await self._give_up(key, record, "refused", error)

    async def _give_up(self, key: str, record: dict[str, Any], finish: str, error: str) -> dict[str, Any]:
        record |= {"text": error, "finish": finish, "usage": (0, 0)}
        await self.store.add(key, record)
        return record

    async def _wait(self, failures: int) -> None:
        delay = min(60.0, self.endpoint.backoff_seconds * 2 ** (failures - 1)) if failures else 0.0
        until = time.monotonic() + delay * random.uniform(0.5, 1.0)  # not all at once again
        while self._stop is None and (left := max(until, self._not_before) - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 1.0))
        if self._stop is not None:
            raise self._stop

    def _hold(self, seconds: float) -> None:
        if seconds > self.endpoint.max_wait_seconds:
            raise Stopped(f"{self.endpoint.base_url} asks to wait for {seconds:.0f} s: run again then")
        self._not_before = max(self._not_before, time.monotonic() + seconds)

    @contextlib.asynccontextmanager
    async def _reserve(self, request: Mapping[str, Any]) -> AsyncIterator[tuple[int, int]]:
        """Sets aside the most that the request can cost, so that no cap is ever passed. Raises Stopped."""
        # No byte makes more than one token; a few more stand between messages.
        texts = request.get("prompt") or [message["content"] for message in request["messages"]]
        prompt = sum(len(text.encode()) + 16 for text in texts)
        completion = next((request[n] for n in ("max_completion_tokens", "max_tokens") if request.get(n)), 0)
        bound = (prompt, completion)
        most = (self.endpoint.cost(request["model"], bound), float(prompt + completion))
        caps = [math.inf if cap is None else cap for cap in (self.endpoint.max_cost, self.endpoint.max_spent_tokens)]
        async with self._budget:
            while any(s + r + m > cap for s, r, m, cap in zip(self.spent(), self._held(), most, caps, strict=True)):
                if not self._reserved and self._stop is None:
                    cost, tokens = self.spent()
                    raise Stopped(
                        f"the spending cap is reached ({cost:.4g} of {caps[0]:g}, {tokens:,.0f} of {caps[1]:,g} tokens)"
                        ": raise Endpoint.max_cost or Endpoint.max_spent_tokens and run again"
                    )
                await self._budget.wait()
                if self._stop is not None:
                    raise self._stop
            self._reserved.append(most)
        try:
            yield bound
        finally:
            self._reserved.remove(most)
            async with self._budget:
                self._budget.notify_all()

    def _held(self) -> tuple[float, float]:
        return sum(cost for cost, _ in self._reserved), sum(tokens for _, tokens in self._reserved)


class _Failure(Exception):
    """An attempt without an answer. paid: it may have cost something all the same; wait: seconds asked for."""

    def __init__(
        self, text: str, *, paid: bool = False, refused: bool = False, busy: bool = False, wait: float | None = None
    ) -> None:
        super().__init__(_line(text))
        self.paid, self.refused, self.busy, self.wait = paid, refused, busy, wait


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a Retry-After header, a number or a date, asks for."""
    value = headers.get("retry-after")
    if value is None:
        return None
    with contextlib.suppress(ValueError):
        return max(0.0, float(value))
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None


def _read(content: bytes) -> tuple[str, str, tuple[int, int] | None]:
    """(text, finish reason, usage) of a chat completion. Raises ValueError, LookupError or TypeError for any other."""
    body = json.loads(content)
    choice = body["choices"][0]
    text, finish, usage = choice["message"].get("content"), choice["finish_reason"], body.get("usage")
    if not isinstance(finish, str) or not isinstance(text, str | None):
        raise ValueError("no finish_reason, or content that is no text")
    counts = (int(usage["prompt_tokens"]), int(usage["completion_tokens"])) if usage else None
    return (text or "").encode("utf-8", "replace").decode(), finish, counts  # half of a surrogate pair is no text


def _read_compared(content: bytes) -> tuple[str, str, tuple[int, int] | None]:
    """The same of prompts that are echoed with log-probabilities; the text is a JSON list of how likely their ends are.

    An end is what follows the tokens that all prompts begin with, so the natural logarithms can be compared.
    """
    body = json.loads(content)
    echoed = [choice["logprobs"] for choice in sorted(body["choices"], key=lambda choice: choice["index"])]
    same = len(os.path.commonprefix([entry["tokens"] for entry in echoed]))
    ends = [list(map(float, entry["token_logprobs"][same:])) for entry in echoed]
    if not all(end and math.isfinite(sum(end)) for end in ends):
        raise ValueError("no log-probabilities of the prompts")
    usage = body.get("usage")
    counts = (int(usage["prompt_tokens"]), int(usage["completion_tokens"])) if usage else None
    return json.dumps([sum(end) for end in ends]), "stop", counts


def _message(error: Any) -> str:
    body = error.body if isinstance(error.body, Mapping) else {}
    return str(body.get("message") or error.message)


def _line(text: str) -> str:
    return " ".join(text.split())[:200]
