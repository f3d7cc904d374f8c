"""The ChatML template of the released models, and which of its tokens are trained on.

One renderer serves fine-tuning, evaluation and decoding, so that they cannot drift apart:

    <|im_start|>system\nYou are OpenCoder, created by OpenCoder Team.<|im_end|>\n
    <|im_start|>user\n{content}<|im_end|>\n
    <|im_start|>assistant\n{content}<|im_end|>\n
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

DEFAULT_SYSTEM = "You are OpenCoder, created by OpenCoder Team."
ROLES = ("system", "user", "assistant")


class Message(TypedDict):
    role: str
    content: str


def render(
    messages: Sequence[Message], tokenizer: Any, *, generation_prompt: bool = False
) -> tuple[list[int], list[bool]]:
    """(token ids, mask): the mask is True on the answers of the assistant and on the <|im_end|> that closes each.

    A system turn with the default line is put in front unless the first message is one. With `generation_prompt` the
    ids end where the assistant's answer begins. Raises ValueError for an unknown role, an empty conversation or a
    tokenizer without the markers.
    """
    if not messages:
        raise ValueError("a conversation needs at least one message")
    if tokenizer.im_start is None or tokenizer.im_end is None:
        raise ValueError(f"the tokenizer in {tokenizer.directory} has no <|im_start|> and <|im_end|>: it cannot chat")
    if messages[0]["role"] != "system":
        messages = [Message(role="system", content=DEFAULT_SYSTEM), *messages]
    newline = tokenizer.encode("\n")
    ids: list[int] = []
    mask: list[bool] = []

    def add(tokens: list[int], trained: bool) -> None:
        ids.extend(tokens)
        mask.extend([trained] * len(tokens))

    for message in messages:
        if message["role"] not in ROLES:
            raise ValueError(f"role '{message['role']}' is unknown: use one of {', '.join(ROLES)}")
        if message["role"] == "assistant":
            # The header is encoded apart from the answer, as it stands when an answer is generated.
            add([tokenizer.im_start, *tokenizer.encode("assistant\n")], False)
            add([*tokenizer.encode(message["content"]), tokenizer.im_end], True)
        else:
            text = f"{message['role']}\n{message['content']}"
            add([tokenizer.im_start, *tokenizer.encode(text), tokenizer.im_end], False)
        add(newline, False)
    if generation_prompt:
        add([tokenizer.im_start, *tokenizer.encode("assistant\n")], False)
    return ids, mask
