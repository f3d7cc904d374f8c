"""A page about the clusters of near-duplicates that fuzzy_dedup found: who is in them, who survived and why.

It shows the largest clusters, and pairs of files whose similarity is nearest to where the banding meets one half of all
pairs, side by side: those that were met, and, among a sample of the kept files, those that were not.

Example:
  python -m data_prep.clusters_page work/fuzzy_dedup --out clusters.html
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from etils import epath

from data_prep import command, lsh, minhash, page
from data_prep import documents as docs
from data_prep.page import Html, tag

MEMBERS = 12  # of a cluster to compare with each other
_PAIRS_LOOKED_AT = 1000  # to find those near the threshold
_PROBE_BANDS, _PROBE_ROWS = 32, 8  # meets pairs from a Jaccard similarity of about 0.65
_SHORTEST = 20  # shingles; two short files are near a threshold by chance


@dataclasses.dataclass(frozen=True)
class Settings:
    """What fuzzy_dedup ran with, as signatures/settings.json has it."""

    unit: str
    bands: int
    rows: int
    ngram: int
    tokens: str
    seed: int

    @property
    def scheme(self) -> minhash.Scheme:
        return minhash.Scheme(self.bands * self.rows, self.ngram, self.tokens, self.seed)

    @property
    def threshold(self) -> float:
        """The Jaccard similarity at which one half of the pairs is met."""
        return (1 - 0.5 ** (1 / self.bands)) ** (1 / self.rows)


@dataclasses.dataclass(frozen=True)
class Pair:
    one: str
    other: str
    jaccard: float


class Units:
    """Texts and shingles of files or repositories, by id, read from the output of the stage."""

    def __init__(self, directory: epath.Path, settings: Settings, wanted: Iterable[str]):
        ids, column = pa.array(sorted(set(wanted)), pa.string()), lsh.UNITS[settings.unit]
        tables = []
        for part in docs.parts(directory):
            with part.open("rb") as file:
                parquet = pq.ParquetFile(file)
                for group in range(parquet.num_row_groups):
                    rows = pc.is_in(parquet.read_row_group(group, columns=[column])[column], ids)
                    if pc.any(rows).as_py():
                        tables.append(parquet.read_row_group(group, columns=docs.SCHEMA.names).filter(rows))
        if tables:
            every = pa.concat_tables(tables)
            every = docs.drop(every, [[]] * every.num_rows)  # the dropped ones are wanted, too
            units = lsh.units(every, settings.unit)
            self.texts = dict(zip(units["id"].to_pylist(), units["text"].to_pylist(), strict=True))
            columns = (every[name].to_pylist() for name in ("id", "repo", "path"))
            self.names = {identifier: f"{repo}/{path}" for identifier, repo, path in zip(*columns, strict=True)}
        else:
            self.texts, self.names = {}, {}
        self._scheme = settings.scheme
        self._shingles: dict[str, np.ndarray] = {}

    def name(self, unit: str) -> str:
        return self.names.get(unit, unit)

    def shingles(self, unit: str) -> np.ndarray:
        if unit not in self._shingles:
            self._shingles[unit] = minhash.shingles(self.texts[unit] or "", self._scheme)
        return self._shingles[unit]

    def jaccard(self, one: str, other: str) -> float:
        return minhash.jaccard(self.shingles(one), self.shingles(other))


def write(out: epath.Path, directory: epath.Path, *, largest: int, pairs: int, sample: int) -> None:
    """Writes the page about the stage's output in `directory`.

    Args:
      largest: clusters to show.
      pairs: pairs to show of either kind.
      sample: kept files to look for pairs in that were not met.

    Raises:
      FileNotFoundError: `directory` is not the output of fuzzy_dedup.
    """
    try:
        settings = Settings(**json.loads((directory / "signatures" / "settings.json").read_text()))
        with (directory / "clusters.parquet").open("rb") as file:
            clusters = pq.read_table(file)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{directory} is not the output of fuzzy_dedup: {error}") from error
    members: dict[str, list[dict[str, Any]]] = {}
    for row in clusters.to_pylist():
        members.setdefault(row["cluster"], []).append(row)
    order = sorted(members, key=lambda cluster: (-len(members[cluster]), cluster))
    looked_at = [
        (row["survivor"], row["id"])
        for cluster in sorted(members, key=_mixed)
        for row in members[cluster]
        if row["rank"] > 0
    ][:_PAIRS_LOOKED_AT]
    wanted = {row["id"] for cluster in order[:largest] for row in members[cluster][:MEMBERS]}
    units = Units(directory, settings, wanted | set(itertools.chain(*looked_at)))
    met = [
        Pair(one, other, units.jaccard(one, other))
        for one, other in looked_at
        if one in units.texts and other in units.texts  # those of known corpora are elsewhere
    ]
    unmet, missed = _unmet(directory, settings, clusters, sample)
    sections: dict[str, Any] = {
        "Clusters": _sizes(members),
        "Largest clusters": page.listing((_cluster(members[name], units) for name in order[:largest]), per_page=10),
        "Pairs that were met": _pairs(met, units, settings, pairs),
    }
    if settings.unit == "file":
        sections["Pairs that were not met"] = _pairs(unmet, missed, settings, pairs)
    curve = minhash.s_curve(settings.bands, settings.rows)
    sections["The banding"] = page.table(
        ["Jaccard similarity", "met with probability"], [(float(j), (p, f"{100 * p:.2f} %")) for j, p in curve.items()]
    )
    lead = (
        f"{len(members):,} clusters with {clusters.num_rows:,} members. {settings.bands} bands × {settings.rows} rows, "
        f"{settings.ngram}-grams of {settings.tokens}s: one half of the pairs with Jaccard similarity "
        f"{settings.threshold:.3f} is met."
    )
    page.write(out, "Near-duplicate " + {"file": "files", "repository": "repositories"}[settings.unit], lead, sections)


def _mixed(identifier: str) -> int:
    return zlib.crc32(identifier.encode())


def _sizes(members: dict[str, list[dict[str, Any]]]) -> Html:
    sizes = Counter(len(rows) for rows in members.values())
    decided = Counter(row["decided_by"] for rows in members.values() for row in rows if row["rank"] > 0)
    return page.join(
        page.table(["members", "clusters", "files in them"], [(n, sizes[n], n * sizes[n]) for n in sorted(sizes)]),
        tag("h3", "What decided between the survivor and the others"),
        page.table(["column of the keep rule", "files"], [(str(why), n) for why, n in decided.most_common()]),
    )


def _cluster(rows: list[dict[str, Any]], units: Units) -> Html:
    """One cluster: its members, how similar each two are, and the survivor beside the others."""
    rows = rows[:MEMBERS]
    survivor = rows[0]["id"]
    here = [row for row in rows if row["id"] in units.texts]
    table = page.table(
        ["#", "file", "stars", "commit", "kept", "lost by", "bands shared with the survivor"],
        [
            (i, units.name(row["id"]), row["stars"], str(row["commit_time"] or "–"), "yes" if row["kept"] else "",
             row["decided_by"] if i else "", None if not i else row["shared_bands"])
            for i, row in enumerate(rows)
        ],
        strong=0,
    )  # fmt: skip
    similar = page.table(
        ["Jaccard", *(str(rows.index(row)) for row in here)],
        [
            (f"{rows.index(row)}", *((j := units.jaccard(row["id"], other["id"]), f"{j:.3f}") for other in here))
            for row in here
        ],
    )
    diffs = (
        page.fold(
            page.join("0 beside ", str(rows.index(row)), ": ", units.name(row["id"])),
            page.diff(units.texts[survivor] or "", units.texts[row["id"]] or "", ("kept", "dropped")),
        )
        for row in here[1:4]
        if survivor in units.texts
    )
    return page.fold(units.name(survivor), table, similar, *diffs, aside=f"{len(rows)} members")


def _pairs(pairs: list[Pair], units: Units, settings: Settings, most: int) -> Html:
    """Pairs in the order of their similarity: those closest to the threshold, one of each cluster or file."""
    if not pairs:
        return tag("p", "There are none.")
    values = np.array([pair.jaccard for pair in pairs])
    histogram = page.histogram(
        {"pairs": (values, np.zeros(len(values), bool))},
        lines=[settings.threshold],
        limits=(min(0.65, float(values.min())), 1.0),
        unit="pairs",
    )
    closest: dict[str, Pair] = {}
    for pair in sorted(pairs, key=lambda pair: (abs(pair.jaccard - settings.threshold), pair.one, pair.other)):
        closest.setdefault(pair.one, pair)
    chosen = sorted(list(closest.values())[:most], key=lambda pair: -pair.jaccard)
    chance = {pair: 1 - (1 - pair.jaccard**settings.rows) ** settings.bands for pair in chosen}
    shown = (
        page.fold(
            page.join(units.name(pair.one), Html("<br>"), units.name(pair.other)),
            page.diff(units.texts[pair.one], units.texts[pair.other], (units.name(pair.one), units.name(pair.other))),
            aside=f"J = {pair.jaccard:.3f}, met with probability {100 * chance[pair]:.1f} %",
        )
        for pair in chosen
    )
    return page.join(tag("p", "The line is where one half of the pairs is met."), histogram, page.listing(shown))


def _unmet(directory: epath.Path, settings: Settings, clusters: pa.Table, sample: int) -> tuple[list[Pair], Units]:
    """Similar pairs among a sample of the kept files that no band brought together: what the banding left in.

    The sample goes by file name, so that files of one name, who are the likely ones, are in it together.
    """
    if settings.unit != "file":
        return [], Units(directory, settings, [])
    names: list[tuple[int, str]] = []
    for table in docs.read(directory, ["id", "path"]):
        for identifier, path in zip(table["id"].to_pylist(), table["path"].to_pylist(), strict=True):
            names.append((_mixed(path.rpartition("/")[2]), identifier))
    chosen = [identifier for _, identifier in sorted(names)[:sample]]
    units = Units(directory, settings, chosen)
    probe = dataclasses.replace(settings.scheme, num_perm=_PROBE_BANDS * _PROBE_ROWS)
    signatures = minhash.signatures([units.texts[i] or "" for i in chosen], probe)
    buckets: dict[int, list[int]] = {}
    for i, hashes in enumerate(minhash.band_hashes(signatures, _PROBE_BANDS).tolist()):
        for value in hashes:
            buckets.setdefault(value, []).append(i)
    # Of many files in one bucket only neighbours are compared.
    near = {pair for rows in buckets.values() for pair in itertools.pairwise(rows)}
    cluster = dict(zip(clusters["id"].to_pylist(), clusters["cluster"].to_pylist(), strict=True))
    found = []
    for i, j in sorted(near):
        one, other = chosen[i], chosen[j]
        together = one in cluster and cluster[one] == cluster.get(other)
        if not together and min(len(units.shingles(one)), len(units.shingles(other))) >= _SHORTEST:
            found.append(Pair(one, other, units.jaccard(one, other)))
    return found, units


@command.one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    parser = command.parser("data_prep.clusters_page", __doc__)
    parser.add_argument("directory", type=epath.Path, help="output of the stage fuzzy_dedup")
    parser.add_argument("--out", type=epath.Path, required=True, help="HTML page to write")
    parser.add_argument("--largest", type=int, default=30, help="clusters to show (default 30)")
    parser.add_argument("--pairs", type=int, default=30, help="pairs to show of either kind (default 30)")
    parser.add_argument("--sample", type=int, default=5000, help="kept files to look for near misses in (default 5000)")
    flags = parser.parse_args(argv)
    write(flags.out, flags.directory, largest=flags.largest, pairs=flags.pairs, sample=flags.sample)
    return 0


if __name__ == "__main__":
    sys.exit(main())
