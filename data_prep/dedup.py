"""Deduplication, exact and fuzzy (arXiv 2411.04905, section 2.1.1): of files, repositories and chunks.

Every stage keeps one of a group by the same rule: most stars, then latest commit, then the first path, content hash
and id in byte order; unknown stars and times come last. It is a total order, so the survivor does not depend on the
order of the rows. The levels of the paper's ablation (section 6.1) are compositions: `fuzzy_dedup` with unit = "file"
or "repository", and then `chunks.chunks` and once more `fuzzy_dedup`.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence

import gin
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from etils import epath

from data_prep import clusters as groups
from data_prep import documents as docs
from data_prep import funnel, lsh, minhash
from data_prep.clusters import survivors
from data_prep.components import components
from data_prep.engine import Engine, LocalEngine
from data_prep.files import write_json, write_parquet
from data_prep.tasks import TableFn

LOGGER = logging.getLogger("data_prep")
NO_CORPORA: list[epath.Path] = []


@gin.configurable
def exact_dedup(
    out: epath.Path,
    *,
    documents: epath.Path = epath.Path("preprocess"),
    buckets: int = 0,
    engine: Engine = LocalEngine(),
) -> dict:
    """Keeps one file of those with the same bytes (SHA-256).

    Reason: ``exact_duplicate: <id of the survivor>``. The output has `buckets` parts, 0 for as many as
    fit in memory.
    """
    engine.reduce(
        _drop_exact, docs.parts(documents), out, key="content_sha256", buckets=buckets, label="exact duplicates"
    )
    return funnel.write(out)


def _drop_exact(table: pa.Table) -> pa.Table:
    table = docs.kept(table)
    winner = survivors(table, "content_sha256")
    ids = table["id"].to_pylist()
    return docs.drop(
        table, [[] if winner[row] == row else [f"exact_duplicate: {ids[winner[row]]}"] for row in range(len(ids))]
    )


@gin.configurable
def fuzzy_dedup(
    out: epath.Path,
    *,
    documents: epath.Path = epath.Path("exact_dedup"),
    unit: str = "file",
    known: list[epath.Path] = NO_CORPORA,
    bands: int = 16,
    rows: int = 128,
    ngram: int = 5,
    tokens: str = "word",
    seed: int = 1,
    min_jaccard: float | None = None,
    max_edges: int = 20_000_000,
    buckets: int = 0,
    engine: Engine = LocalEngine(),
) -> dict:
    """Keeps one unit of each cluster of nearly equal ones: MinHash LSH, then connected components.

    Reason: ``fuzzy_duplicate: <id of the survivor>``, a document's id or a repository's name. A unit without shingles
    (see `minhash`) is never a duplicate. ``clusters.parquet`` lists the members of clusters of two or more: see
    `clusters.CLUSTERS`. ``signatures/`` holds what is needed to deduplicate a later corpus against this one.

    With `known` corpora, a unit in a cluster with one of theirs is dropped, whatever its stars; theirs stay as they
    are. So what is kept of corpus B, given A, is what is kept of A and B together in clusters without a unit of A.

    Args:
      documents: documents; of known corpora only the signatures are read.
      unit: "file" (or a chunk: any document) or "repository", all documents with the same `repo`.
      known: directories of this stage's earlier runs with the same settings, the oldest first.
      bands: hashes of a unit that are compared; two units are met if one agrees.
      rows: MinHash values in a band, so that bands x rows is the number of permutations.
      ngram: tokens in a shingle.
      tokens: "word" or "character".
      seed: of the permutations.
      min_jaccard: if given, clusters are checked: pairs of less exact Jaccard similarity are no duplicates.
      max_edges: up to this many edges (100 bytes of memory each) components are found in memory, else by the engine.
      buckets: of edges, and of repositories with their text: one must fit in memory. 0 takes as many as that needs.

    Returns:
      The funnel, "clusters", "largest_cluster", and of the setting "s_curve", the probability that a pair is met by its
      Jaccard similarity, and "threshold", the similarity at which it is one half.

    Raises:
      ValueError: there is no such unit or tokeniser, a known corpus was signed with other settings, or known corpora
        shall be verified, which needs their text.
    """
    if unit not in lsh.UNITS:
        raise ValueError(f"fuzzy_dedup.unit must be one of {', '.join(lsh.UNITS)}, not {unit!r}")
    if min_jaccard is not None and known:
        raise ValueError("fuzzy_dedup: min_jaccard needs the text of all corpora, and that of known ones is not read")
    scheme = minhash.Scheme(bands * rows, ngram, tokens, seed)
    settings = {"unit": unit, "bands": bands, "rows": rows, "ngram": ngram, "tokens": tokens, "seed": seed}
    curve = minhash.s_curve(bands, rows)
    for similarity, probability in curve.items():
        LOGGER.info(
            "fuzzy duplicates: finds %5.1f %% of pairs with Jaccard similarity %s", 100 * probability, similarity
        )
    if not (out / "clusters.parquet").exists():
        corpora = {generation: docs.parts(_signatures(path, settings)) for generation, path in _generations(known)}
        over_units = functools.partial(_over_units, engine, docs.parts(documents), unit, buckets)
        signatures, scratch = out / "signatures", out / "_scratch"
        over_units(
            functools.partial(lsh.sign, unit=unit, scheme=scheme, bands=bands), signatures, label="minhash signatures"
        )
        write_json(signatures / "settings.json", settings)
        corpora[0] = docs.parts(signatures)
        nodes, roots = _components(corpora, scratch, engine, buckets, max_edges)
        found = {"nodes": nodes, "roots": roots}
        if min_jaccard is None:
            members = _each(lsh.members, corpora, scratch / "members", engine, label="clusters", **found)
        else:
            with_shingles = functools.partial(lsh.members_with_shingles, unit=unit, scheme=scheme, bands=bands, **found)
            members = over_units(with_shingles, scratch / "members", label="shingles of clusters")
        ranked = scratch / "clusters"
        rank = functools.partial(groups.clusters, min_jaccard=min_jaccard)
        engine.reduce(rank, members, ranked, key="root", buckets=buckets, label="survivors")
        write_parquet(map(docs.read_part, docs.parts(ranked)), out / "clusters.parquet")
    clusters = docs.read_part(out / "clusters.parquet", columns=["node", "survivor", "rank", "known", "cluster"])
    drop = functools.partial(_drop_fuzzy, unit=unit, losers=_losers(clusters))
    result = funnel.documents_map(engine, drop, documents, out, label="fuzzy duplicates")
    if (out / "_scratch").exists():
        (out / "_scratch").rmtree()
    return result | {
        "clusters": pc.sum(pc.equal(clusters["rank"], 0)).as_py() or 0,
        "largest_cluster": (pc.max(clusters["rank"]).as_py() or -1) + 1,
        "threshold": round((1 - 0.5 ** (1 / bands)) ** (1 / rows), 4),
        "s_curve": curve,
    }


def _generations(known: Sequence[epath.Path]) -> list[tuple[int, epath.Path]]:
    return [(number - len(known), path) for number, path in enumerate(known)]


def _signatures(corpus: epath.Path, settings: dict) -> epath.Path:
    """The directory of signatures of an earlier run, if they were made with these settings."""
    path = corpus / "signatures" / "settings.json"
    if not path.exists():
        raise FileNotFoundError(f"fuzzy_dedup.known: {corpus} holds no signatures of a finished fuzzy_dedup")
    for name, value in json.loads(path.read_text()).items():
        if settings[name] != value:
            raise ValueError(f"fuzzy_dedup.known: {corpus} was signed with {name} = {value}, not {settings[name]}")
    return path.parent


def _over_units(
    engine: Engine,
    documents: Sequence[epath.Path],
    unit: str,
    buckets: int,
    fn: TableFn,
    out: epath.Path,
    *,
    label: str,
) -> list[epath.Path]:
    """Runs `fn` over documents such that those of one unit come together, and returns the parts it wrote."""
    if unit == "file":
        engine.map(fn, documents, out, label=label)
    else:
        engine.reduce(fn, documents, out, key=lsh.UNITS[unit], buckets=buckets, label=label)
    return docs.parts(out)


def _each(
    fn: Callable[..., pa.Table],
    corpora: Mapping[int, Sequence[epath.Path]],
    out: epath.Path,
    engine: Engine,
    *,
    label: str,
    **arguments: np.ndarray,
) -> list[epath.Path]:
    """Maps `fn` over the signatures of every generation, which it is told, and returns the parts it wrote."""
    for generation, signatures in corpora.items():
        target = out / f"generation{generation}"
        engine.map(functools.partial(fn, generation=generation, **arguments), signatures, target, label=label)
    return [part for generation in corpora for part in docs.parts(out / f"generation{generation}")]


def _components(
    corpora: Mapping[int, Sequence[epath.Path]], scratch: epath.Path, engine: Engine, buckets: int, max_edges: int
) -> tuple[np.ndarray, np.ndarray]:
    bands = _each(lsh.band_rows, corpora, scratch / "bands", engine, label="bands")
    edges = scratch / "edges"
    engine.reduce(lsh.star_edges, bands, edges, key="band", buckets=buckets, label="units that share a band")
    return components(docs.parts(edges), scratch / "components", engine, buckets=buckets, max_edges=max_edges)


def _losers(clusters: pa.Table) -> pa.Table:
    """Columns node (sorted), survivor of the units to drop."""
    lost = pc.and_(pc.greater(clusters["rank"], 0), pc.invert(clusters["known"]))
    return clusters.filter(lost).select(["node", "survivor"]).sort_by("node")


def _drop_fuzzy(table: pa.Table, *, unit: str, losers: pa.Table) -> pa.Table:
    at = lsh.positions(lsh.nodes_of(table[lsh.UNITS[unit]].to_pylist()), losers["node"].to_numpy())
    survivor = losers["survivor"].take(pa.array(at, mask=at < 0)).to_pylist()
    return docs.drop(table, [[] if i is None else [f"fuzzy_duplicate: {i}"] for i in survivor])
