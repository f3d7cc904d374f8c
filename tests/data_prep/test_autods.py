"""Scores of a language model that is asked to answer YES or NO."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest
from etils import epath

from data_prep.synthesis.stage import synthesis
from data_prep.synthesis.teacher import Endpoint
from data_prep.web.autods import autods

sys.path.insert(0, os.path.dirname(__file__))
from fake_teacher import FakeTeacher  # noqa: E402

# Words of a page → (logit of YES, of NO) for each of the two questions.
LOGITS = {
    "pointer": ((2.0, -1.0), (1.0, 0.0)),
    "garden": ((-3.0, 1.0), (2.0, 0.0)),
    "import": ((3.0, 0.5), (-2.0, 1.0)),
}
PROMPT = "is this page about programming"


def echoed(body: dict[str, Any]) -> list[dict[str, Any]]:
    """What a server says of prompts: one token a word, each with a probability that depends on what it reads."""
    choices = []
    for index, prompt in enumerate(body["prompt"]):
        words = prompt.split(" ")
        page = next(word for word in LOGITS if word in prompt)
        yes, no = LOGITS[page][PROMPT not in prompt.lower()]
        values = [None, *(-0.5 for _ in words[2:]), yes if words[-1] == "YES" else no]
        choices.append({"index": index, "text": prompt, "logprobs": {"tokens": words, "token_logprobs": values}})
    return choices[::-1]


def test_questions_are_multiplied_and_decide(
    write_documents: Callable[..., epath.Path], run_stage: Callable[..., Any]
) -> None:
    rows = [{"path": word, "text": f"A page about {word} things.", "url": f"https://x.org/{word}"} for word in LOGITS]
    seeds = write_documents("pages", rows)
    with FakeTeacher(lambda prompt, attempt: (0, "reset"), echoed=echoed) as teacher:
        settings = {"model": "teacher", "pipeline": autods(min_score=0.3), "endpoint": Endpoint(teacher.url)}
        result, scored = run_stage(synthesis, "seed", seeds=seeds, **settings)
        assert len(teacher.bodies) == 6
        _, again = run_stage(synthesis, "again", seeds=seeds, **settings)
        assert len(teacher.bodies) == 6 and again == scored  # answers are remembered
    share = lambda pair: math.exp(pair[0]) / (math.exp(pair[0]) + math.exp(pair[1]))
    wanted = {word: math.prod(map(share, pairs)) for word, pairs in LOGITS.items()}
    provenance = {row["path"]: json.loads(row["provenance"]) for row in scored}
    assert {word: float(about["score"]) for word, about in provenance.items()} == pytest.approx(wanted, abs=1e-6)
    pointer = json.loads(provenance["pointer"]["scores"])
    assert list(pointer.values()) == pytest.approx([share(pair) for pair in LOGITS["pointer"]], abs=1e-6)
    assert {row["path"]: row["reasons"] for row in scored} == {
        "pointer": [],
        "garden": [f"low_score ({wanted['garden']:.3f})"],
        "import": [f"low_score ({wanted['import']:.3f})"],
    }
    assert result["files_kept"] == 1
