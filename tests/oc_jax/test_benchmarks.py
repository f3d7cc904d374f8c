"""Each benchmark on small data of its own format: right answers pass, wrong and forged ones don't."""

from __future__ import annotations

import base64
import gzip
import json
import pickle
import zlib

import pytest
from etils import epath

from oc_jax.evals import benchmark as lib
from oc_jax.evals.execution import Limits
from oc_jax.evals.registry import REGISTRY

LIMITS = Limits(cpu_seconds=5)


@pytest.fixture
def judged(tmp_path):
    """(benchmark name, row of its data, completions) → the status of each."""

    def judged(name: str, row: dict, completions: list[str]) -> list[str]:
        path = tmp_path / f"{name}.jsonl.gz"
        path.write_bytes(gzip.compress((json.dumps(row) + "\n").encode()))
        benchmark = REGISTRY[name]
        (problem,) = lib.load(benchmark, epath.Path(path))
        samples = [lib.Sample.of(benchmark, problem, completion) for completion in completions]
        return [outcome.status for outcome in lib.verdicts(benchmark, samples, LIMITS)]

    return judged


MBPP = {
    "task_id": 8,
    "prompt": "Write a function to square numbers.",
    "code": "def square_nums(nums):\n    return [i**2 for i in nums]",
    "test_imports": [],
    "test_list": ["assert square_nums([1, 2]) == [1, 4]"],
    "test": "import numpy as np\n\n"
    "def assertion(out, exp, atol):\n    assert np.allclose(out, exp, rtol=1e-07, atol=atol)\n"
    "inputs = [[[1, 2]], [[0.5]]]\nresults = [[1, 4], [0.25]]\n"
    "for i, (inp, exp) in enumerate(zip(inputs, results)):\n    assertion(square_nums(*inp), exp, 1e-6)",
}


@pytest.mark.parametrize("name", ["mbpp", "mbpp_plus"])
def test_mbpp(judged, name):
    right = "def square_nums(nums):\n    return [x * x for x in nums]\n"
    wrong = "def square_nums(nums):\n    return [x + x for x in nums]\n"
    forged = "class A(list):\n    __eq__ = lambda a, b: True\n    __len__ = lambda a: 2\n" \
             "def square_nums(nums):\n    return A()\n"  # fmt: skip
    completions = [right, f"Sure:\n```python\n{right}```\nDone.", wrong, forged, "import os\nos._exit(0)\n", ""]
    assert judged(name, MBPP, completions) == ["ok", "ok", "error", "error", "error", "error"]


def test_mbpp_plus_lets_a_match_object_pass_where_anything_but_none_will_do(judged):
    test = (
        "def assertion(out, exp, atol):\n    if isinstance(out, bool):\n        exact_match = out == exp\n"
        "    else:\n        exact_match = exp == (out is not None)\n    assert exact_match\n"
    )
    row = {
        **MBPP,
        "code": "import re\ndef starts(s):\n    return re.match('a', s)",
        "test_list": ["assert starts('ab')"],
        "test": test + "for s, exp in (('ab', True), ('b', False)):\n    assertion(starts(s), exp, 0)",
    }
    assert judged("mbpp_plus", row, [row["code"], "def starts(s):\n    return None\n"]) == ["ok", "error"]


def test_mbpp_3shot_searches_only_what_was_written(tmp_path):
    rows = [
        {
            "task_id": i,
            "text": f"Write f{i}.",
            "code": f"def f{i}():\n    return {i}",
            "test_list": [f"assert f{i}() == {i}"],
        }
        for i in (1, 2, 3, 9, 10)
    ]
    path = tmp_path / "mbpp.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    benchmark = REGISTRY["mbpp_3shot"]
    (problem,) = lib.load(benchmark, epath.Path(path))
    assert problem.task_id == "Mbpp/10" and problem.prompt.count("```python\n") == 4
    assert (
        benchmark.extract(problem, "def f10():\n    return 10\n```\n\nYou are").strip() == "def f10():\n    return 10"
    )
    assert "f1(" not in benchmark.extract(problem, "no code")


