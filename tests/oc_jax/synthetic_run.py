"""A made-up workdir in the formats that the stages write, for the tests of what reads one."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from data_prep import funnel

HOSTILE = (
    '</script><script>document.title="owned"</script><img src=x onerror=alert(1)> \x00\x1b[31m \u202e "quoted" & \'q\''
)
LANGUAGES = {
    "Python": 900,
    "C": 320,
    "JavaScript": 260,
    "Markdown": 220,
    "C++": 140,
    "Java": 120,
    "reStructuredText": 90,
    "JSON": 80,
    "HTML": 60,
    "Shell": 40,
    "Cython": 36,
    "YAML": 30,
    "Go": 22,
    "TOML": 18,
    "Fortran": 9,
    "CSS": 5,
}
REASONS = {
    "preprocess": {"too_large": 12, "not_utf8": 31, "excluded_type": 160},
    "exact_dedup": {"exact_duplicate: 5d4140": 210},
    "fuzzy_dedup": {"fuzzy_duplicate: 91a2 (jaccard 0.83)": 140},
    "transform": {},
    "quality_filter": {"frac_chars_comments > 0.8 (0.93)": 25, "python_ast_invalid": 14, "num_lines < 2 (1)": 60},
    "sample": {"downsampled": 40},
    "decontaminate": {"humaneval_10gram: HumanEval/12": 3},
    "split": {},
}


RESULTS = {
    "fuzzy_dedup": {"clusters": 17, "threshold": 0.9756, "s_curve": {"0.70": 0.0, "0.98": 0.711}},
    "quality_filter": {"rules": {reason: {"files": 1, "sole": 1} for reason in REASONS["quality_filter"]}},
}


def write_json(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def done(directory: Path, order: int, seconds: float, params: dict, result: dict) -> None:
    write_json(
        directory / "DONE.json",
        {
            "stage": directory.name,
            "params": params,
            "inputs": {"documents: split": "ab" * 32},
            "outputs": {"digest": "cd" * 32, "files": 3, "bytes": 1234},
            "result": result,
            "seconds": seconds,
            "peak_memory_gb": round(0.4 + order / 20, 2),
            "code_version": "0123456789ab+changes",
            "started": 1_790_000_000 + 100 * order,
            "finished": 1_790_000_000 + 100 * order + seconds,
        },
    )


def write_documents(
    directory: Path, kept: dict[str, int], reasons: dict[str, int], rng: random.Random
) -> dict[str, int]:
    """Parts and funnel of one stage; returns how many files of each language are kept."""
    names = [language for language, n in kept.items() for _ in range(n)]
    rng.shuffle(names)
    drops = [reason for reason, n in reasons.items() for _ in range(n)]
    rows = []
    for i, language in enumerate(names):
        why = [drops[i]] if i < len(drops) else []
        body = (
            None
            if why == ["not_utf8"]
            else f"# {language} {i}\n" + HOSTILE + "\nimport os\n\ndef f(x):\n\treturn x\n" * 4
        )
        rows.append(
            {
                "id": f"{rng.getrandbits(256):064x}",
                "repo": "pkg<b>",
                "path": f"src/{i} & {language}.py",
                "text": body,
                "language": language,
                "size": 900 * len(language) + 2000,
                "reasons": why,
            }
        )
    directory.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), directory / "part-00000.parquet", row_group_size=256)
    funnel.write(epath.Path(directory))
    by_language = json.loads((directory / "funnel.json").read_text())["by_language"]
    return {language: entry["kept_files"] for language, entry in by_language.items()}


TRAINING = {
    "pretrain": (700, 3e-4, 9.0, 1.9),
    "anneal": (120, 3e-4, 1.9, 1.6),
    "sft1": (60, 2e-5, 2.4, 1.5),
    "sft2": (40, 5e-5, 1.5, 1.2),
}


def write_training(workdir: Path, order: int, rng: random.Random) -> None:
    first = 0
    for i, (name, (steps, peak, high, low)) in enumerate(TRAINING.items()):
        rows = []
        for step in range(1, steps + 1, 1 if name.startswith("sft") else 2):
            progress = step / steps
            rate = peak * min(1, step / 60) if name == "pretrain" else peak * (1 / 30) ** progress
            loss = low + (high - low) * math.exp(-6 * progress) + rng.gauss(0, 0.04)
            rows.append(
                {
                    "step": first + step,
                    "stage": name,
                    "loss": loss,
                    "learning_rate": rate,
                    "grad_norm": 1.0,
                    "tokens": 16384,
                    "tokens_per_second": None if step == 1 else 21_000 + rng.gauss(0, 600),
                    "mfu": None,
                    "host_rss_gb": 1.2,
                    "time": 1_790_000_000 + 1000 * i + step,
                }
            )
        write_json(workdir / name / "config.gin", "")
        log = "".join(json.dumps(row) + "\n" for row in rows)
        (workdir / name / "metrics.jsonl").write_text(log + '{"step": 99')  # the last line cut by a kill
        mixture = {"data/corpus": 0.84, "data/algorithmic": 0.12, "data/functions": 0.04}
        mixture = {"data/instructions": 1.0} if name.startswith("sft") else mixture if i else {"data/corpus": 1.0}
        sources = {
            path.rpartition("/")[2]: {
                "wanted_share": share,
                "wanted_tokens": round(16384 * steps * share),
                "reached_tokens": round(16384 * steps * share) - 256,
                "available_tokens": 123_456,
                "epochs": 1.37,
            }
            for path, share in mixture.items()
        }
        write_json(workdir / name / "mixture.json", {"tokens": 16384 * steps, "sources": sources})
        params = {f"{name}/train.mixture": mixture}
        result = {
            "parameters": 13_400_000,
            "epochs": {"corpus": 1.3, "algorithmic": 2.1, "functions": 0.8},
            "loss": low,
        }
        done(workdir / name, order + i, 40 + steps / 3, params, result)
        first += steps if name == "pretrain" else 0


def humaneval_numbers(rng: random.Random, chat: bool) -> dict:
    statuses = [("ok", ""), ("error", "AssertionError at assert candidate(1) == 2"), ("timeout", "CPU limit of 5 s")]
    completion = "    return sorted(x)[:2]  # " + HOSTILE + "\n"
    problems = []
    for i in range(164):
        status, detail = rng.choices(statuses, (1, 12, 2))[0]
        verdict = {"task_id": f"HumanEval/{i}", "passed": status == "ok", "status": status, "detail": detail}
        problems.append(verdict | {"completion": completion, "program": completion})
    passed = sum(p["passed"] for p in problems) / 164
    protocol = {"chat": chat, "temperature": 0.0, "max_new_tokens": 512, "sandbox": "bwrap"}
    scores = {"pass@1": passed, "pass@1_interval": [passed - 0.05, passed + 0.05], "tasks": 164, "not_run": 0}
    return {**scores, "ground_truth": {"passed": 163, "tasks": 164}, "problems": problems, **protocol}


def bits_row(rng: random.Random, size: int) -> dict:
    xz = 2.1 + rng.random() / 2
    rates = {
        "model": 1.5 + rng.random(),
        "xz": xz,
        "zstd": xz + 0.05,
        "xz_together": xz - 0.5,
        "zstd_together": xz - 0.45,
    }
    return rates | {"bytes": size, "tokens": size // 3, "documents": 40}


def write_evaluation(workdir: Path, order: int, rng: random.Random) -> None:
    languages = {name: bits_row(rng, n * 5000) for name, n in list(LANGUAGES.items())[:8]}
    bits = {"by_language": languages, "total": bits_row(rng, 9_000_000), "context_length": 512}
    for chat, name in enumerate(("eval/base", "eval/chat")):
        results = {"checkpoint": "sft2", "headlines": {}, "humaneval": humaneval_numbers(rng, bool(chat))}
        write_json(workdir / name / "results.json", results if chat else results | {"bits_per_byte": bits})
        prompt, kind = ("Write a function.", "chat") if chat else ("def fibonacci(n):\n", "completion")
        completion = "    a, b = 0, 1\n    while a < n:\n        yield a\n" + HOSTILE
        write_json(workdir / name / "samples.json", [{"prompt": prompt, "completion": completion, "kind": kind}] * 3)
        params = {f"{name}/evaluate.tasks": {"humaneval": "@humaneval"}}
        done(workdir / name, order + chat, 95.0, params, {"humaneval": results["humaneval"]["pass@1"]})


def write_run(workdir: Path) -> None:
    """A finished run in the formats that the stages write, with hostile text wherever text comes from outside."""
    rng = random.Random(0)
    kept = LANGUAGES
    for i, (stage, reasons) in enumerate(REASONS.items()):
        kept = write_documents(workdir / stage, kept, reasons, rng)
        done(
            workdir / stage,
            i,
            (9, 3, 61, 14, 33, 2, 5, 2)[i],
            {f"{stage}.salt": HOSTILE, f"{stage}.bands": 16, f"{stage}.rows": 128},
            {"files_kept": sum(kept.values()), **RESULTS.get(stage, {})},
        )
    described = {
        "vocab_size": 8192,
        "digest": "ef" * 32,
        "special": {"eos": 2},
        "bytes_per_token": {name: 2.2 + rng.random() * 1.6 for name in list(LANGUAGES)[:10]},
    }
    write_json(workdir / "tokenizer" / "tokenizer.json", described)
    done(workdir / "tokenizer", 10, 21, {"tokenizer.vocab_size": 8192}, {"vocab_size": 8192})
    for i, (name, kind, tokens) in enumerate(
        (
            ("corpus", "tokens", 9_100_000),
            ("algorithmic", "tokens", 410_000),
            ("functions", "tokens", 220_000),
            ("heldout", "text", 0),
            ("instructions", "messages", 0),
        )
    ):
        shards = [{"file": "x", "records": 10, "bytes": 1, "sha256": ""}] * 4
        write_json(
            workdir / "data" / name / "manifest.json",
            {
                "name": name,
                "kind": kind,
                "records": 1200,
                "tokens": tokens,
                "bytes": 31_000_000,
                "shards": shards,
                "digest": "0a" * 32,
            },
        )
        done(workdir / "data" / name, 12 + i, 3.2, {f"data/{name}/shards.num_shards": 4}, {"tokens": tokens})
    write_training(workdir, 20, rng)
    write_evaluation(workdir, 30, rng)
    (workdir / "config.gin").write_text(f"train.steps = 700\n# {HOSTILE}\n")
    (workdir / "operative_config.gin").write_text("train.steps = 700\n")
    done(workdir / "superseded" / "pretrain-0123", 1, 99999, {}, {})
    (workdir / "report").mkdir()
    write_json(workdir / "report" / "STARTED.json", {})
