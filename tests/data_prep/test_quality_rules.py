from __future__ import annotations

import numpy as np
import pytest

from data_prep.quality import rules
from data_prep.quality.profiles import PROFILES


def test_each_rule_has_a_signal_of_its_group():
    signals = PROFILES["refinecode"].signals
    for group, found in rules.load().items():
        family, _, key = group.partition("/")
        known = {*signals[family], *signals.get(f"{family}/{key}", {})}
        assert set(found) <= known, group


def test_groups_inherit_and_switch_off():
    groups = rules.load()
    assert groups["code/others"] == groups["code/general"]
    assert "frac_lines_assert" not in groups["code/shell"]
    assert groups["code/sql"]["frac_chars_digital"] == (rules.Comparison(">", 0.3),)
    assert groups["code/python"]["frac_chars_digital"] == (rules.Comparison(">", 0.2),)


def test_one_line_overrides_a_group_and_those_that_inherit_from_it():
    override = {
        "code/others.frac_chars_comments": ["> 0.7"],
        "code/general.num_lines": [],
        "text/en.num_words": ["< 5"],
    }
    groups = rules.load(override)
    assert groups["code/others"]["frac_chars_comments"] == (rules.Comparison(">", 0.7),)
    assert groups["code/python"]["frac_chars_comments"] == (rules.Comparison(">", 0.8),)
    assert all("num_lines" not in groups[group] for group in groups if group.startswith("code/"))
    assert groups["text/en"]["num_words"] == (rules.Comparison("<", 5),)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"code/pyton.num_lines": []}, "names no group"),
        ({"num_lines": []}, "names no group"),
        ({"code/python.num_line": []}, "has no signal 'num_line'"),
        ({"code/python.num_lines": [">= 3"]}, "'>= 3' is not a rule"),
    ],
)
def test_a_wrong_override_is_told(override: dict[str, list[str]], message: str):
    with pytest.raises(ValueError, match=message):
        rules.load(override)


def test_missing_values_never_fire():
    values = np.array([np.nan, 0.0, 1.0])
    for text in ("> 0.5", "< 0.5", "== 1"):
        assert not rules.parse(text).fires(values)[0]
    assert rules.parse("== 1").fires(values).tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("doc_type", "language", "group"),
    [
        ("code", "python", "code/python"),
        ("data", "sql", "code/sql"),
        ("code", "rust", "code/others"),
        ("data", "json", "code/data"),
        ("text", "markdown", "text/en"),
        ("unknown", "unknown", None),
    ],
)
def test_group_of(doc_type: str, language: str, group: str | None):
    assert rules.group_of(doc_type, language, rules.load()) == group


def test_draws_are_uniform_and_independent_between_signals():
    keys = [str(i) for i in range(4000)]
    one, two = (np.array([rules.draw(key, signal) for key in keys]) for signal in ("a", "b"))
    assert abs((one < 0.8).mean() - 0.8) < 0.03
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.06
    assert rules.draw("x", "a") == rules.draw("x", "a")
