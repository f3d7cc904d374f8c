"""OpenAI's completions and chat completions: bodies to requests, completions to answers."""

from __future__ import annotations

import dataclasses
import math
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np

from oc_jax import chat
from oc_jax.decode import Completion, Request, Score
from oc_jax.sampling import TOP
from oc_jax.tokenizer import Tokenizer

MAX_CHOICES = 128  # of one call: prompts times n
MAX_STOPS = 16
UNSUPPORTED = ("suffix", "tools", "functions", "logit_bias", "audio", "grammar", "guided_json")


class BadRequest(ValueError):
    """What the client sent cannot be answered; the text says what to change."""


@dataclasses.dataclass(frozen=True)
class Call:
    """What one HTTP request asks for: `requests[i * n : (i + 1) * n]` go on from `prompts[i]`."""

    chat: bool
    prompts: list[list[int]]
    shown: list[list[int]]  # the prompts without the ids that were put before them
    requests: list[Request]
    n: int
    echo: bool
    logprobs: int | None  # number of alternatives
    stream: bool
    max_tokens: int  # 0: only read the prompts


def parse(body: Any, tokenizer: Tokenizer, context: int, *, is_chat: bool) -> Call:
    """Raises BadRequest."""
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    for name in UNSUPPORTED:
        if body.get(name):
            raise BadRequest(f"'{name}' is not supported")
    if is_chat:
        prompts = shown = [_chat_prompt(body.get("messages"), tokenizer)]
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        default = max(1, context - len(prompts[0]))
        wanted = bool(body.get("logprobs"))
        logprobs = _integer(body, "top_logprobs", 0, 0, TOP) if wanted else None
    else:
        shown = _prompts(body.get("prompt"), tokenizer)
        given = isinstance(body.get("prompt"), list) and not isinstance(body["prompt"][0], str)
        prompts = shown if given else [[*tokenizer.prefix, *ids] for ids in shown]
        limit, default = body.get("max_tokens"), 16
        logprobs = None if body.get("logprobs") is None else _integer(body, "logprobs", 0, 0, TOP)
    echo = not is_chat and bool(body.get("echo"))
    max_tokens = default if limit is None else _integer({"max_tokens": limit}, "max_tokens", 0, 0, 1 << 20)
    if max_tokens == 0 and not echo:
        raise BadRequest("'max_tokens' must be at least 1, unless 'echo' asks for the prompt")
    for ids in prompts:
        if not ids:
            raise BadRequest("the prompt is empty, and this model's texts begin with no special token")
        if len(ids) >= context + (max_tokens == 0):
            raise BadRequest(f"the prompt has {len(ids)} tokens, the context of this model {context}")
    n = _integer(body, "n", 1, 1, MAX_CHOICES)
    if n * len(prompts) > MAX_CHOICES:
        raise BadRequest(f"at most {MAX_CHOICES} choices at a time, not {n * len(prompts)}")
    if body.get("best_of") not in (None, n):
        raise BadRequest("'best_of' must equal 'n'")
    settings = {
        "temperature": _number(body, "temperature", 1.0, 0.0, 10.0),
        "top_p": _number(body, "top_p", 1.0, 1e-6, 1.0),
        "stop": _stops(body.get("stop")),
        "logprobs": logprobs is not None,
        "max_new_tokens": max(1, max_tokens),
    }
    seed = _integer(body, "seed", secrets.randbits(32), -(1 << 63), 1 << 63) % 2**64
    streams = np.random.SeedSequence(seed).generate_state(n * len(prompts))
    requests = [Request(prompts[i // n], **settings, seed=int(stream)) for i, stream in enumerate(streams)]
    stream = bool(body.get("stream"))
    if stream and (echo or logprobs is not None):
        raise BadRequest("'stream' goes with neither 'echo' nor 'logprobs'")
    return Call(is_chat, prompts, shown, requests, n, echo, logprobs, stream, max_tokens)


def _prompts(prompt: Any, tokenizer: Tokenizer) -> list[list[int]]:
    """A string, a list of strings, token ids, or a list of token ids → ids."""
    if isinstance(prompt, str):
        return [tokenizer.encode(prompt)]
    if isinstance(prompt, list) and prompt and len(prompt) <= MAX_CHOICES:
        if all(isinstance(text, str) for text in prompt):
            return [tokenizer.encode(text) for text in prompt]
        if all(isinstance(ids, list) and ids and _are_ids(ids, tokenizer) for ids in prompt):
            return prompt
    if isinstance(prompt, list) and prompt and _are_ids(prompt, tokenizer):
        return [prompt]
    raise BadRequest(
        f"'prompt' must be a string, token ids below {tokenizer.vocab_size}, or a list of at most {MAX_CHOICES} of one"
    )


def _are_ids(ids: list[Any], tokenizer: Tokenizer) -> bool:
    return all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < tokenizer.vocab_size for i in ids)


def _chat_prompt(messages: Any, tokenizer: Tokenizer) -> list[int]:
    if tokenizer.im_start is None or tokenizer.im_end is None:
        raise BadRequest("this model has no chat template: use /v1/completions")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("'messages' must be a list of at least one message")
    turns = []
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):  # parts
            texts = [part.get("text") if isinstance(part, dict) else None for part in content]
            content = "".join(map(str, texts)) if all(isinstance(text, str) for text in texts) else None
        if not isinstance(content, str) or not isinstance(message.get("role"), str):
            raise BadRequest("each message needs a 'role' and a 'content' of text")
        role = "system" if message["role"] == "developer" else message["role"]
        turns.append(chat.Message(role=role, content=content))
    try:
        return chat.render(turns, tokenizer, generation_prompt=True)[0]
    except ValueError as error:
        raise BadRequest(str(error)) from error


def _stops(stop: Any) -> tuple[str, ...]:
    stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or len(stops) > MAX_STOPS or not all(isinstance(s, str) and s for s in stops):
        raise BadRequest(f"'stop' must be a string or a list of at most {MAX_STOPS}, none empty")
    return tuple(stops)


def _integer(body: dict[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = body.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise BadRequest(f"'{name}' must be a whole number from {least} to {most}")
    return value


def _number(body: dict[str, Any], name: str, default: float, least: float, most: float) -> float:
    value = body.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadRequest(f"'{name}' must be a number")
    if not least <= value <= most:
        raise BadRequest(f"'{name}' must be from {least:g} to {most:g}")
    return float(value)


def choice(call: Call, index: int, completion: Completion | None, score: Score | None, tokenizer: Tokenizer) -> dict:
    """One entry of "choices". `score` is that of the prompt, where it is echoed with log-probabilities."""
    text = completion.text if completion else ""
    finish = completion.finish_reason if completion else "length"
    if call.chat:
        entry: dict[str, Any] = {"index": index, "message": {"role": "assistant", "content": text, "refusal": None}}
        logprobs = {"content": _chat_logprobs(call, completion, tokenizer)} if call.logprobs is not None else None
    else:
        shown = call.shown[index // call.n]
        entry = {"index": index, "text": (tokenizer.decode_text(shown) if call.echo else "") + text}
        logprobs = _logprobs(call, shown, completion, score, tokenizer) if call.logprobs is not None else None
    return entry | {"logprobs": logprobs, "finish_reason": finish}


def _logprobs(call: Call, shown: Sequence[int], completion: Completion | None, score: Score | None, tokenizer) -> dict:
    """OpenAI's legacy layout: lists over tokens, the first of an echoed prompt without a probability."""
    tokens: list[int] = []
    values: list[float | None] = []
    tops: list[dict[str, float] | None] = []
    if call.echo and score is not None:
        tokens += shown
        values.append(None)
        tops.append(None)
        for token, *rest in list(zip(shown[1:], *_last(score, len(shown) - 1), strict=True)):
            own, best, best_token = float(rest[0]), float(rest[1]), int(rest[2])
            values.append(own)
            tops.append({token_text(tokenizer, best_token): best, token_text(tokenizer, token): own})
    if completion is not None:
        tokens += completion.tokens
        values += completion.logprobs
        tops += [_top(call, top, tokenizer) for top in completion.top]
    offsets, at = [], 0
    for token in tokens:
        offsets.append(at)
        at += len(tokenizer.decode_text([token]))
    named = [token_text(tokenizer, token) for token in tokens]
    return {"tokens": named, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}


def _last(score: Score, n: int) -> tuple[np.ndarray, ...]:
    """The last `n` places: those of the shown tokens but the first."""
    cut = len(score.logprobs) - n
    return score.logprobs[cut:], score.best_logprobs[cut:], score.best_tokens[cut:]


def _top(call: Call, top: dict[int, float], tokenizer: Tokenizer) -> dict[str, float]:
    best = sorted(top.items(), key=lambda item: -item[1])[: call.logprobs]
    return {token_text(tokenizer, token): value for token, value in best}


def _chat_logprobs(call: Call, completion: Completion | None, tokenizer: Tokenizer) -> list[dict]:
    def entry(token: int, value: float) -> dict:
        return {"token": token_text(tokenizer, token), "logprob": value, "bytes": list(tokenizer.decode([token]))}

    assert completion is not None
    rows = zip(completion.tokens, completion.logprobs, completion.top, strict=True)
    return [
        entry(token, value)
        | {"top_logprobs": [entry(*item) for item in sorted(top.items(), key=lambda i: -i[1])[: call.logprobs]]}
        for token, value, top in rows
    ]


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """A token as text; as OpenAI does, `bytes:\\xe4` for a part of a character. Special ids have names of their own."""
    data = tokenizer.decode([token])
    try:
        return data.decode() or f"<|{token}|>"
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def usage(call: Call, completions: Sequence[Completion]) -> dict[str, int]:
    prompt, sampled = sum(map(len, call.shown)), sum(len(c.tokens) for c in completions)
    return {"prompt_tokens": prompt, "completion_tokens": sampled, "total_tokens": prompt + sampled}


def settled(completion: Completion) -> str:
    """The part of an unfinished text that cannot change any more: no half character, no beginning of a stop string."""
    text = completion.text
    if completion.finish_reason:
        return text
    text = text.rstrip("\ufffd")
    longest = max((len(stop) for stop in completion.request.stop), default=1)
    return text[: max(0, len(text) - longest + 1)]
