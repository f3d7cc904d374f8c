"""Text files and notebooks, and where the default profile mends what the released filter gets wrong."""

from __future__ import annotations

import json

import pytest

from data_prep.quality import rules
from data_prep.quality.profiles import PROFILES, measure
from data_prep.sources.notebooks import convert

REFINECODE, REFERENCE = PROFILES["refinecode"], PROFILES["reference"]


def signal(name: str, text: str, language: str = "text", doc_type: str = "text", profile=REFINECODE, **more) -> float:
    values, failures = measure(text, language, doc_type, len(text), profile, **more)
    assert not failures
    value = values[name]
    assert value is not None
    return value


@pytest.mark.parametrize(
    ("spoken", "group"),
    [("en", "text/en"), (None, "text/en"), ("zh", "text/zh"), ("fr", "text/other"), ("th", "text/other")],
)
def test_group_of_a_text(spoken: str | None, group: str) -> None:
    assert rules.group_of("text", "markdown", rules.load(), spoken) == group


def test_the_released_filter_judges_other_languages_as_english() -> None:
    assert rules.group_of("text", "markdown", rules.load(profile="reference"), "fr") == "text/en"


def test_languages_without_spaces_are_not_judged_by_words() -> None:
    group = rules.load()["text/other"]
    assert not {"num_words", "mean_word_length", "frac_words_all_caps", "frac_chars_alphabet"} & set(group)
    assert {"num_chars", "num_lines", "frac_chars_dupe_5grams"} <= set(group)


def test_letters_are_counted_in_every_language() -> None:
    assert signal("frac_chars_alphabet", "读取文件1\n", spoken="zh") == 0.8


def test_words_of_chinese_texts_are_about_as_long_as_words() -> None:
    text = "编辑器菜单功能，用到的所有构造函数。\n"
    assert 1.3 < signal("mean_word_length", text, spoken="zh") < 2
    assert signal("mean_word_length", text, spoken="ja") > 5


def test_white_space_is_the_same_to_all_signals() -> None:
    text = "if (a)\x1f{\x1f return 1; }\n" * 12
    blank = text.count("\x1f") + text.count(" ") + text.count("\n")
    assert signal("frac_chars_whitespace", text, "c", "code") == round(blank / len(text), 8)
    assert signal("frac_lines_dupe_lines", text, "c", "code") == 1


@pytest.mark.parametrize("name", ["read.me", "READ.ME.txt", "Readme.md", "test-requirements.txt", "TODO"])
def test_related_file_names(name: str) -> None:
    assert signal("cate_code_related_file_name", "text", path=f"docs/{name}") == 1


def test_stop_words_in_capitals_count() -> None:
    text = "The files that Are read\n"
    assert signal("frac_words_redpajama_stop", text) > signal(
        "frac_words_redpajama_stop", text, profile=REFERENCE, spoken="en"
    )


def test_the_limit_of_bytes_is_the_papers() -> None:
    for profile, limit in (("refinecode", 8e6), ("reference", 3e6)):
        (rule,) = rules.load(profile=profile)["code/general"]["size_file_byte"]
        assert (rule.operator, rule.threshold) == (">", limit)


PASSWORDS = (
    "def check(password, imported, blueprint):\n    password = imported[password]\n    return blueprint(password)\n"
)


def test_python_keywords_are_not_substrings() -> None:
    for name in ("frac_lines_pass", "frac_lines_import", "frac_lines_print"):
        assert signal(name, PASSWORDS, "python", "code") == 0
        assert signal(name, PASSWORDS, "python", "code", REFERENCE) > 0


@pytest.mark.parametrize(
    ("statement", "variables"),
    [("x: int = f()", 0), ("d[0] += 1", 0), ("with f() as x: g(x)", 0), ("def f(*, a): g(a)", 0), ("f()", 1)],
)
def test_python_variables_of_every_kind_count(statement: str, variables: int) -> None:
    assert signal("cate_var_zero", statement + "\n", "python", "code") == variables


def test_only_a_return_of_a_plain_value_has_no_logic() -> None:
    for language, simple, other in [
        ("python", "def f(a):\n    return a\n", "def f(a):\n    return g(a) + h(a)\n"),
        ("go", "func f(a int) int {\n\treturn a\n}\n", "func f(a int) int {\n\treturn g(a) + h(a)\n}\n"),
        (
            "csharp",
            "class A { int F(int a) {\n return a;\n} }\n",
            "class A { int F(int a) {\n return G(a) + H(a);\n} }\n",
        ),
    ]:
        scores = [signal("score_lines_no_logic", text, language, "code") for text in (simple, other)]
        assert scores[0] > scores[1], language


def notebook(*cells: tuple[str, str]) -> str:
    made = [{"cell_type": kind, "source": source, "outputs": []} for kind, source in cells]
    return convert(json.dumps({"nbformat": 4, "cells": made}))


CELLS = [("markdown", "# Sums\nWhy sums matter."), ("code", "x = 1  # one\nassert x"), ("code", "%time f('a b')")]


def test_a_notebook_is_measured_without_markers() -> None:
    text = notebook(*CELLS)
    plain = "\n".join(source for _, source in CELLS) + "\n"
    assert signal("num_chars", text, "jupyter notebook", "code") == len(plain)
    assert signal("num_words", text, "jupyter notebook", "code") == 13


def test_code_of_a_notebook_is_its_code_cells() -> None:
    text = notebook(*CELLS)
    assert signal("frac_lines_assert", text, "jupyter notebook", "code") == round(1 / 3, 8)
    comments = len("# Sums\nWhy sums matter.") + len("# one")
    assert signal("frac_chars_comments", text, "jupyter notebook", "code") == pytest.approx(comments / 65, abs=0.03)


def test_notebooks_have_a_group_that_allows_prose() -> None:
    groups = rules.load()
    assert rules.group_of("code", "jupyter notebook", groups) == "code/jupyter notebook"
    mine, general = groups["code/jupyter notebook"], groups["code/general"]
    assert mine["frac_chars_comments"][0].threshold > general["frac_chars_comments"][0].threshold
    assert mine["num_lines"] == general["num_lines"]
    assert "code/jupyter notebook" not in rules.load(profile="reference")


@pytest.mark.parametrize("dialect", ["plsql", "plpgsql", "tsql"])
def test_dialects_of_sql_have_its_rules(dialect: str) -> None:
    groups = rules.load()
    assert groups[rules.group_of("code", dialect, groups) or ""] == groups["code/sql"]
