"""A few completions to read: numbers say how good a model is, samples say what it is like."""

from __future__ import annotations

from collections.abc import Sequence

import gin

from oc_jax import chat
from oc_jax.evals.task import Result, Subject

COMPLETION_PROMPTS = (
    "def fibonacci(n):\n",
    'import argparse\nimport json\n\n\ndef main():\n    """Reads a JSON file and prints its keys."""\n',
    "class Stack:\n    def __init__(self):\n",
    "import unittest\n\n\nclass TestParser(unittest.TestCase):\n",
)
CHAT_PROMPTS = (
    "Write a Python function that returns the largest of three numbers.",
    "Write a Python function that counts the words in a text file.",
)


@gin.configurable
def samples(
    subject: Subject,
    *,
    completion_prompts: Sequence[str] = COMPLETION_PROMPTS,
    chat_prompts: Sequence[str] = CHAT_PROMPTS,
    max_new_tokens: int = 200,
    temperature: float = 0.2,
    top_p: float = 0.95,
    seed: int = 0,
) -> Result:
    """Completes `completion_prompts` as text and answers `chat_prompts` through the chat template."""
    tokenizer = subject.engine.tokenizer
    prompts = [[*tokenizer.prefix, *tokenizer.encode(text)] for text in completion_prompts]
    for text in chat_prompts:
        prompts.append(chat.render([{"role": "user", "content": text}], tokenizer, generation_prompt=True)[0])
    kinds = ["completion"] * len(completion_prompts) + ["chat"] * len(chat_prompts)
    settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    completions = subject.engine.generate(prompts, **settings)
    written = [
        {"prompt": text, "completion": completion.text, "kind": kind}
        for text, completion, kind in zip([*completion_prompts, *chat_prompts], completions, kinds, strict=True)
    ]
    return Result(None, {"samples": len(written), **settings}, written)
