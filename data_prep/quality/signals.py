"""What is known of every signal, and the table of all of them.

Example:
  python -m data_prep.quality.signals > docs/signals.md
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import tomllib
from pathlib import Path

from data_prep import command
from data_prep.quality import rules
from data_prep.quality.group import Signal
from data_prep.quality.profiles import PROFILES

_UNUSED = "No threshold uses it."
_LIKE_JAVASCRIPT = ("code/typescript", "code/tsx")  # measured with the very signals of JavaScript


@dataclasses.dataclass(frozen=True)
class Described:
    """A signal of a family, for people.

    Attributes:
      family: ``code``, ``text`` or ``code/<language>``: which files have it.
      full_name: as in the records of the released filter.
      meaning: what its function says, and what that of the reference profile says where it is another.
      range: least and greatest value that a file can have.
    """

    name: str
    family: str
    full_name: str
    meaning: str
    reference: str | None
    unit: str
    range: tuple[float, float]
    why: str


@functools.cache
def described() -> dict[tuple[str, str], Described]:
    """Every signal by (family, name), in the order in which they are computed."""
    facts = tomllib.loads((Path(__file__).parent / "signals.toml").read_text("utf-8"))
    found = {}
    for family, group in PROFILES["refinecode"].signals.items():
        batch = "doc" if family == "text" else family.replace("/", "")
        for name, signal in group.items():
            fact = facts.get(family.rpartition("/")[2], {}).get(name) or facts[name]
            meaning = _meaning(signal)
            variant = PROFILES["reference"].signals.get(family, {}).get(name)
            other = _meaning(variant) if variant else meaning
            found[family, name] = Described(
                name,
                family,
                f"qsc_{batch}_{name}",
                meaning,
                other if other != meaning else None,
                fact["unit"],
                (fact["range"][0], fact["range"][1]),
                fact["why"],
            )
    return found


def of_group(group: str, name: str) -> Described:
    """The signal that the rules of a group, such as ``code/general`` or ``text/zh``, call by this name."""
    family = group if (group, name) in described() else group.partition("/")[0]
    return described()[family, name]


def _meaning(signal: Signal) -> str:
    """The first paragraph of the docstring as one line."""
    text = inspect.cleandoc(getattr(signal, "func", signal).__doc__ or "").split("\n\n")[0]
    return " ".join(text.replace(_UNUSED, "").split())


def thresholds(family: str, name: str, profile: str = "refinecode") -> dict[str, tuple[str, ...]]:
    """The rules on a signal by group, for those groups whose files have it; without rules the tuple is empty."""
    groups = rules.load(profile=profile)
    of_family = [g for g in groups if g == family or (family in ("code", "text") and g.startswith(f"{family}/"))]
    return {group: tuple(map(str, groups[group].get(name, ()))) for group in of_family if group != rules.GENERAL}


def _thresholds_text(family: str, name: str) -> str:
    """``> 0.8; html: none``: what most groups say, then those that say something else."""
    by_group = thresholds(family, name)
    texts = {group: " or ".join(rule) or "none" for group, rule in by_group.items()}
    if not texts:
        return "none"
    values = list(texts.values())
    usual = max(values, key=values.count)
    others = [f"{group.rpartition('/')[2]}: {text}" for group, text in texts.items() if text != usual]
    return "; ".join([usual, *others])


def markdown() -> str:
    """One table for each family."""
    families: dict[str, list[Described]] = {}
    for (family, _), signal in described().items():
        if family not in _LIKE_JAVASCRIPT:
            families.setdefault(family, []).append(signal)
    total = sum(map(len, families.values()))
    lines = [
        "# The signals",
        "",
        "<!-- Made by python -m data_prep.quality.signals > docs/signals.md; change the code, not this file. -->",
        "",
        f"{total} signals, as the profile `refinecode` measures them and drops files by them. Where the released",
        "filter (profile `reference`) measures something else under the same name, that follows in italics. A signal",
        "without a value (a share of nothing) never drops a file. The rules are in `data_prep/quality/thresholds/`; a",
        "file is dropped when any rule of its group holds.",
        "",
    ]
    for family in sorted(families, key=lambda name: (name != "code", name != "text", name)):
        lines += [f"## {_title(family)} ({len(families[family])})", ""]
        lines += ["| signal | meaning | unit | range | dropped if | why |", "|---|---|---|---|---|---|"]
        lines += map(_row, families[family])
        lines.append("")
    return "\n".join(lines)


def _title(family: str) -> str:
    names = {"code": "Code and data, every language", "text": "Text", "code/javascript": "javascript, typescript, tsx"}
    return names.get(family, family.rpartition("/")[2])


def _row(signal: Described) -> str:
    meaning = signal.meaning + (f" *{signal.reference}*" if signal.reference else "")
    low, high = signal.range
    span = f"{low:g} … {'∞' if high == float('inf') else f'{high:g}'}"
    rule = _thresholds_text(signal.family, signal.name)
    cells = [f"`{signal.full_name}`", meaning, signal.unit, span, rule, signal.why]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    command.parser("data_prep.quality.signals", __doc__).parse_args()
    print(markdown(), end="")
