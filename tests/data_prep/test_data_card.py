from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
import yaml
from etils import epath

from data_prep import conversations
from data_prep.decontaminate import decontaminate
from data_prep.engine import LocalEngine
from data_prep.files import write_parquet
from data_prep.shards import shards
from data_prep.tokenizer import tokenizer

ENGINE = LocalEngine(workers=1)
COPY = """def close(numbers, threshold):
    for idx, elem in enumerate(numbers):
        for idx2, elem2 in enumerate(numbers):
            if idx != idx2:
                distance = abs(elem - elem2)
                if distance < threshold:
                    return True
    return False
"""


def run(workdir: epath.Path, name: str, stage: Callable[..., dict[str, Any]], **inputs: Any) -> epath.Path:
    """Runs a stage and leaves the record that the runner leaves."""
    out = workdir / name
    out.mkdir(parents=True)
    paths = {key: value for key, value in inputs.items() if isinstance(value, epath.Path)}
    params = {f"{stage.__name__}.{key}": value for key, value in inputs.items() if key not in paths}
    params |= {"decontaminate.min_grams": 3, "decontaminate.ngram": 10, "decontaminate.entry_points": "signature"}
    done = {
        "stage": name,
        "params": params,
        "result": stage(out, engine=ENGINE, **inputs),
        "outputs": {"digest": "d" * 64},
    }
    done["inputs"] = {f"{key}: {path.relative_to(workdir)}": "0" for key, path in paths.items()}
    (out / "DONE.json").write_text(json.dumps(done))
    return out


@pytest.fixture
def workdir(tmp_path: pathlib.Path, write_documents: Callable[..., epath.Path]) -> epath.Path:
    texts = {"a.py": "x = 1\n" * 50, "b.py": "print('hello')\n" * 40, "copy.py": COPY, "c.zh": "你好\n" * 30}
    licences = {"a.py": "MIT", "b.py": "MIT", "copy.py": "MIT"}
    rows = [
        {"path": path, "text": text, "licence": licences.get(path), "split": "train", "natural_language": "en"}
        for path, text in texts.items()
    ]
    workdir = write_documents("work/sample", rows).parent
    clean = run(workdir, "clean/code", decontaminate, documents=workdir / "sample")
    (workdir / "tokenizer").mkdir()
    tokenizer(workdir / "tokenizer", documents=clean, vocab_size=400)
    return workdir


def card(directory: epath.Path) -> tuple[dict[str, Any], str]:
    _, header, body = (directory / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(header), body


def test_the_card_states_what_the_stages_recorded(workdir: epath.Path) -> None:
    out = run(workdir, "data/code", shards, documents=workdir / "clean" / "code", tokenizer=workdir / "tokenizer")
    header, body = card(out)
    manifest = json.loads((out / "manifest.json").read_text())
    assert header["license"] == ["mit"] and header["language"] == ["en"] and header["size_categories"] == ["n<1K"]
    assert "synthetic" not in header["tags"]
    assert f"| records | {manifest['records']:,} |" in body and manifest["digest"] in body
    assert "| `clean/code` | 4 | 3 |" in body and "| MIT | 2 | 900 |" in body
    assert "Of 1 of 3 records no licence is recorded." in body
    assert "dropped 1 of 4 for humaneval (164 items)" in body and "| HumanEval/0 | 1 |" in body


def test_a_data_set_that_met_no_benchmark_says_so_and_a_teacher_is_named(workdir: epath.Path) -> None:
    turns = [{"role": "user", "content": "Say hello."}, {"role": "assistant", "content": "print('hello')"}]
    about = json.dumps({"seed": "s", "source": "given", "licence": "Apache-2.0"})
    made = workdir / "synthesis"
    made.mkdir()
    row = conversations.row(turns, kind="evol", language="python", provenance=about)
    write_parquet(iter([pa.Table.from_pylist([row], conversations.SCHEMA)]), made / "part-00000.parquet")
    step = {"step": "evolve", "model": "big|one", "prompt_sha256": "ab" * 32, "entered": 9, "passed": 1, "requests": 12}
    (made / "yield.json").write_text(json.dumps({"steps": [step | {"rejected": {"cut_off": 8}}]}))
    done = {"stage": "synthesis", "params": {}, "inputs": {}, "outputs": {"digest": "e" * 64}, "result": {}}
    (made / "DONE.json").write_text(json.dumps(done))
    out = run(workdir, "data/evol", shards, documents=made, tokenizer=workdir / "tokenizer", kind="messages")
    header, body = card(out)
    assert "synthetic" in header["tags"] and header["license"] == ["apache-2.0"]
    assert "| `synthesis` | evolve | big one | `abababababababab` | 9 | 1 | 12 | cut_off 8 |" in body
    assert "| given | 1 |" in body and "**None**: no stage before this data set" in body
