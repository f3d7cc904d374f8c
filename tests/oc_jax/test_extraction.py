from __future__ import annotations

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oc_jax.evals import extraction

PROMPT = 'import math\n\n\ndef helper(x):\n    return x\n\n\ndef area(r):\n    """Area of a circle."""\n'


def call(code: str, *args):
    namespace: dict = {}
    exec(code, namespace)
    return namespace["area"](*args)


def test_continuation_is_joined_to_the_prompt():
    code = extraction.solution(PROMPT, "    return helper(3) * r * r\n", "area")
    assert call(code, 2) == 12


@pytest.mark.parametrize(
    "answer",
    [
        "```python\nimport math\ndef area(r):\n    return 3 * r * r\n```\nThis works because.",
        "Sure! Here it is:\n\n```\ndef area(r):\n    return 3 * r * r\n```",
        "def area(r):\n    return 3 * r * r\n```\nand that is all",  # the opening fence was given
        "Here is the function:\ndef area(r):\n    return 3 * r * r\n",
        "```bash\npip install x\n```\n```python\ndef area(r):\n    return 3 * r * r\n```",
        "def area(r):\n    return 3 * r * r\n\nThe function above computes",
        "def area(r):\n    return 3 * r * r\n\ndef unfinished(x):\n    if x ==",
    ],
)
def test_rewrite_is_found_in_an_answer(answer):
    assert call(extraction.solution(PROMPT, answer, "area"), 2) == 12


def test_own_tests_and_examples_are_left_out_but_settings_stay():
    answer = """
import sys, random
sys.setrecursionlimit(5000)
random.seed(0)
LIMIT = 3
LIMIT += 0
if sys.version_info > (3,):
    factor = 1
def unused():
    return 0
@staticmethod
def decorated(): pass
def area(r):
    return LIMIT * factor * r * r
print(area(input()))
answer = area(int(input()))
assert area(1) == 99
if __name__ == "__main__":
    raise SystemExit(area(2))
"""
    code = extraction.solution(PROMPT, answer, "area")
    assert call(code, 2) == 12
    assert "setrecursionlimit" in code and "random.seed" in code
    assert "unused" not in code and "input" not in code and "SystemExit" not in code


def test_decorators_stay():
    answer = "import functools\n@functools.cache\ndef area(r):\n    return 3 * r * r\n"
    assert "@functools.cache" in extraction.solution(PROMPT, answer, "area")


def test_nothing_useful_is_passed_on_as_it_is():
    assert extraction.solution(PROMPT, "", "area") == PROMPT
    assert extraction.solution(PROMPT, "    return ((\n", "area") == PROMPT + "    return ((\n"


def test_truncate_cuts_at_the_first_stop():
    assert extraction.truncate("a\nprint(b)\ndef c", ["\ndef ", "\nprint("]) == "a"
    assert extraction.truncate("abc", ["x"]) == "abc"


@given(st.text("abcdef ()=:\n\"'\\0#", max_size=80) | st.text(max_size=80))
def test_longest_valid_is_a_valid_run_of_leading_lines(text):
    code = extraction.longest_valid(text)
    ast.parse(code)
    assert text.startswith(code)
    assert code in ("", text) or code.endswith("\n")


@given(st.integers(0, 6), st.sampled_from(["x = (", "if True", "'", '"""', "    y = 1", "def f(:"]))
def test_longest_valid_keeps_everything_in_front_of_the_fault(good_lines, fault):
    good = "".join(f"x{i} = {i}\n" for i in range(good_lines))
    assert extraction.longest_valid(good + fault + "\nz = 1\n") == good