def test_leetcode(judged):
    row = {
        "task_id": "double",
        "prompt": '"""Double it."""\nclass Solution:\n    def double(self, nums: List[int]) -> List[int]:\n        ',
        "prompt_sft": "Double it.",
        "test": 'my_solution = Solution()\n\ntest_input = { "nums": [1, 2] }\n'
        "assert my_solution.double(**test_input) == [2, 4]\n",
    }
    completions = ["        return [2 * n for n in nums]\n", "        return nums\n", "        exit(0)\n"]
    assert judged("leetcode", row, completions) == ["ok", "error", "error"]
    node = {**row, "test": "x = ListNode(1)\n" + row["test"]}
    assert judged("leetcode", node, completions) == ["ok", "error", "error"]


LEETCODE = {  # beginning of a task's name → a solution
    "weekly-contest-381-minimum-number-of-pushes-to-type-word-ii": """class Solution:
    def minimumPushes(self, word: str) -> int:
        counts = sorted(Counter(word).values(), reverse=True)
        return sum(count * (i // 8 + 1) for i, count in enumerate(counts))
""",
    "biweekly-contest-122-find-if-array-can-be-sorted": """class Solution:
    def canSortArray(self, nums: List[int]) -> bool:
        runs = [sorted(run) for _, run in groupby(nums, key=int.bit_count)]
        return all(a[-1] <= b[0] for a, b in zip(runs, runs[1:]))
""",
    "weekly-contest-380-count-elements-with-maximum-frequency": """class Solution:
    def maxFrequencyElements(self, nums: List[int]) -> int:
        counts = Counter(nums).values()
        return sum(count for count in counts if count == max(counts))
""",
    "weekly-contest-379-maximum-area-of-longest-diagonal-rectangle": """class Solution:
    def areaOfMaxDiagonal(self, dimensions: List[List[int]]) -> int:
        return max((a * a + b * b, a * b) for a, b in dimensions)[1]
""",
}


def test_leetcode_with_real_tasks_and_solutions(shared_data):
    benchmark = REGISTRY["leetcode"]
    problems = {p.task_id: p for p in lib.load(benchmark, epath.Path(shared_data / "eval/leetcode/20240121-Jul.jsonl"))}
    right = [f"Like this:\n```python\n{text}```\n" for text in LEETCODE.values()]
    wrong = [text.replace("return ", "return not ") for text in right]
    samples = [
        lib.Sample.of(benchmark, problems[name], text)
        for texts in (right, wrong)
        for name, text in zip(LEETCODE, texts, strict=True)
    ]
    statuses = [outcome.status for outcome in lib.verdicts(benchmark, samples, benchmark.limits)]
    assert statuses == ["ok"] * len(LEETCODE) + ["error"] * len(LEETCODE)


def test_cruxeval(judged):
    row = {"id": "sample_0", "code": "def f(a, b=1):\n    return [a] * b", "input": "2, b=2", "output": "[2, 2]"}
    completions = ["assert f(2, b=2) == [2, 2]\n[/ANSWER]\n[PYTHON]", "[2, 2]", "assert f(2, b=2) == [2]", "f(2, b=2)"]
    assert judged("cruxeval_o", row, completions) == ["ok", "ok", "error", "error"]
    completions = ["assert f(2, 2) == [2, 2]", "f(2, 2)\n[/ANSWER]", "assert f(2) == [2, 2]", "assert f(??) == [2, 2]"]
    assert judged("cruxeval_i", row, completions) == ["ok", "ok", "error", "error"]


BIGCODE = {
    "task_id": "BigCodeBench/0",
    "complete_prompt": 'import os\n\ndef task_func(x):\n    """One more."""\n',
    "instruct_prompt": "One more.",
    "code_prompt": "import os\n\ndef task_func(x):\n",
    "canonical_solution": "    return x + 1",
    "entry_point": "task_func",
    "test": "import unittest\nclass TestCases(unittest.TestCase):\n    def test_one(self):\n"
    "        self.assertEqual(task_func(1), 2)\n    def test_two(self):\n        self.assertEqual(task_func(2), 3)\n",
}
PATCH = "T = sys.modules['unit' + 'test'].TestCase\n{}T.assertEqual = lambda *a, **k: None\n"
BIGCODE_FORGERIES = {
    "wrong": "    return 2",
    "always_equal": "    class A:\n        __eq__ = lambda a, b: True\n    return A()",
    "mock_any": "    from unittest.mock import ANY\n    return ANY",
    "exit": "    os._exit(0)",
    "system_exit": "    raise SystemExit(0)",
    "prints": "    print('Ran 2 tests', 'OK')\n    return None",
    "patches_at_import": f"import sys\n{PATCH.format('')}def task_func(x): return 0",
    "patches_when_called": f"import sys\ndef task_func(x):\n    {PATCH.format('    ')}    return 0",
    "kills": "    os.kill(os.getppid(), 9)",
    "daemon": "    if os.fork() == 0:\n        os.setsid()\n        import time; time.sleep(61)\n    return 0",
}


