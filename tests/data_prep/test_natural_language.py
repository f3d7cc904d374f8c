from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.natural_language import HEAD, identify

ENGLISH = "The stage reads every document of the previous one and writes those that it keeps.\n"
CHINESE = "本项目提供一个简单的接口，用于读取和写入文件，并支持多种编码格式。\n"
FRENCH = "Cette étape lit chaque document de la précédente et n'écrit que ceux qu'elle garde.\n"
RUSSIAN = "Этот модуль читает документы предыдущего этапа и записывает только нужные.\n"
JAPANESE = "このプロジェクトは簡単なインターフェースを提供します。\n"
CODE = "```python\nfor path in sorted(directory.glob('*.py')):\n    print(path.read_text().strip())\n```\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ENGLISH, "en"),
        (CHINESE, "zh"),
        (FRENCH, "fr"),
        (RUSSIAN, "ru"),
        (JAPANESE, "ja"),
        (CHINESE * 2 + CODE * 6, "zh"),
        (
            "# Client for the HTTP API of Example Cloud Storage Service v2\n\n" + CHINESE * 4 + "npm install cloud\n",
            "zh",
        ),
        (FRENCH * 3 + CODE * 6, "fr"),
        (f"<p align='center'><a href='https://example.com/een-lange-naam'>{ENGLISH}</a></p>", "en"),
        ("0.25 0.5\n0.125 3.5\n" * 50, None),
        ("", None),
        ("```\nonly code\n", None),
    ],
)
def test_identify(text: str, expected: str | None) -> None:
    assert identify(text) == expected


def test_names_alone_are_no_language() -> None:
    assert identify("def f(x, y):\n    return g(x) if x else h(y)\n") is None


def test_only_the_head_counts() -> None:
    assert identify(ENGLISH * (HEAD // len(ENGLISH) + 1) + CHINESE * 10_000) == "en"


@given(st.text())
def test_any_text_has_at_most_one_language(text: str) -> None:
    language = identify(text)
    assert language is None or language.isalpha() and language == identify(text)
