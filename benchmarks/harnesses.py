#!/usr/bin/env python
"""lm-evaluation-harness and EvalPlus, unchanged, against --mode=serve, and our own scores of the same checkpoint.

    python benchmarks/harnesses.py CHECKPOINT MODEL HUMANEVAL_PLUS HUMANEVAL_PLUS_TESTS [--peers VENV/bin]

CHECKPOINT is a train stage imported from the Hugging Face directory MODEL (the harness needs its tokenizer), the others
are HumanEvalPlus.jsonl.gz and HumanEvalPlus-OriginFmt.jsonl.gz; --peers is the bin directory of an environment with
`pip install 'lm_eval[api]==0.4.13' evalplus==0.3.1`. lm-evaluation-harness runs a local task file: which of four
beginnings of solutions follows a HumanEval prompt (log-probabilities), and sixteen lines of greedy text, which have to
be those of our engine. EvalPlus asks for HumanEval+ solutions in chat form, and judges them; so do we.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "benchmarks"))

import serving  # noqa: E402

# Short ones, some of which a model of 135 M parameters solves.
EASY = (2, 15, 22, 23, 28, 34, 35, 42, 45, 53)
CONTINUATION = 100  # characters
TASKS = {
    "choose": "output_type: multiple_choice\ndoc_to_text: '{{prompt}}'\ndoc_to_choice: '{{choices}}'\n"
    "doc_to_target: '{{label}}'\ntarget_delimiter: ''\nmetric_list:\n  - metric: acc\n",
    "write": "output_type: generate_until\ndoc_to_text: '{{prompt}}'\ndoc_to_target: '{{ours}}'\ntarget_delimiter: ''\n"
    "generation_kwargs:\n  until: ['\\n\\n\\n']\n  max_gen_toks: 48\n  temperature: 0\n  do_sample: false\n"
    "metric_list:\n  - metric: exact_match\n",
}


def documents(engine, problems: list, count: int) -> list[dict]:
    chosen = problems[:count]
    prompts = [[*engine.tokenizer.prefix, *engine.tokenizer.encode(p.prompt)] for p in chosen]
    written = engine.generate(prompts, max_new_tokens=48, stop=["\n\n\n"])
    rows = []
    for i, (problem, ours) in enumerate(zip(chosen, written, strict=True)):
        others = [chosen[(i + k) % count].row["canonical_solution"][:CONTINUATION] for k in range(4)]
        choices = others[-(i % 4) :] + others[: -(i % 4)] if i % 4 else others
        rows.append(
            {"prompt": problem.prompt, "choices": choices, "label": choices.index(others[0]), "ours": ours.text}
        )
    return rows


def our_choices(engine, rows: list[dict]) -> list[list[float]]:
    """Of each choice the log-probability behind its prompt."""
    encode = lambda text: [*engine.tokenizer.prefix, *engine.tokenizer.encode(text)]
    # The harness counts white space at the end of a prompt as the beginning of what follows.
    given = [len(encode(row["prompt"].rstrip())) for row in rows for _ in row["choices"]]
    whole = [encode(row["prompt"] + choice) for row in rows for choice in row["choices"]]
    sums = [float(scores[n - 1 :].sum()) for n, scores in zip(given, engine.score(whole), strict=True)]
    return [sums[4 * i : 4 * i + 4] for i in range(len(rows))]


def lm_eval(
    peers: pathlib.Path, port: int, model: pathlib.Path, engine, rows: list[dict], scratch: pathlib.Path
) -> None:
    (scratch / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in TASKS.items():
        data = f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {scratch}/rows.jsonl\ntest_split: test\n"
        (scratch / f"{name}.yaml").write_text(f"task: {name}\n{data}{text}")
    arguments = f"model=model,base_url=http://127.0.0.1:{port}/v1/completions,num_concurrent=4,tokenizer={model}"
    command = [peers / "lm_eval", "--model", "local-completions", "--model_args", arguments, "--tasks", "choose,write"]
    command += ["--include_path", scratch, "--output_path", scratch / "lm_eval", "--log_samples"]
    offline = {name: "1" for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")}
    with (scratch / "lm_eval.log").open("w") as log:
        environment = {**os.environ, **offline, "HF_HOME": str(scratch / "hf")}
        if subprocess.run(command, env=environment, stdout=log, stderr=log).returncode:
            sys.exit((scratch / "lm_eval.log").read_text()[-3000:])
    (found,) = (scratch / "lm_eval").rglob("results_*.json")
    results = json.loads(found.read_text())["results"]
    ours = our_choices(engine, rows)
    right = sum(max(range(4), key=values.__getitem__) == row["label"] for values, row in zip(ours, rows, strict=True))
    (samples,) = (scratch / "lm_eval").rglob("samples_choose_*.jsonl")
    theirs = {s["doc_id"]: s["filtered_resps"] for s in map(json.loads, samples.open())}
    apart = max(abs(float(theirs[i][k][0]) - ours[i][k]) for i in range(len(rows)) for k in range(4))
    print(f"lm_eval choose: accuracy {results['choose']['acc,none']:.4f}, ours {right / len(rows):.4f} of {len(rows)};")
    print(f"  {4 * len(rows)} log-probabilities differ by at most {apart:.1e}")
    print(
        f"lm_eval write: {results['write']['exact_match,none']:.4f} of {len(rows)} texts are the engine's", flush=True
    )


def evalplus(peers: pathlib.Path, port: int, plus: pathlib.Path, tests: pathlib.Path, scratch: pathlib.Path) -> None:
    ids = [f"HumanEval/{i}" for i in EASY]
    rows = [line for line in gzip.open(plus, "rt") if json.loads(line)["task_id"] in ids]
    (scratch / "plus.jsonl").write_text("".join(rows))
    command = [peers / "evalplus.evaluate", "--model", "model", "--dataset", "humaneval", "--backend", "openai"]
    command += [
        "--base-url",
        f"http://127.0.0.1:{port}/v1",
        "--greedy",
        "--root",
        scratch / "evalplus",
        "--parallel",
        "2",
    ]
    variables = {"HUMANEVAL_OVERRIDE_PATH": str(scratch / "plus.jsonl"), "OPENAI_API_KEY": "none"}
    with (scratch / "evalplus.log").open("w") as log:
        environment = {**os.environ, **variables, "XDG_CACHE_HOME": str(scratch / "cache")}
        if subprocess.run(command, env=environment, stdout=log, stderr=log).returncode:
            sys.exit((scratch / "evalplus.log").read_text()[-3000:])
    (found,) = (scratch / "evalplus").rglob("*eval_results.json")
    theirs = {k: v[0] for k, v in json.loads(found.read_text())["eval"].items()}
    samples = next(p for p in (scratch / "evalplus").rglob("*.jsonl") if not p.name.endswith(".raw.jsonl"))
    for name, kinds in (("humaneval", ["base"]), ("humaneval_plus", ["base", "plus"])):
        output = scratch / f"{name}.jsonl"
        command = [sys.executable, "run.py", "--mode=score", f"--benchmark={name}", f"--samples={samples}"]
        command += [
            f"--output={output}",
            "--no_ground_truth",
            *([f"--data={tests}"] if name == "humaneval_plus" else []),
        ]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ours = {row["task_id"]: row["passed"] for row in map(json.loads, output.open())}
        passed = {k: all(row[f"{kind}_status"] == "pass" for kind in kinds) for k, row in theirs.items()}
        same, counts = sum(ours[k] == v for k, v in passed.items()), (sum(passed.values()), sum(ours.values()))
        print(f"EvalPlus {name}: it passes {counts[0]} of {len(passed)}, we {counts[1]}; {same} verdicts are the same")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=pathlib.Path, nargs="*", metavar="PATH")
    parser.add_argument("--peers", type=pathlib.Path, default=pathlib.Path(sys.executable).parent)
    parser.add_argument("--documents", type=int, default=16)
    args = parser.parse_args()
    if len(args.paths) != 4 or not all(path.exists() for path in args.paths):
        sys.exit("skipped: give the checkpoint, the model and both files of HumanEval+ (see --help)")
    if missing := [name for name in ("lm_eval", "evalplus.evaluate") if not (args.peers / name).exists()]:
        sys.exit(f"skipped: {args.peers} has no {', '.join(missing)}: pip install 'lm_eval[api]' evalplus")
    checkpoint, model, plus, tests = (path.resolve() for path in args.paths)
    from etils import epath

    from oc_jax.decode import Engine
    from oc_jax.evals import benchmark
    from oc_jax.evals.registry import REGISTRY

    engine = Engine.load(epath.Path(checkpoint), epath.Path(checkpoint.parent / "tokenizer"), slots=4)
    rows = documents(engine, benchmark.load(REGISTRY["humaneval"], None), args.documents)
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        server = serving.Server(checkpoint, folder / "log", slots=4)
        try:
            lm_eval(args.peers, server.port, model, engine, rows, folder)
            evalplus(args.peers, server.port, plus, tests, folder)
        finally:
            server.process.kill()


if __name__ == "__main__":
    main()
