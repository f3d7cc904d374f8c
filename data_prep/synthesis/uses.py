"""The pipelines: what a teacher is used for (arXiv 2411.04905, sections 2.2 and 4.1).

    score_seeds       documents → the same, those worth building on kept
    educational       documents → conversations: a task after a snippet, its analysis, solution and ten tests
    package           documents of `package_seeds` → conversations: questions about the current API of a library
    diverse           documents → conversations: cleaned text → task specification → question → answer → polish
    evol              conversations → conversations: a harder instruction and its answer
    textbooks         documents → documents: a chapter on the ideas behind a piece of code
    snippets          documents → documents: a self-contained function with tests, in several languages
    code_related      conversations → the same, those about code kept
    regenerate        conversations → the same, weak answers written anew

Each is bound as synthesis.pipeline = @educational(). The paper prints the purposes of three prompts and none of the
others; all texts in prompts/ are ours.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from typing import Any

import gin

from data_prep.sampling import draw
from data_prep.synthesis import grammar
from data_prep.synthesis.grammar import Rejected
from data_prep.synthesis.pipeline import Ask, Fields, Pipeline
from data_prep.synthesis.programs import RUNNABLE

Weights = Mapping[str, float]
LANGUAGES: Weights = {"python": 4.0, "cpp": 1.0, "javascript": 1.0, "lua": 0.5, "perl": 0.5, "ruby": 0.5, "shell": 0.5}
DIFFICULTIES: Weights = {"beginner": 1.0, "intermediate": 2.0, "advanced": 1.0}
TASKS: Weights = {"write a function": 3.0, "fix a bug": 1.0, "explain code": 1.0, "design and discuss": 1.0}
TESTED_TASKS = ("write a function", "fix a bug")
EVOLUTIONS = (
    "Add one more constraint or requirement.",
    "Replace a common requirement by a rarer and more specific one.",
    "Make the problem need more steps of reasoning.",
    "Give a piece of erroneous code as a misleading starting point.",
    "Ask for a better time or space complexity.",
)


@gin.configurable
def score_seeds(*, min_score: int = 7) -> Pipeline:
    """Keeps documents that the teacher gives at least `min_score` of 10. Reason: low_score (<score>)."""
    return Pipeline("score_seeds", "documents", "documents", (_scored("score_seed"), _at_least(min_score)))


@gin.configurable
def educational(*, asserts: int = 10) -> Pipeline:
    """Tasks with exactly as many tests as `asserts` says; the paper asks for ten. Python only, as there."""

    def parse(text: str, fields: Fields) -> dict[str, str]:
        task, analysis, solution, test = grammar.sections(text, ("Task", "Analysis", "Solution", "Test"))
        code, tests = _code(solution, "python", "[Solution]"), _code(test, "python", "[Test]")
        _count_asserts(tests, asserts)
        return {"question": task, "analysis": analysis, "solution": code, "test": tests, "language": "python"}

    def finish(fields: Fields, seed: Mapping[str, Any]) -> dict[str, Any]:
        answer = f"{fields['analysis']}\n\n```python\n{fields['solution']}```"
        return _dialogue(fields["question"], answer, "python")

    ask = Ask("educational", parse, tested=True, max_tokens=3072)
    return Pipeline("educational", "documents", "conversations", (_given(asserts=str(asserts)), ask), finish)


@gin.configurable
def package() -> Pipeline:
    """Questions that need the functions of a library that the seed uses, answered after its own documentation."""

    def parse(text: str, fields: Fields) -> dict[str, str]:
        problem, solution = grammar.sections(text, ("Problem Description", "Solution"))
        tree = grammar.python(grammar.code_in(solution, RUNNABLE["python"].fences, "[Solution]"), "[Solution]")
        name = fields["package"]
        if name.lower() not in problem.lower():
            raise Rejected("problem_without_package")
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        if name not in {module.split(".")[0] for module in imported}:
            raise Rejected("solution_without_package")
        if not any(isinstance(node, ast.FunctionDef) for node in tree.body):
            raise Rejected("solution_without_function")
        return {"question": problem, "polished": solution}

    steps = (Ask("package", parse, max_tokens=3072),)
    return Pipeline("package", "documents", "conversations", steps, _answered("python"))


@gin.configurable
def diverse(
    *, languages: Weights = LANGUAGES, difficulties: Weights = DIFFICULTIES, tasks: Weights = TASKS
) -> Pipeline:
    """Questions of every kind about the ideas of a text; weights say how often each part of the task is drawn."""

    def specify(fields: Fields, seed: str) -> dict[str, str]:
        language = _pick(languages, "language", seed)
        return _language(language) | {
            "difficulty": _pick(difficulties, "difficulty", seed),
            "task": _pick(tasks, "task", seed),
        }

    def clean(text: str, fields: Fields) -> dict[str, str]:
        if text == "NOTHING":
            raise Rejected("no_useful_text")
        (useful,) = grammar.sections(text, ("Useful Text",))
        return {"useful": useful}

    def question(text: str, fields: Fields) -> dict[str, str]:
        return {"question": grammar.sections(text, ("Created Question",))[0]}

    def tested(text: str, fields: Fields) -> dict[str, str]:
        answer, test = grammar.sections(text, ("Answer", "Test"))
        return _solved(answer, fields) | {"test": _code(test, fields["language"], "[Test]")}

    def polish(text: str, fields: Fields) -> dict[str, str]:
        (refined,) = grammar.sections(text, ("Refined Answer",))
        return _solved(refined, fields) if is_tested(fields) else _text(refined)

    def is_tested(fields: Fields) -> bool:
        return fields["task"] in TESTED_TASKS and fields["language"] in RUNNABLE

    steps = (
        Ask("clean", clean),
        specify,
        Ask("question", question),
        Ask("answer_with_tests", tested, tested=True, max_tokens=3072, when=is_tested),
        Ask("answer", lambda text, fields: _text(text), max_tokens=3072, when=lambda fields: not is_tested(fields)),
        Ask("polish_with_tests", polish, "polish", tested=True, max_tokens=3072, when=is_tested),
        Ask("polish", polish, max_tokens=3072, when=lambda fields: not is_tested(fields)),
    )
    return Pipeline("diverse", "documents", "conversations", steps, _answered())


@gin.configurable
def evol(*, rounds: int = 1) -> Pipeline:
    """Instructions made harder, `rounds` times over, and answered. Reason: not_evolved."""

    def choose(number: int) -> Callable[[Fields, str], dict[str, str]]:
        def choose_evolution(fields: Fields, seed: str) -> dict[str, str]:
            return {"method": _pick(dict.fromkeys(EVOLUTIONS, 1.0), f"evolution {number}", seed)}

        return choose_evolution

    def evolve(text: str, fields: Fields) -> dict[str, str]:
        (instruction,) = grammar.sections(text, ("Rewritten Instruction",))
        if instruction.split() == fields["instruction"].split():
            raise Rejected("not_evolved")
        return {"instruction": instruction, "question": instruction}

    grown = [step for i in range(rounds) for step in (choose(i), Ask(f"evolve_{i + 1}", evolve, "evolve"))]
    answer = Ask("answer", lambda text, fields: _text(text), max_tokens=3072)
    return Pipeline("evol", "conversations", "conversations", (*grown, answer), _answered())


@gin.configurable
def textbooks(*, min_sections: int = 3) -> Pipeline:
    """Chapters in Markdown: a title, at least `min_sections` headings below it, and code."""

    def parse(text: str, fields: Fields) -> dict[str, str]:
        title, headings = re.match(r"# (\S.*)\n", text), re.findall(r"^## \S", text, re.MULTILINE)
        if not title or len(headings) < min_sections:
            raise Rejected(f"malformed: {'no title' if not title else f'{len(headings)} sections'}")
        if not grammar.blocks(text):
            raise Rejected("malformed: no code")
        return {"title": title[1].strip(), "chapter": text + "\n"}

    finish = lambda fields, seed: {"text": fields["chapter"], "language": "markdown", "doc_type": "text"}
    return Pipeline("textbooks", "documents", "documents", (Ask("textbook", parse, max_tokens=4096),), finish)


@gin.configurable
def snippets(*, languages: Weights = LANGUAGES, per_seed: int = 1) -> Pipeline:
    """Self-contained functions and their tests, which pass. `languages` weighs what they are written in."""
    if unknown := sorted(set(languages) - set(RUNNABLE)):
        raise ValueError(f"snippets.languages: tests in {unknown[0]} cannot be run; known are {', '.join(RUNNABLE)}")

    def choose(fields: Fields, seed: str) -> dict[str, str]:
        return _language(_pick(languages, "language", seed))

    def parse(text: str, fields: Fields) -> dict[str, str]:
        solution, test = grammar.sections(text, ("Solution", "Test"))
        language = fields["language"]
        return {"solution": _code(solution, language, "[Solution]"), "test": _code(test, language, "[Test]")}

    def finish(fields: Fields, seed: Mapping[str, Any]) -> dict[str, Any]:
        text = f"{fields['solution'].rstrip()}\n\n\n{fields['test']}"
        return {"text": text, "language": fields["language"], "doc_type": "code"}

    ask = Ask("snippet", parse, samples=per_seed, tested=True)
    return Pipeline("snippets", "documents", "documents", (choose, ask), finish)


@gin.configurable
def code_related() -> Pipeline:
    """Keeps conversations that the teacher calls code-related. Reason: not_code."""

    def parse(text: str, fields: Fields) -> dict[str, str]:
        return {"related": str(grammar.yes_or_no(text))}

    def keep(fields: Fields, seed: str) -> dict[str, str]:
        if fields["related"] != "True":
            raise Rejected("not_code")
        return {}

    ask = Ask("classify", parse, max_tokens=8, temperature=0.2, cut=True)
    return Pipeline("code_related", "conversations", "conversations", (ask, keep))


@gin.configurable
def regenerate(*, min_score: int = 7) -> Pipeline:
    """Answers below `min_score` of 10 are written anew and judged again. Reason: low_score (<score>)."""

    def weak(fields: Fields) -> bool:
        return int(fields["score"]) < min_score

    def again(text: str, fields: Fields) -> dict[str, str]:
        return {"response": text, "score": "0"} if text else _text(text)

    def finish(fields: Fields, seed: Mapping[str, Any]) -> dict[str, Any]:
        *before, _ = seed["messages"]
        return {"messages": [*before, {"role": "assistant", "content": fields["response"]}]}

    steps = (
        _scored("judge"),
        Ask("regenerate", again, "answer", max_tokens=3072, when=weak),
        _scored("judge_again", "judge", when=weak),
        _at_least(min_score),
    )
    return Pipeline("regenerate", "conversations", "conversations", steps, finish)


def _scored(name: str, template: str = "", when: Callable[[Fields], bool] = lambda fields: True) -> Ask:
    parse = lambda text, fields: {"score": str(grammar.score(text))}
    return Ask(name, parse, template, max_tokens=512, temperature=0.2, when=when)


def _at_least(min_score: int) -> Callable[[Fields, str], dict[str, str]]:
    def threshold(fields: Fields, seed: str) -> dict[str, str]:
        if int(fields["score"]) < min_score:
            raise Rejected(f"low_score ({fields['score']})")
        return {}

    return threshold


def _given(**fields: str) -> Callable[[Fields, str], dict[str, str]]:
    def given(_: Fields, seed: str) -> dict[str, str]:
        return fields

    return given


def _pick(weights: Weights, what: str, seed: str) -> str:
    """One of the keys, as often as its weight says; the same for a seed in every run."""
    point = draw(what, seed) * sum(weights.values())
    for name, weight in weights.items():
        point -= weight
        if point < 0:
            return name
    return name


def _language(language: str) -> dict[str, str]:
    known = RUNNABLE.get(language)
    title, tests, fence = (known.title, known.tests, known.fences[0]) if known else (language, "", language)
    return {"language": language, "title_of_language": title, "form_of_tests": tests, "fence": fence}


def _code(text: str, language: str, where: str) -> str:
    code = grammar.only_block(text, RUNNABLE[language].fences, where)
    if language == "python":
        grammar.python(code, where)
    return code


def _count_asserts(tests: str, wanted: int) -> None:
    found = sum(isinstance(node, ast.Assert) for node in ast.walk(grammar.python(tests, "[Test]")))
    if found != wanted:
        raise Rejected(f"wrong_number_of_asserts ({found})")


def _solved(answer: str, fields: Fields) -> dict[str, str]:
    return {"polished": answer, "solution": grammar.code_in(answer, RUNNABLE[fields["language"]].fences, "the answer")}


def _text(text: str) -> dict[str, str]:
    if not text:
        raise Rejected("malformed: empty")
    grammar.blocks(text)
    return {"polished": text, "response": text}


def _dialogue(question: str, answer: str, language: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "language": language}


def _answered(language: str = "unknown") -> Callable[[Fields, Mapping[str, Any]], dict[str, Any]]:
    return lambda fields, seed: _dialogue(fields["question"], fields["polished"], fields.get("language", language))
