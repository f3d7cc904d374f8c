"""Rules: which values of which signals drop a file of which group. `thresholds/` holds them, in tables to read."""

from __future__ import annotations

import dataclasses
import hashlib
import operator
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

GENERAL = "code/general"  # what the groups of code and data inherit; no file belongs to it

_DIRECTORY = Path(__file__).parent / "thresholds"
_COMPARISON = re.compile(r"(<|>|==) (-?\d+(?:\.\d+)?)(?: with probability (\d+(?:\.\d+)?))?")
_OPERATORS = {"<": operator.lt, ">": operator.gt, "==": operator.eq}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """``> 0.5 with probability 0.8`` drops four of five files whose value exceeds 0.5."""

    operator: str  # < | > | ==
    threshold: float
    probability: float = 1.0

    def fires(self, values: Any) -> Any:
        """Where the comparison holds: bool [files], or a bool for a number. A missing value (NaN) never fires."""
        return _OPERATORS[self.operator](values, self.threshold)

    def drops(self, values: np.ndarray, signal: str, keys: Sequence[str] | np.ndarray) -> np.ndarray:
        """Where it holds and, if it only thins out, the draw of the file's key falls on dropping: bool [files]."""
        fired = self.fires(values)
        if self.probability < 1:
            for i in np.flatnonzero(fired).tolist():
                fired[i] = draw(keys[i], signal) < self.probability
        return fired

    def __str__(self) -> str:
        drawn = "" if self.probability == 1 else f" with probability {self.probability:g}"
        return f"{self.operator} {self.threshold:.12g}{drawn}"


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
    files = _files(overrides or {}, profile)
    return {
        group: {
            signal: tuple(map(parse, files[origin]["rules"][signal]))
            for signal, origin in _origins(files, group).items()
            if files[origin]["rules"][signal]
        }
        for group in files
    }


def origins(
    overrides: Mapping[str, Sequence[str]] | None = None, profile: str = "refinecode"
) -> dict[str, dict[str, str]]:
    """For every group and signal of it the group whose file states the rule: the one to override.

    Raises:
        ValueError: as `load`.
    """
    files = _files(overrides or {}, profile)
    return {group: _origins(files, group) for group in files}


def _files(overrides: Mapping[str, Sequence[str]], profile: str) -> dict[str, dict]:
    """What the groups' files say, with the rules of the profile and the overrides put in."""
    files = {
        path.relative_to(_DIRECTORY).with_suffix("").as_posix(): tomllib.loads(path.read_text("utf-8"))
        for path in sorted(_DIRECTORY.glob("*/*.toml"))
    }
    files = {group: file for group, file in files.items() if profile in file.get("profiles", [profile])}
    files = {
        group: {**file, "rules": {**file.get("rules", {}), **file.get(profile, {})}} for group, file in files.items()
    }
    signals = {group: _origins(files, group) for group in files}
    for key, comparisons in overrides.items():
        group, _, signal = key.rpartition(".")
        if group not in files:
            raise ValueError(
                f"thresholds: {key!r} names no group: write group.signal, the groups are {', '.join(files)}"
            )
        if signal not in signals[group]:
            raise ValueError(f"thresholds: group {group} has no signal {signal!r}: {', '.join(sorted(signals[group]))}")
        files[group]["rules"][signal] = comparisons
    return files


def _origins(files: Mapping[str, dict], group: str) -> dict[str, str]:
    parent = files[group].get("inherits")
    return {**(_origins(files, parent) if parent else {}), **dict.fromkeys(files[group]["rules"], group)}


def parse_overrides(flags: Iterable[str]) -> dict[str, list[str]]:
    """``["code/general.num_lines=< 5, > 9000"]`` as `load` takes it; nothing after the = switches a rule off."""
    found = {}
    for flag in flags:
        key, _, texts = flag.partition("=")
        found[key.strip()] = [text.strip() for text in texts.split(",") if text.strip()]
    return found


def group_of(
    doc_type: str, language: str, groups: Mapping[str, Rules], natural_language: str | None = None
) -> str | None:
    """The one group whose rules judge a file; None for types that have no rules.

    `natural_language` is the code of the language that a text is written in; where it is not known, for instance of a
    list of names, the rules for English hold.
    """
    if doc_type == "text":
        return next(g for g in (f"text/{natural_language or 'en'}", "text/other", "text/en") if g in groups)
    if doc_type not in ("code", "data"):
        return None
    own = f"code/{language}"
    return own if own in groups else "code/data" if doc_type == "data" else "code/others"


def members(
    kinds: Iterable[tuple[str, str, str | None]], groups: Mapping[str, Rules]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Rows (int64) of each group, and the rows without one, of files given by `group_of`'s first three arguments."""
    found: dict[str | None, list[int]] = {}
    for i, (doc_type, language, natural_language) in enumerate(kinds):
        found.setdefault(group_of(doc_type, language, groups, natural_language), []).append(i)
    without = found.pop(None, [])
    return {group: np.array(rows) for group, rows in found.items() if group}, np.array(without, np.int64)


def draw(key: str, signal: str) -> float:
    """A number in [0, 1), uniform over files and independent between signals, the same in every run."""
    digest = hashlib.sha256(f"{signal}\0{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
