"""Thresholds tuned as the paper did it (arXiv 2411.04905, appendix A.1): a page of the files that only one rule drops.

Of every rule the page shows how its signal is distributed over the languages, what the rule drops alone at several
thresholds, and files that each of them adds, with the part that counts marked. With --perplexity, a model ranks samples
of what is kept and dropped; read both ends: very low is trivial, very high can't be learned.

Examples:
  python -m data_prep.quality.tuning work/score --out tuning.html
  python -m data_prep.quality.tuning work/score --out one.html --rule code/general.num_lines --at 5 20
  python -m data_prep.quality.tuning work/score --out tuning.html \\
    --perplexity oc_jax.evals.perplexity:perplexity work/pretrain work/tokenizer
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from etils import epath

from data_prep import command, page
from data_prep.page import Html, tag
from data_prep.quality import rules, signals
from data_prep.quality.marks import marks
from data_prep.quality.profiles import profile_named
from data_prep.quality.scored import Rule, Scored, candidates, draw, load, texts
from data_prep.quality.view import View

Perplexity = Callable[[list[str]], list[float]]

RANKED = 200  # files of either side that the model ranks
_LANGUAGES = 8  # of a histogram
_ENDS = 10  # files to show from either end of a ranking


@dataclasses.dataclass(frozen=True)
class _Step:
    """One threshold of a rule: what it drops, alone, and which of the latter no stricter one drops."""

    comparison: rules.Comparison
    dropped: np.ndarray
    sole: np.ndarray
    examples: list[int]


@dataclasses.dataclass(frozen=True)
class _Page:
    """What every part of the page needs."""

    scored: Scored
    profile: str
    texts: dict[int, str]
    perplexity: dict[int, float]

    def file(self, row: int, signal: str | None = None) -> Html:
        """One file, folded, with the parts behind `signal` marked."""
        known = {name: self.scored.table[name][row].as_py() for name in ("repo", "path", "language", "size")}
        how = profile_named(self.profile)
        spoken = self.scored.table["natural_language"][row].as_py()
        view = View(
            self.texts[row],
            known["language"],
            known["size"],
            how.splitter,
            how.max_characters,
            known["path"],
            spoken,
            how.keep_byte_order_mark,
        )
        notes = [known["language"], page.size(known["size"])]
        if row in self.perplexity:
            notes.append(f"perplexity {page.number(self.perplexity[row])}")
        if signal:
            notes.append(tag("b", page.number(float(self.scored.values[signal][row]))))
        spans = marks(view, signal) if signal else []
        dropped = ", ".join(f"{r.signal} {r.comparison}" for r, hit in self.scored.hits.items() if hit[row])
        by = tag("p", "Dropped by ", dropped, ".", class_="meta") if dropped and not signal else ""
        return page.fold(f"{known['repo']}/{known['path']}", by, page.source(view.text, spans), aside=_dots(notes))


def _dots(notes: Sequence[object]) -> Html:
    return page.join(*notes, between=" · ")


def write(
    out: epath.Path,
    directory: epath.Path,
    scored: Scored,
    chosen: Sequence[Rule],
    at: Sequence[float] | None,
    examples: int,
    profile: str,
    perplexity: Perplexity | None,
) -> None:
    """Writes the page about the `chosen` rules to `out`; `directory` is where `scored` was read from."""
    steps = {rule: list(_steps(scored, rule, at, examples)) for rule in chosen}
    sides = {"kept": draw(scored, scored.count == 0, RANKED), "dropped": draw(scored, scored.count > 0, RANKED)}
    rows = {row for of_rule in steps.values() for step in of_rule for row in step.examples}
    rows |= {row for side in sides.values() for row in side} if perplexity else set()
    found = texts(directory, scored, sorted(rows))
    numbers = perplexity(list(found.values())) if perplexity else []
    known = {row: n for row, n in zip(found, numbers, strict=False) if not math.isnan(n)}  # nan for an empty text
    parts = _Page(scored, profile, found, known)
    order = sorted(chosen, key=lambda rule: (-int(scored.sole(rule, rule.comparison).sum()), str(rule)))
    sections = {"Rules": _index(parts, order, steps)}
    if perplexity:
        sections["Perplexity"] = _ranking(parts, sides)
    sections["By rule"] = page.listing((_rule(parts, rule, steps[rule]) for rule in order), per_page=500)
    files, kept = len(scored.count), int((scored.count == 0).sum())
    lead = page.join(
        f"{files:,} files of ",
        tag("code", directory.parent.name + "/" + directory.name),
        f", profile {profile}: the rules keep {kept:,} ({page.percent(kept, files)}). For every rule: how its signal "
        "is distributed, and the files that it alone drops, at several thresholds. A threshold is well chosen where "
        "the files that the next one adds begin to look worth keeping.",
    )
    page.write(out, "Thresholds", lead, sections)


def _steps(scored: Scored, rule: Rule, at: Sequence[float] | None, examples: int) -> Iterator[_Step]:
    seen = np.zeros(len(scored.count), bool)
    for comparison in candidates(rule, at, signals.of_group(rule.group, rule.signal).range):
        sole = scored.sole(rule, comparison)
        yield _Step(comparison, scored.fires(rule, comparison), sole, draw(scored, sole & ~seen, examples))
        seen |= sole


def _anchor(rule: Rule) -> str:
    return f"{rule.group}.{rule.signal}{'-below' if rule.comparison.operator == '<' else ''}"


def _unbroken(comparison: rules.Comparison) -> str:
    return str(comparison).replace(" ", "\u00a0", 1)


def _index(parts: _Page, order: Sequence[Rule], steps: dict[Rule, list[_Step]]) -> Html:
    sizes = parts.scored.table["size"].to_numpy()
    rows = []
    for rule in order:
        hit, sole = parts.scored.hits[rule], parts.scored.sole(rule, rule.comparison)
        numbers = [int(parts.scored.measured[rule].sum()), int(hit.sum()), int(sole.sum())]
        row = [
            tag("a", f"{rule.group} · {rule.signal}", href=f"#{_anchor(rule)}"),
            _unbroken(rule.comparison),
            *numbers,
        ]
        row.append((int(sizes[sole].sum()), page.size(int(sizes[sole].sum()))))
        if parts.perplexity:
            known = [parts.perplexity[r] for step in steps[rule] for r in step.examples if sole[r]]
            row.append(float(np.median(known)) if known else None)
        rows.append(row)
    head = ["rule", "drops", "files judged", "dropped", "alone", "bytes alone"]
    head += ["perplexity alone (median)"] if parts.perplexity else []
    return page.table(head, rows)


def _rule(parts: _Page, rule: Rule, steps: Sequence[_Step]) -> Html:
    about = signals.of_group(rule.group, rule.signal)
    now = next(i for i, step in enumerate(steps) if step.comparison == rule.comparison)
    sizes = parts.scored.table["size"].to_numpy()
    table = page.table(
        ["drops", "files dropped", "alone", "bytes alone"],
        [
            (
                str(step.comparison),
                int(step.dropped.sum()),
                int(step.sole.sum()),
                (int(sizes[step.sole].sum()), page.size(int(sizes[step.sole].sum()))),
            )
            for step in steps
        ],
        strong=now,
    )
    shown = []
    for before, step in zip([None, *steps], steps, strict=False):
        if step.examples:
            added = f"Dropped alone by {step.comparison}" + (f" and not by {before.comparison}" if before else "")
            shown += [tag("h3", added), page.listing(parts.file(row, rule.signal) for row in step.examples)]
    hit, sole = steps[now].dropped.sum(), steps[now].sole.sum()
    return page.fold(
        page.join(tag("code", f"{rule.group}.{rule.signal}"), f" {rule.comparison}"),
        tag("p", about.meaning, " ", tag("b", about.unit.capitalize()), ". ", about.why),
        _histogram(parts.scored, rule, steps, about.range),
        table,
        *shown,
        aside=f"{hit:,} files, {sole:,} alone",
        anchor=_anchor(rule),
    )


def _histogram(scored: Scored, rule: Rule, steps: Sequence[_Step], limits: tuple[float, float]) -> Html:
    measured, values = scored.measured[rule], scored.values[rule.signal]
    known = measured & np.isfinite(values)
    if not known.any():
        return tag("p", "No file has a value.")
    languages = np.array(scored.table["language"].to_pylist())
    names, counts = np.unique(languages[known], return_counts=True)
    largest = names[np.argsort(-counts, kind="stable")][:_LANGUAGES]
    rows = {"all": known, **({name: known & (languages == name) for name in largest} if len(names) > 1 else {})}
    high = float(values[known].max())
    log = math.isinf(limits[1]) and high > 100
    if not log:
        # Most shares are small: beyond what any threshold could be, the files stand together at the end.
        high = max(float(np.quantile(values[known], 0.995)), 1.2 * max(step.comparison.threshold for step in steps))
        high = min(high, limits[1])
    legend = page.key(kept="passes this rule", dropped="dropped by it; the heights are logarithmic")
    shown = {str(name): (values[chosen], scored.hits[rule][chosen]) for name, chosen in rows.items()}
    return page.join(
        legend, page.histogram(shown, lines=[rule.comparison.threshold], limits=(limits[0], high), log=log)
    )


def _ranking(parts: _Page, sides: dict[str, list[int]]) -> Html:
    out = [
        tag(
            "p",
            f"Samples of {RANKED} files of either side, ranked by the model. Very low is trivial or repeated, very "
            "high can't be learned; in between the two sides should differ.",
        )
    ]
    sides = {side: [row for row in rows if row in parts.perplexity] for side, rows in sides.items()}
    values = {side: np.array([parts.perplexity[row] for row in rows]) for side, rows in sides.items()}
    shown = {side: (numbers, np.full(len(numbers), side == "dropped")) for side, numbers in values.items()}
    out.append(page.histogram({side: pair for side, pair in shown.items() if len(pair[0])}, log=True))
    for side, rows in sides.items():
        order = sorted(rows, key=lambda row: parts.perplexity[row])
        for title, ends in (("lowest", order[:_ENDS]), ("highest", order[::-1][:_ENDS])):
            out += [tag("h3", f"{side.capitalize()}, {title} perplexity"), page.listing(map(parts.file, ends))]
    return page.join(*out)


def callable_named(words: Sequence[str]) -> Perplexity:
    """``["module:function", argument, …]`` → the function with these arguments given.

    Raises:
      ValueError: there is no such function.
    """
    module, _, name = words[0].partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"--perplexity {words[0]}: {error}; write module:function") from error
    return functools.partial(function, *words[1:])


@command.one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    parser = command.parser("data_prep.quality.tuning", __doc__)
    parser.add_argument("scored", type=epath.Path, help="directory of the stage score")
    parser.add_argument("--out", type=epath.Path, required=True, help="HTML page to write")
    parser.add_argument("--profile", default="refinecode", help="the one it was scored with (default refinecode)")
    parser.add_argument("--threshold", action="append", default=[], metavar="GROUP.SIGNAL=RULE,…", help="other rules")
    parser.add_argument("--rule", action="append", metavar="GROUP.SIGNAL", help="only these rules (default all)")
    parser.add_argument(
        "--at", type=float, nargs="+", metavar="T", help="thresholds to look at (default around today's)"
    )
    parser.add_argument("--examples", type=int, default=4, help="files to show for each threshold (default 4)")
    parser.add_argument("--files", type=int, default=100_000, help="files to look at, drawn by id (default 100,000)")
    parser.add_argument(
        "--perplexity",
        nargs="+",
        metavar=("MODULE:FUNCTION", "ARGUMENT"),
        help="called as FUNCTION(ARGUMENT, …, texts); gives a number for each text",
    )
    flags = parser.parse_args(argv)
    perplexity = callable_named(flags.perplexity) if flags.perplexity else None
    scored = load(flags.scored, flags.profile, rules.parse_overrides(flags.threshold), flags.files)
    chosen = [rule for rule in scored.hits if flags.rule is None or f"{rule.group}.{rule.signal}" in flags.rule]
    if not chosen:
        known = sorted({f"{rule.group}.{rule.signal}" for rule in scored.hits})
        raise ValueError(f"no file is judged by {', '.join(flags.rule or [])}: the rules are {', '.join(known)}")
    write(flags.out, flags.scored, scored, chosen, flags.at, flags.examples, flags.profile, perplexity)
    return 0


if __name__ == "__main__":
    sys.exit(main())
