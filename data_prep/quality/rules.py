"""Rules: which values of which signals drop a file of which group. `thresholds/` holds them, in tables to read."""

from __future__ import annotations

import dataclasses
import hashlib
import operator
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

_DIRECTORY = Path(__file__).parent / "thresholds"
_COMPARISON = re.compile(r"(<|>|==) (-?\d+(?:\.\d+)?)(?: with probability (\d+(?:\.\d+)?))?")
_OPERATORS = {"<": operator.lt, ">": operator.gt, "==": operator.eq}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """``> 0.5 with probability 0.8`` drops four of five files whose value exceeds 0.5."""

    operator: str  # < | > | ==
    threshold: float
    probability: float = 1.0

    def fires(self, values: np.ndarray) -> np.ndarray:
        """Where the comparison holds: bool [files]. A missing value (NaN) never fires."""
        return _OPERATORS[self.operator](values, self.threshold)


Rules = dict[str, tuple[Comparison, ...]]  # by signal; a file is dropped where any comparison holds


def parse(text: str) -> Comparison:
    """Raises ValueError where `text` is not a comparison."""
    match = _COMPARISON.fullmatch(text)
    if not match:
        raise ValueError(f'{text!r} is not a rule: write "> 0.5", "< 10", "== 1" or "> 0.5 with probability 0.8"')
    return Comparison(match[1], float(match[2]), float(match[3] or 1))


def load(overrides: Mapping[str, Sequence[str]] | None = None, profile: str = "refinecode") -> dict[str, Rules]:
    """The rules of every group of a profile, such as ``code/python``.

    Args:
        overrides: comparisons by ``group.signal``, for instance ``{"code/others.frac_chars_comments": ["> 0.7"]}``.
            They replace what the group's file says, so groups that inherit from it change with it: ``code/general``
            stands for all code and data. An empty list switches the rule off.

    Raises:
        ValueError: an override names no group or no signal of it, or a rule is malformed.
    """
    files = {
        path.relative_to(_DIRECTORY).with_suffix("").as_posix(): tomllib.loads(path.read_text("utf-8"))
        for path in sorted(_DIRECTORY.glob("*/*.toml"))
    }
    files = {group: file for group, file in files.items() if profile in file.get("profiles", [profile])}
    files = {
        group: {**file, "rules": {**file.get("rules", {}), **file.get(profile, {})}} for group, file in files.items()
    }
    signals = {group: set(_resolve(files, group)) for group in files}
    for key, comparisons in (overrides or {}).items():
        group, _, signal = key.rpartition(".")
        if group not in files:
            raise ValueError(
                f"thresholds: {key!r} names no group: write group.signal, the groups are {', '.join(files)}"
            )
        if signal not in signals[group]:
            raise ValueError(f"thresholds: group {group} has no signal {signal!r}: {', '.join(sorted(signals[group]))}")
        files[group]["rules"][signal] = comparisons
    return {
        group: {signal: tuple(map(parse, texts)) for signal, texts in _resolve(files, group).items() if texts}
        for group in files
    }


def _resolve(files: Mapping[str, dict], group: str) -> dict[str, Sequence[str]]:
    parent = files[group].get("inherits")
    return {**(_resolve(files, parent) if parent else {}), **files[group]["rules"]}


def group_of(
    doc_type: str, language: str, groups: Mapping[str, Rules], natural_language: str | None = None
) -> str | None:
    """The one group whose rules judge a file; None for types that have no rules.

    `natural_language` is the code of the language that a text is written in: zh has rules of its own.
    """
    if doc_type == "text":
        return "text/zh" if natural_language == "zh" else "text/en"
    if doc_type not in ("code", "data"):
        return None
    own = f"code/{language}"
    return own if own in groups else "code/data" if doc_type == "data" else "code/others"


def draw(key: str, signal: str) -> float:
    """A number in [0, 1), uniform over files and independent between signals, the same in every run."""
    digest = hashlib.sha256(f"{signal}\0{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