def test_bigcodebench(judged):
    right = ["    return x + 1", "```python\ndef task_func(x):\n    return 1 + x\n```"]
    statuses = judged("bigcodebench", BIGCODE, [*right, *BIGCODE_FORGERIES.values()])
    assert dict(zip(["right", "fenced", *BIGCODE_FORGERIES], statuses, strict=True)) == {
        "right": "ok", "fenced": "ok", **dict.fromkeys(BIGCODE_FORGERIES, "error")
    }  # fmt: skip


def test_livecodebench(judged):
    tests = [{"input": "3\n", "output": "6\n", "testtype": "stdin"}]
    hidden = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()
    row = {"question_id": "1", "question_content": "Double.", "starter_code": "", "metadata": "{}",
           "public_test_cases": "[]", "private_test_cases": hidden}  # fmt: skip
    answer = "Here:\n```python\nprint(int(input()) * 2)\n```"
    assert judged("livecodebench", row, [answer, answer.replace("* 2", "* 3"), "none"]) == ["ok", "error", "error"]
    call = {**row, "metadata": '{"func_name": "twice"}', "private_test_cases": "[]",
            "public_test_cases": json.dumps([{"input": "[1, 2]\n2", "output": "[1, 2, 1, 2]"}])}  # fmt: skip
    answer = "```python\nclass Solution:\n    def twice(self, a: List[int], n):\n        return tuple(a * n)\n```"
    assert judged("livecodebench", call, [answer, answer.replace("* n", "")]) == ["ok", "error"]


def test_livecodebench_runs_nothing_of_a_pickle(judged):
    class Evil:
        def __reduce__(self):
            return (exec, ("raise SystemError('ran')",))

    hidden = base64.b64encode(zlib.compress(pickle.dumps(Evil()))).decode()
    row = {"question_id": "1", "question_content": "", "public_test_cases": "[]", "private_test_cases": hidden}
    with pytest.raises(pickle.UnpicklingError, match="exec"):
        judged("livecodebench", row, [""])


def test_mceval_and_mdeval(judged):
    row = {
        "task_id": "Python/1",
        "prompt": "def one():\n",
        "canonical_solution": "    return 1\n",
        "entry_point": "one",
        "instruction": "Write one.",
        "test": "def check(one):\n    assert one() == 1\n\ncheck(one)",
    }
    completions = ["    return 1\n", "```python\ndef one():\n    return 1\n```", "    return 2\n", "    exit(0)\n"]
    assert judged("mceval", row, completions) == ["ok", "ok", "error", "error"]
    shell = {**row, "task_id": "Shell/1", "prompt": "one() {\n", "test": "[[ $(one) == 1 ]] || exit 1"}
    assert judged("mceval", shell, ["echo 1\n}\n", "```bash\none() { echo 1; }\n```", "exit 0\n}\nexit 0\n"]) == [
        "ok", "ok", "error"
    ]  # fmt: skip
    assert judged("mceval", {**row, "task_id": "Klingon/1"}, [""]) == ["refused"]
    question = {"question_id": "Shell/2", "instruction": "Fix.", "test": shell["test"], "canonical_solution": ""}
    assert judged("mdeval", question, ["```bash\none() { echo 1; }\n```", "```\n```"]) == ["ok", "error"]
    loc = {**question, "loc_answer": ["C", "A"]}
    assert judged("mdeval", loc, ['```python\n["A", "C"]\n```', '["A"]', "A"]) == ["ok", "error", "error"]
    assert judged("mdeval", {**question, "choice_answer": "B"}, ["B", "Answer: B.", "A"]) == ["ok", "ok", "error"]


