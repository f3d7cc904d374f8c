from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.synthesis import grammar
from data_prep.synthesis.grammar import Rejected
from data_prep.synthesis.programs import emptied

LINES = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1).filter(
    lambda line: line.strip() == line and not line.startswith(("[", "`"))
)
BODIES = st.lists(LINES, min_size=1, max_size=4).map("\n".join)


@given(BODIES, BODIES, st.sampled_from(["", "Sure!\n\n"]))
def test_sections_are_what_was_written(first: str, second: str, hello: str) -> None:
    fenced = f"```python\n{second}\n[Task]\n```"
    text = f"{hello}[Task]\n{first}\n[Solution]  \n\n{fenced}\n"
    assert grammar.sections(text, ("Task", "Solution")) == [first, fenced]
    assert grammar.only_block(fenced, ("python",), "[Solution]") == f"{second}\n[Task]\n"


@given(st.text())
def test_any_text_is_parsed_or_rejected(text: str) -> None:
    for parse in (
        lambda: grammar.sections(text, ("Task",)),
        lambda: grammar.only_block(text, ("python",), "x"),
        lambda: grammar.score(text),
        lambda: grammar.yes_or_no(text),
        lambda: grammar.python(text, "x"),
    ):
        try:
            parse()
        except Rejected as rejected:
            assert str(rejected) and "\n" not in str(rejected)


@pytest.mark.parametrize(
    "text, reason",
    [
        ("[Task]\nx", "no [Solution]"),
        ("[Solution]\nx\n[Task]\ny", "sections out of order"),
        ("[Task]\nx\n[Task]\ny\n[Solution]\nz", "sections out of order"),
        ("[Task]\n\n[Solution]\nx", "[Task] is empty"),
        ("[Task]\n```\n[Solution]\nx\n```", "no [Solution]"),
        ("**[Task]**\nx\n[Solution]\ny", "no [Task]"),
    ],
)
def test_sections_are_strict(text: str, reason: str) -> None:
    with pytest.raises(Rejected, match="malformed") as error:
        grammar.sections(text, ("Task", "Solution"))
    assert reason in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["x = 1", "```python\nx = 1", "```python\nx = 1\n```\nThat's it.", "```js\nx\n```", "```python\n\n```",
     "```python\nx\n```\n```python\ny\n```"],
)  # fmt: skip
def test_a_code_section_is_one_block_and_nothing_else(text: str) -> None:
    with pytest.raises(Rejected):
        grammar.only_block(text, ("python",), "[Solution]")


@pytest.mark.parametrize(
    "text, expected",
    [("Fine.\nScore: 7", 7), ("Score: 10", 10), ("Score: 11", None), ("Score: 7/10", None), ("7", None)],
)
def test_score(text: str, expected: int | None) -> None:
    if expected is None:
        with pytest.raises(Rejected):
            grammar.score(text)
    else:
        assert grammar.score(text) == expected


@pytest.mark.parametrize("text, expected", [("YES", True), ("NO.\nBecause", False), ("Yes", None), ("YES, NO", None)])
def test_yes_or_no(text: str, expected: bool | None) -> None:
    if expected is None:
        with pytest.raises(Rejected):
            grammar.yes_or_no(text)
    else:
        assert grammar.yes_or_no(text) is expected


def test_an_emptied_solution_has_its_names_and_none_of_its_work() -> None:
    solution = (
        "import math\nLIMIT = 3\n@dataclass\nclass P:\n    x: int\n    def f(self): return 1\ndef g(x):\n    return x\n"
    )
    names: dict[str, object] = {}
    exec(emptied(solution, "python"), names)
    assert names["g"](1) is None and names["P"]().f() is None and "LIMIT" not in names  # type: ignore[operator]
    assert emptied("function f() {}", "javascript") == ""
