"""How many spiked benchmark solutions decontamination finds, and what it takes of clean code, rule by rule.

  python benchmarks/decontamination.py [--data EVAL_DATA] [--documents WORKDIR/sample]

Solutions of HumanEval and MBPP stand as they are, reformatted (through `ast.unparse`), with comments on every line, and
with all names changed. LeetCode publishes statements and no solutions: its statements stand as they are, and solutions
are what people post, the class that it wants with a body of their own. Clean are the documents of a recipe's stage, or
the standard library; without data only HumanEval is measured, from its package.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import pathlib
import re
import sys
import sysconfig
import time

from etils import epath

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from data_prep import benchmark_items  # noqa: E402
from data_prep import documents as docs  # noqa: E402
from data_prep.decontaminate import build_index, reasons  # noqa: E402

SETTINGS = {"1 gram of 10 (paper)": (10, 1, 1), "3 grams, 5 words (default)": (10, 5, 3)}
BENCHMARKS = {
    "MBPP": "mbpp/mbpp.jsonl",
    "LeetCode": "leetcode/20240121-Jul.jsonl",
    "BigCodeBench": "bigcodebench/BigCodeBench-hf.jsonl.gz",
}


def recommented(code: str) -> str:
    lines = ast.unparse(ast.parse(code)).split("\n")
    return "\n".join(
        f"{re.match(' *', line)[0]}# line number {i} of what is done here\n{line}  # that was line {i}"  # type: ignore[index]
        for i, line in enumerate(lines)
    )


def renamed(code: str) -> str:
    tree = ast.parse(code)
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        for field in {ast.Name: "id", ast.arg: "arg", ast.FunctionDef: "name"}.keys() & {type(node)}:
            attribute = {ast.Name: "id", ast.arg: "arg", ast.FunctionDef: "name"}[field]
            old = getattr(node, attribute)
            if not hasattr(builtins, old):
                setattr(node, attribute, names.setdefault(old, f"v{len(names)}"))
    return ast.unparse(tree)


FORMS = {
    "verbatim": lambda code: code,
    "reformatted": lambda code: ast.unparse(ast.parse(code)),
    "recommented": recommented,
    "renamed": renamed,
}


def posted(item: benchmark_items.Item) -> str:
    """A solution of a LeetCode problem: nothing but the names of its function and parameters is from the statement."""
    name, parameters = item.signatures[0]
    return (
        f"class Solution(object):\n    def {name}({', '.join(parameters)}):\n        seen = {{}}\n        return seen\n"
    )


def clean_texts(documents: epath.Path | None) -> list[str]:
    if documents is None:
        files = sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py"))
        return [file.read_text(errors="replace") for file in files]
    return [text for table in docs.read(documents, ["text"]) for text in table["text"].to_pylist()]


def spikes_of(name: str, items: list[benchmark_items.Item]) -> dict[str, list[str]]:
    """Form → contaminated texts."""
    whole = [(i.texts["prompt"] if name == "HumanEval" else "") + i.texts["solution"] for i in items]
    if name in ("HumanEval", "MBPP"):
        return {form: list(map(change, whole)) for form, change in FORMS.items()}
    if name == "LeetCode":
        return {"statements": [i.texts["prompt"] for i in items], "posted solutions": list(map(posted, items))}
    return {"verbatim": [text for text in whole if text]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, help="directory with mbpp/, leetcode/, bigcodebench/")
    parser.add_argument("--documents", type=epath.Path, help="documents directory of clean code")
    flags = parser.parse_args()
    clean = clean_texts(flags.documents)
    print(f"{len(clean):,} clean documents, {sum(map(len, clean)) / 1e6:.0f} MB")
    found = {"HumanEval": "humaneval"}
    for name, file in BENCHMARKS.items():
        if flags.data and (flags.data / file).exists():
            found[name] = str(flags.data / file)
        else:
            print(f"{name} skipped: no {file} (give --data)")
    for name, file in found.items():
        items = list(benchmark_items.read(file))
        spikes = spikes_of(name, items)
        for label, (ngram, min_words, min_grams) in SETTINGS.items():
            index = build_index(items, ngram, min_words, min_grams, "signature")
            start = time.process_time()
            lost = sum(bool(reasons(text, index)) for text in clean)
            rate = len(clean) / (time.process_time() - start)
            hits = [
                f"{form} {sum(bool(reasons(t, index)) for t in texts)}/{len(texts)}" for form, texts in spikes.items()
            ]
            print(
                f"{name:<13}{label:<28}clean lost {lost:>4} ({100 * lost / len(clean):.3f} %)  {rate:,.0f} documents/s"
            )
            print(f"{'':<13}{', '.join(hits)}", flush=True)


if __name__ == "__main__":
    main()
