"""The stage `text_files`: which text files of GitHub are about code (paper, section 2.1.1 and appendix A.2).

Before the filter the paper keeps the text files whose name says so (StarCoder's rule: 3 % of the volume) and those that
a fastText model finds (7 % more).
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import logging
from collections.abc import Callable
from typing import Any

import gin
import pyarrow as pa
import pyarrow.compute as pc
from etils import epath

from data_prep import documents as docs
from data_prep import funnel
from data_prep.engine import Engine, LocalEngine
from data_prep.sampling import draw
from data_prep.web import batches
from data_prep.web.classifier import FastText
from data_prep.web.learning import Lesson, write_segmenter

LOGGER = logging.getLogger("data_prep")
FASTTEXT = FastText()
STEMS = frozenset({"readme", "notes", "todo", "description", "cmakelists"})
_FEWEST = 20  # examples of a kind to learn from


@gin.configurable
def text_files(
    out: epath.Path,
    *,
    documents: epath.Path = epath.Path("transform"),
    seed: epath.Path | None = None,
    vocab_size: int = 16_384,
    sample_bytes: int = 8 << 20,
    fasttext: FastText = FASTTEXT,
    min_precision: float = 0.8,
    max_examples: int = 500_000,
    heldout: float = 0.2,
    salt: str = "text_files",
    engine: Engine = LocalEngine(),
) -> dict[str, Any]:
    """Drops text files that are not about code; other files pass. Reason: ``not_code_related (<score>)``.

    The paper does not tell what its model learnt from. Without a seed that is here the files that the rule keeps,
    against as many of the others: some of those are about code, too, so the precision at the threshold is a low
    estimate, and less is asked of it than in the recall. With fewer than 20 of either the rule decides alone.

    Args:
      seed: judged documents to learn from instead: kept ones are about code, dropped ones are not.
      vocab_size, sample_bytes, fasttext, min_precision, heldout: as those of `recall`.
      max_examples: most files of each kind to learn from.
      salt: another salt draws other examples.

    Returns:
      The funnel, "text_files" in and "by_name" kept by the rule, and "examples" and "threshold" if there is a model.
    """
    scratch = out / "_scratch"
    texts, examples = scratch / "texts", scratch / "examples"
    for directory in (texts, examples):
        directory.mkdir(parents=True, exist_ok=True)
    engine.map(_texts, docs.parts(documents), texts, label="text files")
    paths = (path for table in docs.read(texts, ["path"]) for path in table["path"].to_pylist())
    named = collections.Counter(map(is_named, paths))
    by_name, others = named[True], named[False]
    numbers: dict[str, Any] = {"text_files": named.total(), "by_name": by_name}
    judge = _by_name
    if seed is not None or min(by_name, others) >= _FEWEST:
        segmenter, model = scratch / "segmenter.model", scratch / "model.bin"
        write_segmenter(segmenter, [texts], vocab_size, sample_bytes, salt)
        wanted = min(by_name, max_examples)
        shares = (1.0, 1.0) if seed else (wanted / by_name, min(1.0, wanted / others))
        mark = functools.partial(_examples, shares=shares, salt=salt, named=seed is None, segmenter=str(segmenter))
        engine.map(mark, docs.parts(seed or texts), examples, label="examples")
        lesson = Lesson(examples, heldout, salt)
        numbers["examples"] = lesson.train(fasttext, model, scratch)
        threshold = lesson.threshold(model, min_precision)
        numbers["threshold"] = dataclasses.asdict(threshold)
        digest = hashlib.sha256(model.read_bytes()).hexdigest()
        score = functools.partial(batches.scored, segmenter=str(segmenter), model=str(model), digest=digest)
        judge = functools.partial(_by_score, score=score, threshold=threshold.score)
    else:
        LOGGER.warning("text_files: too few text files to learn from, so their names decide alone")
    result = funnel.documents_map(engine, functools.partial(_judged, judge=judge), documents, out, "text files judged")
    scratch.rmtree()
    return result | numbers


def is_named(path: str) -> bool:
    """Whether the name of a text file says that it is about code."""
    name = path.rpartition("/")[2].lower()
    return "requirement" in name or name.partition(".")[0] in STEMS


def _texts(table: pa.Table) -> pa.Table:
    table = docs.kept(table)
    return table.filter(pc.equal(table["doc_type"], "text"))


def _examples(table: pa.Table, *, shares: tuple[float, float], salt: str, named: bool, segmenter: str) -> pa.Table:
    """`batches.EXAMPLES` of judged files, or of those whose names judge; drawn with the shares of code, and others."""
    if named:
        table = docs.drop(table, [[] if is_named(path) else ["other"] for path in table["path"].to_pylist()])
    kinds = zip(table["id"].to_pylist(), table["reasons"].to_pylist(), strict=True)
    chosen = [draw(salt, identifier) < shares[bool(reasons)] for identifier, reasons in kinds]
    return batches.seed_examples(table.filter(pa.array(chosen, pa.bool_())), segmenter=segmenter)


def _judged(table: pa.Table, *, judge: Callable[[pa.Table], list[list[str]]]) -> pa.Table:
    kinds = zip(table["doc_type"].to_pylist(), table["path"].to_pylist(), strict=True)
    rows = [row for row, (kind, path) in enumerate(kinds) if kind == "text" and not is_named(path)]
    reasons: list[list[str]] = [[] for _ in range(table.num_rows)]
    for row, why in zip(rows, judge(table.take(pa.array(rows, pa.int64()))), strict=True):
        reasons[row] = why
    return docs.drop(table, reasons)


def _by_name(table: pa.Table) -> list[list[str]]:
    return [["not_code_related"]] * table.num_rows


def _by_score(table: pa.Table, *, score: Callable[[pa.Table], pa.Table], threshold: float) -> list[list[str]]:
    scores = score(table)["score"].to_pylist()
    return [[] if value >= threshold else [f"not_code_related ({value:.2f})"] for value in scores]
