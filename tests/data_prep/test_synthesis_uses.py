"""Every pipeline from seeds to rows, with a teacher that keeps to the prompts, and one that does not."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from etils import epath

from data_prep import conversations, documents, files
from data_prep.engine import LocalEngine
from data_prep.synthesis import uses
from data_prep.synthesis.package_apis import package_seeds
from data_prep.synthesis.pipeline import Pipeline
from data_prep.synthesis.stage import synthesis
from data_prep.synthesis.teacher import Endpoint, Stopped
from oc_jax.evals.execution import Execute

sys.path.insert(0, os.path.dirname(__file__))
from fake_teacher import FakeTeacher  # noqa: E402

Rows = list[dict[str, Any]]
ASSERTS = "\n".join(f"assert add({i}, 1) == {i + 1}" for i in range(10))
ADD = "def add(a, b):\n    return a + b"


def exercise(solution: str = ADD, tests: str = ASSERTS) -> str:
    return (
        "Here it is.\n[Task]\nWrite add(a, b).\n[Analysis]\nAdd them.\n"
        f"[Solution]\n```python\n{solution}\n```\n[Test]\n```python\n{tests}\n```"
    )


@pytest.fixture
def run(
    write_documents: Callable[..., epath.Path], tmp_path: pathlib.Path
) -> Callable[..., tuple[dict[str, Any], Rows, FakeTeacher]]:
    """Runs a pipeline over documents, or over conversations where rows have messages."""

    def run(pipeline: Pipeline, seeds: Rows | epath.Path, reply: Callable[[str, int], Any], **parameters: Any) -> Any:
        if isinstance(seeds, list) and "messages" in seeds[0]:
            table = pa.Table.from_pylist(seeds, conversations.SCHEMA)
            seeds = epath.Path(tmp_path / "conversations")
            seeds.mkdir()
            files.write_parquet(iter([table]), seeds / "part-00000.parquet")
        elif isinstance(seeds, list):
            seeds = write_documents("seeds", seeds)
        out = epath.Path(tmp_path / "out")
        out.mkdir(exist_ok=True)
        parameters = {"execute": Execute(), "engine": LocalEngine(workers=1)} | parameters
        with FakeTeacher(reply) as teacher:
            endpoint = Endpoint(base_url=teacher.url, backoff_seconds=0.02)
            result = synthesis(out, seeds=seeds, pipeline=pipeline, model="teacher", endpoint=endpoint, **parameters)
        return result, [row for part in documents.parts(out) for row in pq.read_table(part).to_pylist()], teacher

    return run


def dialogue(question: str, answer: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return conversations.row(messages, kind="x", language="python", provenance=json.dumps({"file": "x", "row": 0}))


def test_educational_keeps_what_passes_its_ten_tests_and_fails_without_a_solution(run: Callable[..., Any]) -> None:
    empty = "\n".join("assert add is not None" for _ in range(10))
    answers = {
        "good": exercise(),
        "wrong": exercise("def add(a, b):\n    return a - b"),
        "hollow": exercise(tests=empty),
        "few": exercise(tests="assert add(1, 2) == 3"),
        "syntax": exercise("def add(a, b:"),
    }
    seeds = [{"path": f"{name}.py", "text": f"# {name}\n"} for name in answers]
    heldout = {"path": "held.py", "text": "# good\n", "split": "heldout"}
    reply = lambda prompt, attempt: answers[re.findall(r"^# (\w+)$", prompt, re.MULTILINE)[0]]
    _, rows, teacher = run(uses.educational(), [*seeds, heldout], reply)
    paths = {documents.document_id("test", "repo", f"{name}.py", None): name for name in answers}
    by_name = {paths[json.loads(row["provenance"])["seed"]]: row for row in rows}
    assert len(rows) == len(answers)  # the one that is held out is no seed
    user, assistant = by_name["good"]["messages"]
    assert (user["content"], by_name["good"]["reasons"]) == ("Write add(a, b).", [])
    assert assistant["content"] == f"Add them.\n\n```python\n{ADD}\n```"
    assert json.loads(by_name["good"]["provenance"])["test"] == ASSERTS + "\n"
    reasons = {name: row["reasons"][0] for name, row in by_name.items() if row["reasons"]}
    assert reasons.pop("wrong").startswith("tests_failed: error:")
    assert reasons == {
        "hollow": "tests_pass_without_solution",
        "few": "wrong_number_of_asserts (1)",
        "syntax": "no_python: [Solution]",
    }
    assert by_name["wrong"]["messages"][0]["role"] == "raw" and len(teacher.answered) == 1 + 4 * 3


def test_without_a_sandbox_nothing_is_kept_unproven(run: Callable[..., Any]) -> None:
    with pytest.raises(Stopped, match="bind synthesis.execute"):
        run(uses.educational(), [{"path": "a.py", "text": "x"}], lambda *_: exercise(), execute=None)


SNIPPETS = {
    "Python": ("python", ADD, "assert add(1, 2) == 3"),
    "Lua": ("lua", "function add(a, b) return a + b end", "assert(add(1, 2) == 3)"),
    "C++": (
        "cpp",
        "#include <cassert>\nint add(int a, int b) { return a + b; }",
        "int main() { assert(add(1, 2) == 3); return 0; }",
    ),
}


def test_snippets_pass_their_tests_in_several_languages(run: Callable[..., Any]) -> None:
    tools = {"python": sys.executable, "lua": "lua5.4", "cpp": "g++"}
    languages = {name: 1.0 for name, tool in tools.items() if shutil.which(tool)}

    def reply(prompt: str, attempt: int) -> str:
        title = next(title for title in SNIPPETS if f"function in {title} on" in prompt)
        fence, code, tests = SNIPPETS[title]
        return f"[Solution]\n```{fence}\n{code}\n```\n[Test]\n```{fence}\n{tests}\n```"

    seeds = [{"path": f"{i}.py", "text": f"x = {i}"} for i in range(12)]
    _, rows, _ = run(uses.snippets(languages=languages), seeds, reply)
    kept = [row for row in rows if not row["reasons"]]
    assert {row["language"] for row in kept} == set(languages) and len(kept) == len(languages)
    for row in kept:
        _, code, tests = next(known for known in SNIPPETS.values() if known[0] == row["language"])
        assert row["text"] == f"{code}\n\n\n{tests}\n" and (row["doc_type"], row["split"]) == ("code", "train")
    with pytest.raises(ValueError, match="cobol"):
        uses.snippets(languages={"cobol": 1.0})


def test_diverse_goes_from_a_cleaned_text_over_a_specification_to_a_polished_answer(run: Callable[..., Any]) -> None:
    block = f"```python\n{ADD}\n```"

    def reply(prompt: str, attempt: int) -> str:
        if "Copy the sentences" in prompt:
            return "NOTHING" if "BUY NOW" in prompt else "[Useful Text]\n" + re.findall("About sums, .*", prompt)[0]
        if "You design questions" in prompt:
            about, kind = re.findall(r"About sums, (.*)", prompt)[0], re.findall("Kind of task: (.*)", prompt)[0]
            return f"[Created Question]\n{kind} that adds ({about})"
        if "Improve the answer" in prompt:
            return f"[Refined Answer]\nPolished:\n\n{block}"
        if "[Test]" in prompt:
            return f"[Answer]\nSo:\n{block}\n[Test]\n```python\nassert add(1, 2) == 3\n```"
        return f"So:\n{block}"

    texts = [f"About sums, {i}" for i in range(8)] + ["BUY NOW"]
    seeds = [{"path": f"{i}.html", "text": text, "language": "html"} for i, text in enumerate(texts)]
    tasks = {"write a function": 1.0, "explain code": 1.0}
    result, rows, _ = run(uses.diverse(languages={"python": 1.0}, tasks=tasks), seeds, reply)
    kept = [row for row in rows if not row["reasons"]]
    assert [row["reasons"] for row in rows if row["reasons"]] == [["no_useful_text"]]
    assert {row["messages"][0]["content"].split(" that")[0] for row in kept} == set(tasks)
    assert all(row["messages"][1]["content"] == f"Polished:\n\n{block}" for row in kept)
    steps = {step["step"]: step for step in result["steps"]}
    assert steps["clean"]["rejected"] == {"no_useful_text": 3}
    assert steps["answer"]["passed"] + steps["answer_with_tests"]["passed"] == 8 == steps["question"]["passed"]
    assert all(len(step["prompt_sha256"]) == 64 for step in result["steps"] if "prompt" in step)


def test_evol_rewrites_and_answers(run: Callable[..., Any]) -> None:
    def reply(prompt: str, attempt: int) -> str:
        if "Rewrite an instruction" not in prompt:
            return "An answer to: " + prompt.split("\n\n")[-1]
        given = re.findall(r"\[Given Instruction\]\n(.*)", prompt)[0]
        return "[Rewritten Instruction]\n" + (given if given == "Stay." else f"{given} And more.")

    _, rows, _ = run(uses.evol(rounds=2), [dialogue("Add.", "x"), dialogue("Stay.", "x")], reply)
    (kept,) = [row for row in rows if not row["reasons"]]
    question = "Add. And more. And more."
    assert [m["content"].strip() for m in kept["messages"]] == [question, f"An answer to: {question}"]
    assert [row["reasons"] for row in rows if row["reasons"]] == [["not_evolved"]]


def test_seeds_are_scored_and_conversations_classified(run: Callable[..., Any], tmp_path: pathlib.Path) -> None:
    score = lambda prompt, attempt: f"Well.\nScore: {9 if 'gold' in prompt else 2}"
    seeds = [{"path": f"{word}.py", "text": word, "licence": "MIT"} for word in ("gold", "lead")]
    result, rows, _ = run(uses.score_seeds(), seeds, score)
    assert {row["path"]: row["reasons"] for row in rows} == {"gold.py": [], "lead.py": ["low_score (2)"]}
    gold = next(row for row in rows if row["path"] == "gold.py")
    assert (gold["text"], gold["licence"], json.loads(gold["provenance"])["score"]) == ("gold", "MIT", "9")
    assert {step["step"]: step["passed"] for step in result["steps"]} == {"score_seed": 2, "threshold": 1}
    shutil.rmtree(tmp_path / "out")
    classify = lambda prompt, attempt: "YES" if "print" in prompt else "NO"
    _, rows, _ = run(uses.code_related(), [dialogue("print?", "print()"), dialogue("Soup?", "Carrots.")], classify)
    assert {row["messages"][1]["content"]: row["reasons"] for row in rows} == {"print()": [], "Carrots.": ["not_code"]}


def test_weak_answers_are_written_anew(run: Callable[..., Any]) -> None:
    def reply(prompt: str, attempt: int) -> str:
        if "Judge the answer" not in prompt:
            return "A new one." if "Hard" not in prompt else "Hopeless."
        return f"Hm.\nScore: {8 if 'A good one.' in prompt or 'A new one.' in prompt else 3}"

    seeds = [dialogue("Easy?", "A good one."), dialogue("Weak?", "No."), dialogue("Hard?", "No.")]
    result, rows, _ = run(uses.regenerate(), seeds, reply)
    got = {row["messages"][0]["content"]: (row["messages"][-1]["content"], row["reasons"]) for row in rows}
    assert got.pop("Easy?") == ("A good one.", []) and got.pop("Weak?") == ("A new one.", [])
    assert [reasons for _, reasons in got.values()] == [["low_score (3)"]]
    assert {step["step"]: step["entered"] for step in result["steps"]} == {
        "judge": 3, "regenerate": 2, "judge_again": 2, "threshold": 3
    }  # fmt: skip


def test_package_questions_stand_on_the_documentation_of_the_installed_library(
    run: Callable[..., Any], write_documents: Callable[..., epath.Path], tmp_path: pathlib.Path
) -> None:
    uses_numpy = "import numpy as np\nfrom numpy.linalg import norm as n\nprint(n(np.cumsum([1, 2])), np.no_such())\n"
    rows = [{"path": "a.py", "text": uses_numpy}, {"path": "b.py", "text": "import os\nos.getcwd()\n"}]
    out = epath.Path(tmp_path / "package_seeds")
    out.mkdir(exist_ok=True)
    split = write_documents("split", rows)
    result = package_seeds(out, documents=split, packages=["numpy"], engine=LocalEngine(workers=1))
    assert (result["versions"], result["apis"]) == ({"numpy": np.__version__}, {"numpy": 2})
    assert result["files_kept"] == 1
    prompts = []

    def reply(prompt: str, attempt: int) -> str:
        prompts.append(prompt)
        good = "```python\nimport numpy\n\ndef f(x):\n    return numpy.cumsum(x)\n```\nIt uses cumsum."
        solution = good if len(prompts) > 1 else "```python\ndef f(x):\n    return x\n```"
        return f"[Problem Description]\nUse numpy to write f.\n[Solution]\n{solution}"

    result, rows, _ = run(uses.package(), out, reply)
    (row,) = rows
    assert row["messages"][1]["content"].endswith("It uses cumsum.") and row["reasons"] == []
    assert result["steps"][0]["rejected"] == {"solution_without_package": 1}
    names, doc = re.findall(r"Requirements\]\n(.*?)\n\n.*?Doc\]\n(.*)\n\nTake the snippet", prompts[0], re.DOTALL)[0]
    assert sorted(names.split()) == ["numpy.cumsum", "numpy.linalg.norm"]
    assert "numpy.cumsum(a, axis=None, dtype=None, out=None)\nReturn the cumulative sum" in doc
    with pytest.raises(ValueError, match="no_such_package is not installed"):
        package_seeds(out, documents=split, packages=["no_such_package"], engine=LocalEngine(workers=1))


def test_a_wrong_kind_of_seed_or_step_is_told(run: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="evol reads conversations"):
        run(uses.evol(), [{"path": "a.py", "text": "x"}], lambda *_: "")
    with pytest.raises(ValueError, match="no step 'textbok'"):
        run(uses.textbooks(), epath.Path("."), lambda *_: "", requests={"textbok": {}})