MULTIPL_E = {
    "name": "HumanEval_0_one",
    "language": "sh",
    "prompt": "#!/bin/bash\n# One more.\none() {\n",
    "tests": '}\n\ncandidate() {\n    one "$@"\n}\n\nset -e\n'
    'run_test() {\n    [[ $(candidate "1") = "2" ]]\n}\n\nrun_test',
    "stop_tokens": ["\n}"],
}


def test_multipl_e_continues_or_takes_the_body_of_a_rewrite(judged):
    rewrite = "helper() { echo $(( $1 + 1 )); }\n# the function\none() {\n    helper $1\n}\none 1"
    completions = ["    echo $(( $1 + 1 ))\n}\n# more\nx() {", f"Sure:\n```bash\n#!/bin/bash\n{rewrite}\n```",
                   "    echo 3\n}", "    echo 2; }; exit 0; {\n"]  # fmt: skip
    assert judged("multipl_e", MULTIPL_E, completions) == ["ok", "ok", "error", "error"]


def test_multipl_e_names_tasks_by_language_where_a_directory_has_several(tmp_path):
    for language in ("sh", "js"):
        row = {**MULTIPL_E, "language": language}
        (tmp_path / f"humaneval-{language}.jsonl").write_text(json.dumps(row) + "\n")
    problems = lib.load(REGISTRY["multipl_e"], epath.Path(tmp_path))
    assert [p.task_id for p in problems] == ["js/HumanEval_0_one", "sh/HumanEval_0_one"]
    assert [p.group for p in problems] == ["js", "sh"]


def test_data_that_is_missing_or_another_edition_is_named(tmp_path):
    for name, benchmark in REGISTRY.items():
        if name != "humaneval":
            with pytest.raises(FileNotFoundError, match="give .* with --data"):
                lib.load(benchmark, None)
    (tmp_path / "x.jsonl").write_text('{"task_id": "a"}\n')
    with pytest.raises(ValueError, match="not the edition"):
        lib.load(REGISTRY["bigcodebench"], epath.Path(tmp_path / "x.jsonl"))


def test_summary_counts_what_ran_and_what_the_data_solves_itself():
    problems = [lib.Problem(i, "", "", {}, group) for i, group in (("a", "x"), ("b", "x"), ("c", "y"), ("d", "y"))]
    passes = {"a": [True, False], "b": [False, False], "c": [True, True]}  # d was not run
    numbers = lib.summary(problems, passes, (1, 2), {"a": True, "b": False, "c": True})
    assert numbers["pass@1"] == 0.5 and numbers["pass@2"] == pytest.approx(2 / 3)
    assert (numbers["tasks"], numbers["not_run"], numbers["ground_truth"]) == (3, 1, {"passed": 2, "tasks": 3})
    assert numbers["where_ground_truth_passes"]["pass@1"] == 0.75
    assert numbers["by_group"]["y"]["pass@1"] == 1.0
    low, high = numbers["pass@1_interval"]
    assert 0 < low < 0.5 < high < 1
    assert lib.summary(problems, {}, (1,), {})["pass@1"] is None


EVAL_DATA = {
    "humaneval_plus": ("humanevalplus/HumanEvalPlus-OriginFmt.jsonl.gz", 20, 9),
    "mbpp": ("mbppplus/MbppPlus-OriginFmt.jsonl.gz", 12, 32),
    "mbpp_plus": ("mbppplus/MbppPlus-OriginFmt.jsonl.gz", 20, 19),
    "mbpp_3shot": ("mbpp/mbpp.jsonl", 10, 50),
    "cruxeval_i": ("cruxeval/cruxeval.jsonl", 40, 20),
    "cruxeval_o": ("cruxeval/cruxeval.jsonl", 40, 20),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EVAL_DATA)
def test_canonical_solutions_of_the_real_data_pass(shared_data, name):
    """Every n-th task; benchmarks/replay.py takes all of them."""
    path, step, least = EVAL_DATA[name]
    benchmark = REGISTRY[name]
    problems = lib.load(benchmark, epath.Path(shared_data / "eval" / path))[::step]
    assert sum(lib.ground_truth(benchmark, problems, benchmark.limits).values()) >= least
