"""The model card that goes with an export: what was trained on what, how, and with which scores."""

from __future__ import annotations

import json
from typing import Any

from etils import epath


def model_card(stage: epath.Path, metadata: dict[str, Any]) -> str:
    """README.md of an export, from the records that the stages of the run left around the train stage `stage`."""
    workdir = stage
    while not (workdir / "config.gin").exists() and workdir.parent != workdir:
        workdir = workdir.parent
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation", "tags: [code]", "---", ""]
    lines += [f"# {workdir.name}: {stage.name}", "", f"Step {metadata['step']} of the stage `{stage.name}`."]
    lines += ["", "## Training", ""]
    for record in _lineage(stage, workdir):
        result = record["result"]
        lines += [
            f"- `{record['stage']}`: {result.get('tokens', 0):,} tokens to step {result.get('step')}, "
            f"final loss {result.get('loss')}, code {record['code_version']}",
            *(f"  - {name}, SHA-256 {digest}" for name, digest in sorted(record["inputs"].items())),
        ]
    scores = list(_scores(stage, workdir))
    if scores:
        lines += ["", "## Scores", "", "| evaluation | task | score |", "|---|---|---|", *scores]
    lines += ["", "## Model", "", "```json", json.dumps(metadata["model"], indent=1), "```"]
    lines += ["", "## Configuration", "", "```", metadata.get("config", "").strip(), "```", ""]
    return "\n".join(lines)


def _lineage(stage: epath.Path, workdir: epath.Path) -> list[dict[str, Any]]:
    """DONE.json of the train stages that led to `stage`, first to last; what was imported has none."""
    records = []
    at: epath.Path | None = stage
    while at is not None and (at / "DONE.json").exists():
        record = json.loads((at / "DONE.json").read_text())
        records.append(record)
        before = [name.removeprefix("init_from: ") for name in record["inputs"] if name.startswith("init_from: ")]
        at = workdir / before[0] if before else None
    return records[::-1]


def _scores(stage: epath.Path, workdir: epath.Path):
    for path in sorted((workdir / "eval").glob("*/results.json")) if (workdir / "eval").exists() else []:
        results = json.loads(path.read_text())
        if epath.Path(results["checkpoint"]).name == stage.name:
            for task, score in sorted(results.get("headlines", {}).items()):
                yield f"| {path.parent.name} | {task} | {score} |"
