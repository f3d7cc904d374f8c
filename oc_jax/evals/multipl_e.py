"""MultiPL-E (arXiv 2208.08227): HumanEval translated into other languages. Paper Table 8; tests run in the program.

A base model continues the prompt up to the data's own stop strings. A chat model is asked for the whole function in a
code block, as Qwen's and DeepSeek's evaluations do; where the tests begin with the brace that closes the function, its
body is put behind the prompt and what else the block defines in front of the tests.
"""

from __future__ import annotations

import re

from etils import epath

from oc_jax.evals import extraction
from oc_jax.evals.benchmark import Benchmark, Problem, data_files, read_rows
from oc_jax.evals.execution import Limits, Source
from oc_jax.evals.languages import LANGUAGES

NAMES = {"cpp": "C++", "cs": "C#", "d": "D", "go": "Go", "java": "Java", "js": "JavaScript", "lua": "Lua", "php": "PHP",
         "pl": "Perl", "r": "R", "rb": "Ruby", "rs": "Rust", "scala": "Scala", "sh": "Bash", "ts": "TypeScript",
         "jl": "Julia", "rkt": "Racket", "swift": "Swift"}  # fmt: skip
REQUEST = (
    "Please continue to complete the function. You are not allowed to modify the given code and do the completion "
    "only. Please return all completed function in a codeblock. Here is the given code to do completion:\n"
    "```{name}\n{prompt}\n```"
)
# In C#, asserts do nothing unless a listener is set up, and null.Equals(null) is no comparison.
_CS_ASSERT = re.compile(r"Debug\.Assert\((.*)\.Equals\((.*)\)\);$", re.MULTILINE)
_CS_CHECK = "\nstatic class Tests { public static void Assert(bool ok) { if (!ok) System.Environment.Exit(1); } }\n"
# The tests call these; a program that replaces them must not get far.
_FREEZE = "Object.freeze(require('node:assert'));"
# A name that is defined or called, in a line that is no comment.
_NAME = re.compile(r"^(?!\s*(?://|#|--|\*|/\*|;)).*?\b(\w+)\b\s*(?:<-\s*function\s*)?[({].*$", re.M)
_OPENING = re.compile(r"^(?:<\?php|package .*|import \((?:.|\n)*?^\)|import \".*\")$", re.M)
_MAIN = re.compile(
    r"^\s*(?:int main|fn main|func main|(?:public )?static .*Main|public static void main|def main)\b", re.M
)


def load(path: epath.Path | None) -> list[Problem]:
    """One language's file, or a directory of them, whose tasks are called language/name."""
    files = data_files(path, "MultiPL-E's humaneval-LANGUAGE.jsonl")
    rows = [row for file in files for row in read_rows(file) if "tests" in row and "-bu" not in file.name]
    prefix = "{language}/" if len({row["language"] for row in rows}) > 1 else ""
    problems = []
    for row in rows:
        language = row["language"]
        request = REQUEST.format(name=NAMES.get(str(language), str(language)).lower(), prompt=row["prompt"].strip())
        task_id = prefix.format(language=language) + row["name"]
        problems.append(Problem(task_id, row["prompt"].strip(), request, row, language))
    return problems


def extract(problem: Problem, completion: str) -> str:
    """The program up to its tests."""
    name = (re.findall(r"^sub (\w+)", problem.prompt, re.M) or _NAME.findall(problem.prompt.split("\n")[-1]))[0]
    block = next((b for b in extraction.fenced(completion) if name in b), None)
    if block is None:
        return problem.prompt + "\n" + extraction.truncate(completion, problem.row["stop_tokens"])
    signature = next((m for m in _NAME.finditer(block) if m[1] == name), None)
    if signature is None:
        return problem.prompt + "\n" + block
    if not problem.row["tests"].lstrip().startswith("}"):
        return _preamble(problem) + _OPENING.sub("", block)
    begin = block.find("{", signature.start())
    end = _closing(block, begin)
    helpers = _helpers(block[: signature.start()], block[end + 1 :])
    code = f"{problem.prompt}\n{block[begin + 1 : end]}\n}}\n{helpers}"
    return code.rstrip().removesuffix("}")  # the tests bring the last one


def _preamble(problem: Problem) -> str:
    """The prompt's includes and the like, without the comment that asks."""
    given = r"\s*(#\s*include|import |using |use |package |<\?php|#!|local \w+ = require|\(|\"|\))"
    return "".join(line + "\n" for line in problem.prompt.split("\n") if re.match(given, line))


def _closing(text: str, begin: int) -> int:
    """Where the brace at `begin` is closed; the end of `text` if it isn't. Braces in strings are rare, and count."""
    depth = 0
    for at in range(begin, len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return at
    return len(text)


def _helpers(before: str, after: str) -> str:
    """What a block defines around the function: its class's other methods, functions in front; no main."""
    header = re.compile(r"^\s*(?:#.*|//.*|import .*|using .*|use .*|(?:public )?(?:class|object) \w+.*|<\?php)$", re.M)
    after = _MAIN.split(after)[0].rstrip()
    while after.count("}") > after.count("{"):  # of the class around
        after = after[: after.rfind("}")]
    after = after[: after.rfind("}") + 1]
    before = header.sub("", before).strip()
    return "\n".join(part for part in (before if "{" in before else "", after.strip()) if part)


def program(problem: Problem, solution: str) -> Source:
    language, tests = problem.row["language"], problem.row["tests"]
    if language == "cs":
        tests = _CS_ASSERT.sub(r"Debug.Assert(object.Equals(\1, \2));", tests).replace("Debug.Assert(", "Tests.Assert(")
    finished = LANGUAGES[language].finished(tests) if language in LANGUAGES else tests
    text = f"{solution}\n{finished}"
    if language == "cs":
        text += _CS_CHECK
    if language in ("js", "ts"):
        text = f"{'declare var require: any; ' if language == 'ts' else ''}{_FREEZE} {text}"
    return Source(language, text)


MULTIPL_E = Benchmark(
    "multipl_e",
    load,
    extract,
    program,
    stops=lambda problem: problem.row["stop_tokens"],
    limits=Limits(cpu_seconds=15),
)
