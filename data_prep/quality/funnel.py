"""What each rule dropped, and what changes between two profiles or sets of thresholds.

Takes files that `python -m data_prep.quality` wrote, or directories of the stages score (judged by the rules as they
are) and quality_filter (as it judged).

Examples:
  python -m data_prep.quality.funnel records.jsonl                        hits of each rule, with and without others
  python -m data_prep.quality.funnel work/quality_filter --languages      the same, by language
  python -m data_prep.quality.funnel reference.jsonl refinecode.jsonl     which files changed sides, and why
  python -m data_prep.quality.funnel work/score --threshold 'code/general.num_lines=< 5' --page changes.html
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow.parquet as pq
from etils import epath

from data_prep import command, page
from data_prep import documents as docs
from data_prep.funnel import reason_key
from data_prep.quality.profiles import profile_named
from data_prep.quality.rules import load, parse_overrides
from data_prep.quality.stages import judge_table


@dataclasses.dataclass(frozen=True)
class Judged:
    """A file with the rules that drop it; one without rules was kept."""

    path: str
    language: str
    size: int  # bytes
    rules: tuple[str, ...]
    why: tuple[str, ...] = ()  # the rules with the values that they judge


def read(
    source: epath.Path, profile: str = "refinecode", thresholds: Mapping[str, Sequence[str]] | None = None
) -> Files:
    """The judged files of a JSON-lines file or a documents directory, by path or id. Unreadable files are left out.

    Args:
        profile: whose rules judge a directory of the stage score.
        thresholds: rules that replace those of the profile, see `rules.load`; they judge a directory anew.

    Raises:
        FileNotFoundError: `source` is neither.
        ValueError: a JSON-lines file cannot be judged anew, or `thresholds` are wrong.
    """
    if source.is_dir():
        return _read_documents(source, profile, thresholds)
    if thresholds:
        raise ValueError(f"{source}: only a directory of the stage score can be judged by other thresholds")
    found = {}
    with source.open() as file:
        for row in map(json.loads, file):
            if row["keep"] is not None:
                rules = tuple(row["drop_reasons"])
                why = tuple(f"{rule} ({row['signals'].get(rule, '–')})" for rule in rules)
                found[row["path"]] = Judged(row["path"], row["program_lang"], row["bytes"], rules, why)
    return found


def _read_documents(directory: epath.Path, profile: str, thresholds: Mapping[str, Sequence[str]] | None) -> Files:
    found = {}
    groups, failure_drops = load(thresholds, profile), profile_named(profile).failure_drops
    anew = thresholds is not None or not _is_judged(directory)
    columns = ["id", "repo", "path", "language", "size", "reasons"]
    judged_by = ["doc_type", "natural_language", "content_sha256", "signals", "signal_errors"] if anew else []
    for part in docs.parts(directory):
        with part.open("rb") as file:
            table = pq.read_table(file, columns=columns + judged_by)
        table = judge_table(table, groups, failure_drops) if anew else table
        for row in table.select(columns).to_pylist():
            rules = tuple(dict.fromkeys(map(_rule, row["reasons"])))
            name = f"{row['repo']}/{row['path']}"
            found[row["id"]] = Judged(name, row["language"], row["size"], rules, tuple(row["reasons"]))
    return found


def _is_judged(directory: epath.Path) -> bool:
    funnel = directory / "funnel.json"
    return not funnel.exists() or bool(json.loads(funnel.read_text())["reasons"])


def _rule(reason: str) -> str:
    """``frac_chars_comments > 0.8 (0.93)`` → ``frac_chars_comments``, whatever the threshold."""
    return reason_key(reason).split(" ", 1)[0]


Files = dict[str, Judged]


@dataclasses.dataclass
class Hits:
    """The files that one rule drops: all, and those that no other rule drops."""

    files: int = 0
    size: int = 0  # bytes
    sole: int = 0
    by_language: Counter[str] = dataclasses.field(default_factory=Counter)
    sole_by_language: Counter[str] = dataclasses.field(default_factory=Counter)


def count(files: Iterable[Judged]) -> dict[str, Hits]:
    """The hits of each rule, those with the most first."""
    hits: dict[str, Hits] = {}
    for file in files:
        for rule in file.rules:
            hit = hits.setdefault(rule, Hits())
            hit.files += 1
            hit.size += file.size
            hit.by_language[file.language] += 1
            if len(file.rules) == 1:
                hit.sole += 1
                hit.sole_by_language[file.language] += 1
    return dict(sorted(hits.items(), key=lambda item: (-item[1].files, -item[1].sole, item[0])))


def shares(files: Iterable[Judged]) -> dict[str, dict[str, int]]:
    """Files and bytes, all and kept, by language and under ``all``."""
    found: dict[str, dict[str, int]] = {}
    for file in files:
        for name in ("all", file.language):
            row = found.setdefault(name, {"files": 0, "bytes": 0, "kept_files": 0, "kept_bytes": 0})
            row["files"] += 1
            row["bytes"] += file.size
            if not file.rules:
                row["kept_files"] += 1
                row["kept_bytes"] += file.size
    return dict(sorted(found.items(), key=lambda item: (-item[1]["files"], item[0] != "all", item[0])))


def changes(one: Mapping[str, Judged], other: Mapping[str, Judged]) -> tuple[dict[str, Judged], dict[str, Judged]]:
    """(files that only `one` drops, files that only `other` drops), by key, each with the rules that drop it.

    Files that are not in both are left out.
    """
    common = [key for key in one if key in other]
    return (
        {key: one[key] for key in common if one[key].rules and not other[key].rules},
        {key: other[key] for key in common if other[key].rules and not one[key].rules},
    )


def hits_text(hits: Mapping[str, Hits], languages: bool) -> list[str]:
    """Lines of a table with one rule each."""
    lines = [f"{'rule':<52}{'files':>8}{'sole':>8}{'MB':>9}" + ("  files, sole by language" if languages else "")]
    for rule, hit in hits.items():
        named = (f"{name} {n}, {hit.sole_by_language[name]}" for name, n in hit.by_language.most_common())
        detail = "  " + "; ".join(named) if languages else ""
        lines.append(f"{rule:<52}{hit.files:>8,}{hit.sole:>8,}{hit.size / 1e6:>9.2f}{detail}")
    return lines


def shares_text(files: Iterable[Judged]) -> list[str]:
    """Lines of a table with one language each, after a line for all."""
    lines = [f"{'language':<28}{'files':>9}{'kept':>9}{'':>8}{'MB':>10}{'kept':>10}"]
    for name, row in shares(files).items():
        lines.append(
            f"{name:<28}{row['files']:>9,}{row['kept_files']:>9,}{100 * row['kept_files'] / row['files']:>6.1f} %"
            f"{row['bytes'] / 1e6:>10.2f}{row['kept_bytes'] / 1e6:>10.2f}"
        )
    return lines


def funnel_text(files: Mapping[str, Judged], languages: bool) -> str:
    """What is kept by language, then the hits of each rule."""
    return "\n".join([*shares_text(files.values()), "", *hits_text(count(files.values()), languages)])


def comparison_text(names: tuple[str, str], one: Mapping[str, Judged], other: Mapping[str, Judged], show: int) -> str:
    """Which files changed sides and by which rules, with at most `show` examples in each direction."""
    lines = []
    for (keeps, drops), changed in zip(((names[1], names[0]), names), changes(one, other), strict=True):
        size = sum(file.size for file in changed.values())
        lines.append(f"{drops} drops and {keeps} keeps {len(changed):,} files, {size / 1e6:.2f} MB")
        if changed:
            lines += hits_text(count(changed.values()), languages=False)
        lines += [f"  {file.path}  {', '.join(file.rules)}" for file in list(changed.values())[:show]] + [""]
    missing = len(one.keys() ^ other.keys())
    return "\n".join([*lines, f"{missing:,} files are in one of them only"] if missing else lines[:-1])


def write_page(out: epath.Path, names: tuple[str, str], one: Files, other: Files) -> None:
    """Writes a page of what changes from `one` to `other`: shares kept by language, rules, files that changed sides."""
    common = [key for key in one if key in other]
    # Profiles may call the language of a file by different names; it is counted under the first.
    both = (
        [one[key] for key in common],
        [dataclasses.replace(other[key], language=one[key].language) for key in common],
    )
    before, after = shares(both[0]), shares(both[1])
    kept = [
        (name, row["files"], *(_share(side[name], unit) for unit in ("files", "bytes") for side in (before, after)))
        for name, row in before.items()
    ]
    hits = count(both[0]), count(both[1])
    none = Hits()
    compared = [(rule, hits[0].get(rule, none), hits[1].get(rule, none)) for rule in {**hits[0], **hits[1]}]
    compared.sort(key=lambda row: (-abs(row[2].files - row[1].files), row[0]))
    rules = [(rule, a.files, a.sole, b.files, b.sole) for rule, a, b in compared]
    sections: dict[str, Any] = {
        "Kept": page.table(["language", "files", "files kept", "then", "bytes kept", "then"], kept, strong=0),
        "Rules": page.table(["rule", "dropped", "alone", "then dropped", "then alone"], rules),
    }
    for title, changed, why in zip(
        ("Dropped only before", "Dropped only then"), changes(one, other), (names[0], names[1]), strict=True
    ):
        files = sorted(changed.values(), key=lambda file: (file.rules, file.path))
        head = page.tag("p", f"{len(files):,} files, {page.size(sum(file.size for file in files))}, dropped by {why}.")
        by_rule = page.table(["rule", "files", "alone"], [(n, h.files, h.sole) for n, h in count(files).items()])
        items = (
            page.line(
                page.join(file.path, page.tag("span", " ", ", ".join(file.why or file.rules), class_="soft")),
                f"{file.language} · {page.size(file.size)}",
            )
            for file in files
        )
        sections[title] = page.join(head, by_rule, page.listing(items))
    missing = len(one.keys() ^ other.keys())
    lead = f"Before: {names[0]}. Then: {names[1]}. " + (
        f"{missing:,} files are in one of them only." if missing else ""
    )
    page.write(out, "What changes sides", lead, sections)


def _share(row: Mapping[str, int], unit: str) -> tuple[float, str]:
    kept, every = row[f"kept_{unit}"], row[unit]
    return kept / (every or 1), page.percent(kept, every)


def to_json(files: Mapping[str, Judged]) -> dict[str, Any]:
    """The funnel as {"languages": shares, "rules": {name: fields of Hits}}."""
    rules = {name: vars(hit) for name, hit in count(files.values()).items()}
    return {"languages": shares(files.values()), "rules": rules}


@command.one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    parser = command.parser("data_prep.quality.funnel", __doc__)
    parser.add_argument("source", type=epath.Path, help="JSON-lines file, or directory of score or quality_filter")
    parser.add_argument("other", type=epath.Path, nargs="?", help="compare with this one")
    parser.add_argument(
        "--threshold", action="append", metavar="GROUP.SIGNAL=RULE,…", help="compare with the source under these rules"
    )
    parser.add_argument("--profile", default="refinecode", help="whose rules judge directories (default refinecode)")
    parser.add_argument("--languages", action="store_true", help="show the hits of each rule by language")
    parser.add_argument("--show", type=int, default=10, help="examples of files that changed sides (default 10)")
    parser.add_argument("--json", action="store_true", help="print the funnel of the first source as JSON")
    parser.add_argument("--page", type=epath.Path, help="write the comparison to this HTML page")
    flags = parser.parse_args(argv)
    files = read(flags.source, flags.profile)
    if flags.other or flags.threshold:
        other = flags.other or flags.source
        thresholds = parse_overrides(flags.threshold) if flags.threshold else None
        names = (
            str(flags.source),
            ", ".join([*([str(flags.other)] if flags.other else []), *(flags.threshold or [])]),
        )
        others = read(other, flags.profile, thresholds)
        if flags.page:
            write_page(flags.page, names, files, others)
        else:
            print(comparison_text(names, files, others, flags.show))
    elif flags.page:
        raise ValueError("--page shows a comparison: give a second source or a --threshold")
    elif flags.json:
        print(json.dumps(to_json(files), indent=1, ensure_ascii=False))
    else:
        print(funnel_text(files, flags.languages))
    return 0


if __name__ == "__main__":
    sys.exit(main())
