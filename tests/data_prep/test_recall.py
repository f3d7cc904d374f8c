from __future__ import annotations

import hashlib
import pathlib
import random
import tomllib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from data_prep import documents as docs
from data_prep.engine import LocalEngine
from data_prep.files import write_parquet
from data_prep.web import classifier
from data_prep.web.classifier import FastText
from data_prep.web.pages import SCHEMA
from data_prep.web.recall import recall

TINY = FastText(dim=8, epochs=2, min_steps=1500, min_count=1, buckets=4096)
CODE = "return function class import compile pointer buffer thread array parser string integer loop stack heap".split()
PROSE = "garden river mountain breakfast music holiday train village summer painting recipe football theatre".split()
CODE_CN = "函数 编译 指针 数组 线程 变量 接口 循环 内存 对象".split()
PROSE_CN = "花园 河流 早餐 音乐 假期 火车 村庄 夏天 绘画 足球".split()
SHARED = "the of and to in is that for with as".split()
# place → (words, words of which half the pages are made in part, number of pages)
WEB = {
    "code-a.com": CODE[:10],
    "prose-a.com": PROSE[:8] + PROSE_CN[:5],
    "code-b.com/x": CODE[4:],
    "code.cn/wen": CODE_CN,
    "forum.com/dev": CODE[3:],
    "forum.com/chat": PROSE[3:],
    "prose-b.com/y": PROSE[5:],
    "prose.cn/y": PROSE_CN,
}
PAGES = 30


def is_code(url: str) -> bool:
    return any(url.startswith(f"https://{place}/") for place in WEB if "code" in place or "dev" in place)


def rows() -> list[dict[str, Any]]:
    draw = random.Random(0)
    found = []
    for place, own in WEB.items():
        for number in range(PAGES):
            text = " ".join(draw.choice(own) if draw.random() < 0.6 else draw.choice(SHARED) for _ in range(60))
            url = f"https://{place}/{number}.html"
            found.append({"path": url, "text": text, "url": url, "domain": place.partition("/")[0], "language": "text"})
    draw.shuffle(found)
    return found


@pytest.fixture
def web(write_documents: Callable[..., epath.Path], tmp_path: pathlib.Path) -> dict[str, epath.Path]:
    """Directories of pages and of a seed from two domains, with pages of both kinds."""
    pages = epath.Path(tmp_path / "web")
    plain = write_documents("plain", [{k: v for k, v in row.items() if k != "domain"} for row in rows()])
    table = docs.read_part(docs.parts(plain)[0])
    domains = [url.split("/")[2] for url in table["url"].to_pylist()]
    table = table.append_column(SCHEMA.field("domain"), [domains])
    pages.mkdir()
    for number, start in enumerate((0, 100)):
        part = table.slice(start, 100 if not start else None)
        write_parquet(iter([part]), pages / f"part-{number:05d}.parquet")
    judged = [row for row in table.to_pylist() if row["domain"] in ("code-a.com", "prose-a.com")]
    for row in judged:
        row["reasons"] = [] if is_code(row["url"]) else ["not_code (0.1)"]
    seed = epath.Path(tmp_path / "seed")
    seed.mkdir()
    write_parquet(iter([table.from_pylist(judged, table.schema)]), seed / "part-00000.parquet")
    return {"documents": pages, "seed": seed}


def run(out: pathlib.Path, web: dict[str, epath.Path], **parameters: Any) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    parameters = {"engine": LocalEngine(workers=1)} | parameters
    return recall(
        epath.Path(out), **web, fasttext=TINY, vocab_size=900, rounds=parameters.pop("rounds", 2), **parameters
    )


