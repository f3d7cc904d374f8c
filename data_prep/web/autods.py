"""Seed scoring with a language model, as in AutoDS (paper §2.1.2): questions about a page that are answered YES or NO.

The score of a question is e^YES / (e^YES + e^NO), by the log-probabilities with which the model goes on with the two
words; several questions are multiplied. A base model will do, since nothing is written. Any endpoint that echoes
prompts with log-probabilities answers: vLLM, or a checkpoint of ours under ``run.py --mode=serve``.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence

import gin

from data_prep.synthesis.grammar import Rejected
from data_prep.synthesis.pipeline import Ask, Fields, Pipeline

WORDS = (" YES", " NO")
QUESTIONS = ("autods_code", "autods_teaching")


@gin.configurable
def autods(*, questions: Sequence[str] = QUESTIONS, min_score: float = 0.25) -> Pipeline:
    """Keeps documents with a score of at least `min_score`: synthesis.pipeline = @autods().

    The score stands in the provenance, with that of each question. Reason: low_score (<score>). OpenCoder publishes
    neither its questions nor its cut-off; the questions are prompts/<name>.txt with $url and $text.
    """
    asks = [Ask(name, functools.partial(_answer, name=name), words=WORDS, regenerations=0) for name in questions]

    def judge(fields: Fields, seed: str) -> dict[str, str]:
        if float(fields["score"]) < min_score:
            raise Rejected(f"low_score ({float(fields['score']):.3f})")
        return {}

    return Pipeline("autods", "documents", "documents", (_page, *asks, judge))


def score(yes: float, no: float) -> float:
    """e^yes / (e^yes + e^no)."""
    return 1 / (1 + math.exp(min(no - yes, 700)))


def _page(fields: Fields, seed: str) -> dict[str, str]:
    return {"url": fields.get("url", "unknown")}


def _answer(text: str, fields: Fields, *, name: str) -> dict[str, str]:
    yes, no = json.loads(text)
    product = float(fields.get("score", 1.0)) * score(yes, no)
    scores = json.loads(fields.get("scores", "{}")) | {name: round(score(yes, no), 6)}
    return {"score": f"{product:.6f}", "scores": json.dumps(scores)}
