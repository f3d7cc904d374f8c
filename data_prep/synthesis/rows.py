"""Between tables and pipelines: what a prompt may name of a seed, and the rows that come out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from data_prep import conversations
from data_prep import documents as docs
from data_prep.sampling import draw
from data_prep.synthesis.pipeline import Grown, Pipeline

SCHEMAS = {"documents": docs.SCHEMA, "conversations": conversations.SCHEMA}


def fields_of(seed: Mapping[str, Any], reads: str, max_chars: int) -> dict[str, str]:
    """All columns of text, a long one cut; of a conversation `instruction`, `response` and the whole `dialogue`."""
    fields = {name: value for name, value in seed.items() if isinstance(value, str)}
    if reads == "documents":
        return fields | {"text": _window(fields["text"], seed["id"], max_chars)}
    *before, answer = (turn["content"] for turn in seed["messages"] if turn["role"] != "system")
    dialogue = "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in seed["messages"])
    question = "\n\n".join(before)
    return fields | {
        "instruction": question,
        "question": question,
        "response": answer,
        "dialogue": dialogue[:max_chars],
    }


def _window(text: str, seed: str, max_chars: int) -> str:
    """Whole lines of a long text, from one that is not indented and that depends on `seed`."""
    if len(text) <= max_chars:
        return text
    starts = [0, *(match.end() for match in re.finditer(r"\n(?=[^\s)\]}])", text[: len(text) - max_chars]))]
    start = starts[int(draw("window", seed) * len(starts))]
    cut = text[start : start + max_chars]
    return cut[: cut.rfind("\n") + 1] or cut


def row(pipeline: Pipeline, seed: Mapping[str, Any], branch: int, grown: Grown) -> dict[str, Any]:
    """A row of the pipeline's kind. One that was turned down holds the last answer as it came."""
    about_seed = json.loads(seed["provenance"])
    provenance: dict[str, Any] = {"seed": seed["id"], "pipeline": pipeline.name, "steps": grown.trail}
    origin = {name: seed.get(name) or about_seed.get(name) for name in ("source", "licence")}
    provenance |= {name: value for name, value in origin.items() if value}
    provenance |= {name: grown.fields[name] for name in ("test", "score", "scores", "title") if name in grown.fields}
    reasons = {"reasons": [grown.reason] if grown.reason else []}
    if pipeline.finish is None:
        provenance = about_seed | provenance
        same = {name: seed[name] for name in SCHEMAS[pipeline.writes].names}
        return same | {"provenance": json.dumps(provenance, ensure_ascii=False)} | reasons
    raw = grown.fields.get("answer", "")
    made: dict[str, Any] = {"messages": [{"role": "raw", "content": raw}], "text": raw}
    if not grown.reason:
        made = pipeline.finish(grown.fields, seed)
    about, language = json.dumps(provenance, ensure_ascii=False), made.get("language", "unknown")
    if pipeline.writes == "conversations":
        return conversations.row(made["messages"], kind=pipeline.name, language=language, provenance=about) | reasons
    content, path = made["text"].encode(), f"{seed['id']}/{branch}"
    return {
        "id": docs.document_id("synthesis", pipeline.name, path, None),
        "content_sha256": hashlib.sha256(content).hexdigest(),
        "text": made["text"],
        "path": path,
        "repo": pipeline.name,
        "language": language,
        "doc_type": made.get("doc_type", "text"),
        "size": len(content),
        "licence": seed.get("licence"),
        "source": "synthesis",
        "provenance": about,
        "split": "train",
    } | reasons