def contents(directory: pathlib.Path) -> dict[str, str]:
    """Digests of all files but the manifests, which name the directory."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file() and path.parent.name != "_manifests")
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_rounds_find_code_on_domains_that_no_seed_has(web: dict[str, epath.Path], tmp_path: pathlib.Path):
    (tmp_path / "patterns.toml").write_text('code = ["code.cn/wen"]')
    result = run(tmp_path / "out", web, rounds=3, patterns=str(tmp_path / "patterns.toml"))
    found = [row for part in docs.parts(epath.Path(tmp_path / "out")) for row in docs.read_part(part).to_pylist()]
    assert len(found) == result["files_in"] == PAGES * len(WEB)
    kept = {row["url"] for row in found if not row["reasons"]}
    assert all(row["reasons"][0].startswith("not_recalled (0.") for row in found if row["url"] not in kept)
    truth = {row["url"] for row in found if is_code(row["url"])}
    assert len(kept & truth) >= 0.95 * len(truth)
    assert len(kept & truth) >= 0.95 * len(kept)
    first, *_, last = result["rounds"]
    assert first["next"]["joined"] > 0  # the Chinese pages are new to the first classifier
    assert last["code_domains"] == 4
    assert last["examples"]["code"] > first["examples"]["code"]
    assert last["pages"] == len(found) and last["recalled"] == len(kept) and last["tokens"] > 0
    proposals = tomllib.loads((tmp_path / "out" / "round-3" / "proposals.toml").read_text())
    assert "forum.com/dev" in proposals["code"]
    assert "forum.com" in proposals["doubtful"]
    assert not (tmp_path / "out" / "_scratch").exists()


class Killed(Exception):
    pass


class Mortal:
    """An engine that is killed in its n-th call, with half of the parts written."""

    def __init__(self, calls: int) -> None:
        self.calls, self.engine = calls, LocalEngine(workers=1)

    def map(self, fn: Any, inputs: Any, out: epath.Path, *, label: str) -> None:
        self.calls -= 1
        self.engine.map(fn, inputs if self.calls else inputs[:1], out, label=label)
        if not self.calls:
            raise Killed

    def reduce(self, fn: Any, inputs: Any, out: epath.Path, **parameters: Any) -> None:
        self.calls -= 1
        if not self.calls:
            raise Killed
        self.engine.reduce(fn, inputs, out, **parameters)


def test_the_same_bytes_again_and_after_being_killed(web: dict[str, epath.Path], tmp_path: pathlib.Path):
    (tmp_path / "once").mkdir()
    run(tmp_path / "once" / "recall", web)
    wanted = contents(tmp_path / "once" / "recall")
    assert {"round-1/classifier.bin", "round-2/round.json", "part-00001.parquet"} <= wanted.keys()
    for calls in (3, 10):
        out = tmp_path / f"killed{calls}" / "recall"
        out.parent.mkdir()
        with pytest.raises(Killed):
            run(out, web, engine=Mortal(calls))
        run(out, web)
        assert contents(out) == wanted


def test_a_person_rejects_and_the_next_round_learns(web: dict[str, epath.Path], tmp_path: pathlib.Path):
    before = run(tmp_path / "before", web)
    patterns = tmp_path / "patterns.toml"
    patterns.write_text('code = []\nrejected = ["forum.com/dev"]\n')
    after = run(tmp_path / "after", web, patterns=str(patterns))

    def kept(name: str) -> int:
        pages = docs.read(epath.Path(tmp_path / name), ["url"])
        return sum("forum.com/dev" in url for table in pages for url in table["url"].to_pylist())

    assert after["rounds"][0]["next"]["hard"] >= before["rounds"][0]["next"].get("hard", 0) + PAGES / 2
    assert kept("after") < kept("before")
    assert "forum.com/dev" not in (tmp_path / "after" / "round-1" / "proposals.toml").read_text()


def test_a_seed_without_other_pages_takes_random_ones(web: dict[str, epath.Path], tmp_path: pathlib.Path):
    part = docs.parts(web["seed"])[0]
    only = epath.Path(tmp_path / "only_code")
    only.mkdir()
    write_parquet(iter([docs.kept(docs.read_part(part))]), only / part.name)
    examples = run(tmp_path / "out", web | {"seed": only}, rounds=1)["rounds"][0]["examples"]
    drawn = examples["other"] + examples["heldout_other"]
    assert 0 < drawn <= PAGES == examples["code"] + examples["heldout_code"]


def test_chinese_is_segmented_with_a_bounded_vocabulary(tmp_path: pathlib.Path):
    texts = [row["text"] for row in rows()]
    (tmp_path / "model").write_bytes(classifier.train_segmenter(texts, 900))
    segment = classifier.Segmenter(epath.Path(tmp_path / "model"))
    pieces = segment("编译函数 Return the Buffer 123 ```\n").split(" ")
    assert "".join(pieces).replace("\u2581", " ") == " 编译函数 return the buffer"
    assert "函数" in "".join(pieces) and len(pieces) < 12
    assert segment("") == segment("123") == ""


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=2, max_size=30), st.floats(0.5, 1))
def test_the_threshold_is_the_best_of_all(examples: list[tuple[int, bool]], wanted: float):
    scores = np.array([score / 8 for score, _ in examples], np.float32)
    code = np.array([kind for _, kind in examples])
    if code.all() or not code.any():
        with pytest.raises(ValueError, match="larger seed"):
            classifier.choose_threshold(scores, code, wanted)
        return

    def quality(threshold: float) -> tuple[float, float]:
        hits = scores >= threshold
        return float(code[hits].mean()) if hits.any() else 0.0, float(hits[code].mean())

    def worth(precision: float, recall: float) -> tuple[bool, float]:
        f1 = 2 * precision * recall / (precision + recall) if recall else 0.0
        return precision >= wanted, f1 if precision >= wanted else precision

    found = classifier.choose_threshold(scores, code, wanted)
    assert (found.precision, found.recall) == pytest.approx(quality(found.score))
    best = max(worth(*quality(threshold)) for threshold in np.unique(scores))
    assert worth(found.precision, found.recall) == (best[0], pytest.approx(best[1]))
