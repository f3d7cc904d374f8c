"""The stage `recall`: code-related web pages, in rounds that start from a small seed (paper §2.1.2).

A round trains a classifier, chooses its threshold on held-out examples, scores all pages, finds the domains with more
than 10 % of their pages recalled, and takes what it missed there into the seed of the next round. A person says which
parts of a domain count; until one does, the parts with most of their pages recalled do.

    out/segmenter.model          the BPE pieces
    out/round-1/ …               classifier.bin, domains.parquet, proposals.toml, round.json
    out/part-*.parquet           all pages with column `score` from the last round; those not recalled are dropped
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import heapq
import inspect
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gin
import pyarrow as pa
from etils import epath

from data_prep import documents as docs
from data_prep import funnel
from data_prep.engine import Engine, LocalEngine
from data_prep.files import atomic, write_json, write_parquet
from data_prep.sampling import draw
from data_prep.web import batches, domains, urls
from data_prep.web.classifier import FastText
from data_prep.web.learning import Lesson, write_segmenter

LOGGER = logging.getLogger("data_prep")
FASTTEXT = FastText()
PATTERNS = "data_prep/web/code_urls.toml"
_TOTALS = ("pages", "recalled", "tokens", "bytes")  # tokens and bytes of the recalled pages
_ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class _Rule:
    """What stays the same from round to round."""

    fasttext: FastText
    min_precision: float
    domain_share: float
    min_pages: int
    confirm_share: float
    patterns: Path
    max_examples: int
    heldout: float
    salt: str


@gin.configurable
def recall(
    out: epath.Path,
    *,
    documents: epath.Path = epath.Path("web_pages"),
    seed: epath.Path = epath.Path("seed"),
    rounds: int = 3,
    vocab_size: int = 16_384,
    sample_bytes: int = 8 << 20,
    fasttext: FastText = FASTTEXT,
    min_precision: float = 0.95,
    domain_share: float = 0.10,
    min_pages: int = 10,
    confirm_share: float = 0.75,
    patterns: str = PATTERNS,
    max_examples: int = 500_000,
    heldout: float = 0.2,
    salt: str = "recall",
    engine: Engine = LocalEngine(),
) -> dict[str, Any]:
    """Keeps the code-related pages. Reason: ``not_recalled (<score>)``.

    Args:
      documents: pages with columns `url` and `domain`, as `web_pages` writes them.
      seed: documents that were judged, such as by a language model: kept ones are code-related, dropped ones are not.
        Where none is dropped, pages drawn at random count as not code-related in the first round.
      rounds: how often to train.
      vocab_size: of the segmentation.
      sample_bytes: expected size, as fetched, of the pages that the segmentation is learnt from.
      fasttext: how the classifier is trained.
      min_precision: wanted on held-out examples.
      domain_share: a domain with a larger share of its pages recalled is code-related.
      min_pages: domains and paths with fewer pages are not judged.
      confirm_share: a part of a code-related domain with this share of its pages recalled counts as confirmed; above 1,
        only those that the file of patterns names.
      patterns: the file in which a person confirms and rejects; a relative path is relative to the project.
      max_examples: most pages of each kind that join the examples in a round; the paper's seed has 500,000.
      heldout: share of the examples that the threshold is chosen on.
      salt: another salt draws other examples.

    Returns:
      The funnel and "rounds": the numbers of each, as in its round.json.
    """
    rule = _Rule(
        fasttext, min_precision, domain_share, min_pages, confirm_share, _ROOT / patterns, max_examples, heldout, salt
    )
    segmenter = out / "segmenter.model"
    write_segmenter(segmenter, [seed, documents], vocab_size, sample_bytes, salt)
    numbers: list[dict[str, Any]] = []
    for number in range(1, rounds + 1):
        this = _Round(out, number, documents, seed, segmenter, rule, engine)
        if not (this.directory / "round.json").exists():
            this.run(last=number == rounds)
        numbers.append(json.loads((this.directory / "round.json").read_text()))
        LOGGER.info("recall: %s", _in_words(numbers[-1]))
    result = funnel.write(out)
    if (out / "_scratch").exists():
        (out / "_scratch").rmtree()
    return result | {"rounds": numbers}


def _in_words(numbers: dict[str, Any]) -> str:
    held = numbers["heldout"]
    return (
        f"round {numbers['round']}: {numbers['recalled']:,} of {numbers['pages']:,} pages recalled, "
        f"{numbers['tokens']:,} tokens; {numbers['code_domains']:,} of {numbers['domains']:,} domains are about code; "
        f"{numbers['next'].get('joined', 0):,} new seeds; on held-out examples precision {held['precision']:.3f}, "
        f"recall {held['recall']:.3f}"
    )


def _fingerprint(patterns: str, workdir: epath.Path) -> dict[str, str]:
    """Digest of the file of patterns: another one makes the stage another."""
    del workdir
    return {f"patterns {patterns}": hashlib.sha256((_ROOT / patterns).read_bytes()).hexdigest()}


inspect.unwrap(recall).fingerprint = _fingerprint


@dataclasses.dataclass(frozen=True)
class _Round:
    """One round, and where its files lie."""

    out: epath.Path
    number: int
    documents: epath.Path
    seed: epath.Path
    segmenter: epath.Path
    rule: _Rule
    engine: Engine

    @property
    def directory(self) -> epath.Path:
        return self.out / f"round-{self.number}"

    @property
    def scratch(self) -> epath.Path:
        return self.out / "_scratch" / f"round-{self.number}"

    def run(self, last: bool) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        for name in ("seed", "pages", "scores"):
            (self.scratch / name).mkdir(parents=True, exist_ok=True)
        self._gather_examples()
        lesson = Lesson(self.scratch / "examples", self.rule.heldout, self.rule.salt)
        model = self.directory / "classifier.bin"
        examples = lesson.train(self.rule.fasttext, model, self.scratch)
        threshold = lesson.threshold(model, self.rule.min_precision)
        self._score(threshold.score, last)
        totals, code = self._judge_domains(threshold.score)
        confirmed = self._propose(code)
        labels = {} if last else self._label(threshold.score, confirmed, totals["pages"])
        numbers = {
            "round": self.number,
            "examples": examples,
            "heldout": dataclasses.asdict(threshold),
            **totals,
            "code_domains": len(code),
            "code_domain_pages": sum(row["pages"] for row in code),
            "confirmed_patterns": len(confirmed.patterns),
            "next": labels,
        }
        write_json(self.directory / "round.json", numbers)
        self.scratch.rmtree()

    def _gather_examples(self) -> None:
        """Writes examples, in an order drawn by id."""
        seeds = functools.partial(batches.seed_examples, segmenter=os.fspath(self.segmenter))
        self.engine.map(seeds, docs.parts(self.seed), self.scratch / "seed", label="seed")
        labels = self._labels()
        pages = functools.partial(
            batches.page_examples, labels=os.fspath(labels), digest=_digest(labels), segmenter=os.fspath(self.segmenter)
        )
        label = f"round {self.number}"
        self.engine.map(pages, docs.parts(self.documents), self.scratch / "pages", label=f"{label}: examples")
        parts = [*docs.parts(self.scratch / "seed"), *docs.parts(self.scratch / "pages")]
        order = functools.partial(batches.in_drawn_order, salt=self.rule.salt)
        self.engine.reduce(order, parts, self.scratch / "examples", key="id", buckets=0, label=f"{label}: order")

    def _labels(self) -> epath.Path:
        """What earlier rounds, or for want of any a draw, say of pages: a file of `domains.LABELS`, in order of ids."""
        target = self.scratch / "labels.parquet"
        found: dict[str, tuple[bool, str]] = {}
        for number in range(1, self.number):
            for row in docs.read_part(self.out / f"round-{number}" / "labels.parquet").to_pylist():
                if row["why"] == "joined" or number == self.number - 1:
                    found[row["id"]] = row["code"], row["why"]
        if self.number == 1 and (wanted := _without_negatives(self.seed)):
            for identifier in _draw_ids(self.documents, wanted, self.rule.salt):
                found[identifier] = False, "random"
        rows = [{"id": key, "code": code, "why": why} for key, (code, why) in sorted(found.items())]
        write_parquet(iter([pa.Table.from_pylist(rows, domains.LABELS)]), target)
        return target

    def _score(self, threshold: float, last: bool) -> None:
        """Writes the slim table of scores; in the last round the documents, and the table from them."""
        model = self.directory / "classifier.bin"
        score = functools.partial(
            batches.scored, segmenter=os.fspath(self.segmenter), model=os.fspath(model), digest=_digest(model)
        )
        label, scores = f"round {self.number}: score", self.scratch / "scores"
        if last:
            keep = functools.partial(batches.keep_recalled, score=score, threshold=threshold)
            self.engine.map(keep, docs.parts(self.documents), self.out, label=label)
            self.engine.map(batches.slim, docs.parts(self.out), scores, label=f"round {self.number}: scores")
        else:
            slim = functools.partial(batches.slim_scored, score=score)
            self.engine.map(slim, docs.parts(self.documents), scores, label=label)

    def _judge_domains(self, threshold: float) -> tuple[dict[str, int], list[dict[str, Any]]]:
        """Totals over all domains, and the rows of those that are code-related, in order."""
        judge = functools.partial(
            domains.judge,
            threshold=threshold,
            share=self.rule.domain_share,
            min_pages=self.rule.min_pages,
            confirm=self.rule.confirm_share,
        )
        totals: collections.Counter[str] = collections.Counter(dict.fromkeys(_TOTALS, 0))
        code = []
        for row in self._by_domain(judge, self.directory / "domains"):
            totals["domains"] += 1
            totals.update({name: row[name] for name in _TOTALS})
            code += [row] if row["code"] else []
        return dict(totals), sorted(code, key=lambda row: row["domain"])

    def _label(self, threshold: float, confirmed: urls.Patterns, pages: int) -> dict[str, int]:
        """Writes what the next round learns from this one: at most `max_examples` for each reason, by draw."""
        limit = self.rule.max_examples
        choose = functools.partial(
            domains.candidates,
            threshold=threshold,
            share=self.rule.domain_share,
            min_pages=self.rule.min_pages,
            confirmed=confirmed,
            rejected=urls.Patterns(tuple(urls.read_patterns(self.rule.patterns)["rejected"])),
            random=min(1.0, limit / max(pages, 1)),
            salt=f"{self.rule.salt} random",
        )
        chosen: dict[str, list[tuple[float, str, bool]]] = {why: [] for why in domains.REASONS}
        for row in self._by_domain(choose, self.scratch / "candidates"):
            heap, entry = chosen[row["why"]], (-draw(self.rule.salt, row["id"]), row["id"], row["code"])
            heapq.heappush(heap, entry) if len(heap) < limit else heapq.heappushpop(heap, entry)
        labels = [{"id": key, "code": code, "why": why} for why in chosen for _, key, code in chosen[why]]
        labels.sort(key=lambda row: row["id"])
        write_parquet(iter([pa.Table.from_pylist(labels, domains.LABELS)]), self.directory / "labels.parquet")
        return dict(sorted(collections.Counter(row["why"] for row in labels).items()))

    def _by_domain(self, fn: Any, target: epath.Path) -> Iterator[dict[str, Any]]:
        """Rows that `fn` makes of the scores of whole domains."""
        scores, label = docs.parts(self.scratch / "scores"), f"round {self.number}: {target.name}"
        self.engine.reduce(fn, scores, target, key="domain", buckets=0, label=label)
        for part in docs.parts(target):
            yield from docs.read_part(part).to_pylist()

    def _propose(self, code: list[dict[str, Any]]) -> urls.Patterns:
        """Writes proposals.toml; returns the patterns that count as confirmed."""
        lists = urls.read_patterns(self.rule.patterns)
        rejected = urls.Patterns(tuple(lists["rejected"]))
        proposals: dict[bool, list[tuple[str, str]]] = {True: [], False: []}
        for row in code:
            for prefix, pages, recalled in json.loads(row["proposals"]):
                if not rejected.match(prefix):
                    sure = recalled >= self.rule.confirm_share * pages
                    proposals[sure].append((prefix, f"{pages} pages, {100 * recalled / pages:.0f} % recalled"))
        text = (
            "# Recalled for the most part, so they count unless they are rejected.\n"
            + urls.as_toml("code", proposals[True])
            + "\n# Domains of which fewer pages are recalled: look for the paths that are about code.\n"
            + urls.as_toml("doubtful", proposals[False])
        )
        with atomic(self.directory / "proposals.toml") as file:
            file.write(text.encode())
        return urls.Patterns(tuple(dict.fromkeys([*lists["code"], *(pattern for pattern, _ in proposals[True])])))


def _without_negatives(seed: epath.Path) -> int:
    """How many code-related documents a seed has that holds no others; 0 if it holds others."""
    found = [docs.read_part(part, ["reasons"]) for part in docs.parts(seed)]
    kept = sum(docs.kept(table).num_rows for table in found)
    return kept if kept == sum(table.num_rows for table in found) else 0


def _draw_ids(documents: epath.Path, count: int, salt: str) -> list[str]:
    ids = (identifier for table in docs.read(documents, ["id"]) for identifier in table["id"].to_pylist())
    return heapq.nsmallest(count, ids, key=lambda identifier: (draw(salt, identifier), identifier))


def _digest(path: epath.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
