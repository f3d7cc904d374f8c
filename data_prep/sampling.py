"""Which documents a run uses: down-sampling by language, the star filter, and the held-out split.

All draws are a hash of content or repository with a salt: they do not depend on the order of the documents, on how
many there are, or on anything but the document itself.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping

import gin
import pyarrow as pa
import pyarrow.compute as pc
from etils import epath

from data_prep import documents as docs
from data_prep import funnel, languages
from data_prep.engine import Engine, LocalEngine


def draw(salt: str, key: str) -> float:
    """A number in [0, 1), uniform over keys and independent for different salts: a hash, so the same for ever."""
    digest = hashlib.sha256(f"{salt}\0{key}".encode()).digest()
    return (int.from_bytes(digest[:8], "little") >> 11) / (1 << 53)


@gin.configurable
def sample(
    out: epath.Path,
    *,
    documents: epath.Path = epath.Path("quality_filter"),
    keep_ratios: dict[str, float] = {"java": 200 / 449, "html": 64 / 474},  # noqa: B006
    salt: str = "sample",
    engine: Engine = LocalEngine(),
) -> dict:
    """Keeps a share of the files of some languages, drawn by content. Reason: ``down_sampled: <language>``.

    The default is the paper's: Java 449 → 200 GB, HTML 474 → 64 GB (arXiv 2411.04905, section 2.1.1).

    Args:
      keep_ratios: language, named as in `languages` -> share of its files to keep, 0 to 1.

    Raises:
      ValueError: there is no such language, or a ratio is not in 0 … 1.
    """
    for language, ratio in keep_ratios.items():
        if languages.canonical(language) != language:
            raise ValueError(f"sample.keep_ratios: no language {language!r}; names are like 'java', 'cpp', 'csharp'")
        if not 0 <= ratio <= 1:
            raise ValueError(f"sample.keep_ratios: {language} = {ratio} must be between 0 and 1")
    return funnel.documents_map(
        engine, functools.partial(_sample, ratios=keep_ratios, salt=salt), documents, out, label="sampling"
    )


def _sample(table: pa.Table, *, ratios: Mapping[str, float], salt: str) -> pa.Table:
    files = zip(table["language"].to_pylist(), table["content_sha256"].to_pylist(), strict=True)
    return docs.drop(
        table,
        [
            [] if draw(salt, content) < ratios.get(language, 1.0) else [f"down_sampled: {language}"]
            for language, content in files
        ],
    )


@gin.configurable
def star_filter(
    out: epath.Path,
    *,
    documents: epath.Path = epath.Path("sample"),
    min_stars: int = 5,
    engine: Engine = LocalEngine(),
) -> dict:
    """Drops files of repositories with fewer stars, or an unknown number. Reason: ``stars < 5 (3)``.

    An ablation, not part of the recipe: the paper finds lower loss and lower scores (arXiv 2411.04905, section 6.3).
    """
    return funnel.documents_map(
        engine, functools.partial(_star_filter, min_stars=min_stars), documents, out, label="star filter"
    )


def _star_filter(table: pa.Table, *, min_stars: int) -> pa.Table:
    reasons = []
    for stars in table["stars"].to_pylist():
        enough = stars is not None and stars >= min_stars
        reasons.append([] if enough else [f"stars < {min_stars} ({'unknown' if stars is None else stars})"])
    return docs.drop(table, reasons)


@gin.configurable
def split(
    out: epath.Path,
    *,
    documents: epath.Path = epath.Path("decontaminate"),
    heldout_fraction: float = 0.05,
    max_heldout_share: float = 0.1,
    salt: str = "heldout",
    engine: Engine = LocalEngine(),
) -> dict:
    """Sets column `split` to ``heldout`` for the files of some repositories and to ``train`` for all others.

    A repository is held out where its draw falls under `heldout_fraction`, see `heldout_groups`. With one repository
    only, files are drawn instead.

    Returns:
      The funnel, "heldout_by" (repository or file), "heldout_files", "heldout_bytes" and "heldout_repositories".

    Raises:
      ValueError: `heldout_fraction` or `max_heldout_share` is not between 0 and 1.
    """
    for name, value in (("heldout_fraction", heldout_fraction), ("max_heldout_share", max_heldout_share)):
        if not 0 < value < 1:
            raise ValueError(f"split.{name} = {value} must be between 0 and 1")
    rows = [docs.SCHEMA.empty_table().select(["id", "repo", "size"]), *docs.read(documents, ["id", "repo", "size"])]
    sizes = pa.concat_tables(rows)
    by = "repo" if pc.count_distinct(sizes["repo"]).as_py() > 1 else "id"
    groups = sizes.group_by(by).aggregate([("size", "sum")])
    held = heldout_groups(
        dict(zip(groups[by].to_pylist(), groups["size_sum"].to_pylist(), strict=True)),
        heldout_fraction,
        max_heldout_share,
        salt,
    )
    result = funnel.documents_map(
        engine, functools.partial(_split, by=by, held=frozenset(held)), documents, out, label="held-out split"
    )
    out_of_training = sizes.filter(pc.is_in(sizes[by], pa.array(sorted(held), pa.string())))
    return result | {
        "heldout_by": {"repo": "repository", "id": "file"}[by],
        "heldout_files": out_of_training.num_rows,
        "heldout_bytes": pc.sum(out_of_training["size"]).as_py() or 0,
        "heldout_repositories": sorted(set(out_of_training["repo"].to_pylist())),
    }


def heldout_groups(sizes: Mapping[str, int], fraction: float, max_share: float, salt: str) -> set[str]:
    """The groups to hold out: those whose draw is below `fraction`, but none with more than `max_share` of the bytes.

    With two or more groups at least one is held out and at least one is not: if the rule finds none, it is the group
    with the smallest draw among those of at most `max_share`, or else the smallest group; if it finds all, the group
    with the largest draw is left in training.

    Args:
      sizes: bytes of each group.
    """
    if len(sizes) < 2:
        return set()
    order = sorted(sizes, key=lambda name: (draw(salt, name), name))
    limit = max_share * sum(sizes.values())
    eligible = [name for name in order if sizes[name] <= limit] or [min(order, key=lambda name: sizes[name])]
    held = {name for name in eligible if draw(salt, name) < fraction} or {eligible[0]}
    return held - {order[-1]} if len(held) == len(sizes) else held


def _split(table: pa.Table, *, by: str, held: frozenset[str]) -> pa.Table:
    values = ["heldout" if group in held else "train" for group in table[by].to_pylist()]
    index = table.schema.get_field_index("split")
    return table.set_column(index, docs.SCHEMA.field("split"), pa.array(values, pa.string()))
