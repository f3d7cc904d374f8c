"""README.md of a data set: the card that Hugging Face shows, written from what the stages before it have recorded.

Nothing in it is typed by hand or depends on time and place, so the same data set has the same card.
"""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from etils import epath

from data_prep import corpus_index
from data_prep.files import atomic

_SHOWN = 20  # rows of a table
_CODE = re.compile(r"[a-z]{2,3}")
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_COLUMNS = ("source", "licence", "language", "natural_language")
_KINDS = {
    "tokens": "token ids to train on",
    "text": "text to evaluate on",
    "messages": "conversations to fine-tune on",
}


def write(out: epath.Path, documents: epath.Path, manifest: Mapping[str, Any]) -> None:
    """Writes out/README.md of the data set with this `manifest`, made of `documents`; its corpus index is there."""
    stages = lineage(documents)
    counts = _counts(out / corpus_index.NAME)
    sections = {
        "What it is": _facts(manifest),
        "How it was made": _pipeline(stages),
        "Recall": _rounds(stages),
        "Sources": _table(("source", "records", "bytes"), counts["source"]),
        "Licences": _table(("licence", "records", "bytes"), counts["licence"]) + _licence_note(counts["licence"]),
        "Languages": _table(("language", "records", "bytes"), counts["language"]),
        "Written by a model": _teachers(stages),
        "Decontamination": _decontamination(stages),
    }
    text = _header(manifest, counts, bool(sections["Written by a model"])) + f"\n# {manifest['name']}\n"
    text += "".join(f"\n## {name}\n\n{body}" for name, body in sections.items() if body)
    with atomic(out / "README.md") as file:
        file.write(text.encode())


def lineage(documents: epath.Path) -> list[dict[str, Any]]:
    """DONE.json of the stages that `documents` come from, the first ones first; with "yield" where there is one."""
    found: dict[epath.Path, dict[str, Any]] = {}
    _visit(documents, found)
    return list(found.values())


def _visit(directory: epath.Path, found: dict[epath.Path, dict[str, Any]]) -> None:
    writer = next((path for path in (directory, *directory.parents) if (path / "DONE.json").exists()), None)
    if writer is None or writer in found:
        return
    done = json.loads((writer / "DONE.json").read_text())
    workdir = writer
    for _ in done["stage"].split("/"):
        workdir = workdir.parent
    for name in done["inputs"]:
        if path := name.partition(": ")[2]:
            _visit(workdir / path, found)
    if (writer / "yield.json").exists():
        done["yield"] = json.loads((writer / "yield.json").read_text())
    found[writer] = done


def _counts(index: epath.Path) -> dict[str, dict[str, list[int]]]:
    """Column → value → [records, bytes of the raw files], the most frequent first."""
    counts: dict[str, dict[str, list[int]]] = {name: collections.defaultdict(lambda: [0, 0]) for name in _COLUMNS}
    with index.open("rb") as file:
        for batch in pq.ParquetFile(file).iter_batches(columns=[*_COLUMNS, "size", "provenance"]):
            columns = {name: batch[name] for name in _COLUMNS}
            if batch["source"].null_count:  # conversations tell of the document or file that they come from
                told = [json.loads(provenance) for provenance in batch["provenance"].to_pylist()]
                columns["source"] = pa.array([t.get("source") or t.get("file") for t in told], pa.string())
                columns["licence"] = pa.array([t.get("licence") for t in told], pa.string())
            columns = {name: pc.fill_null(column, "unknown") for name, column in columns.items()}
            table = pa.table(columns | {"size": pc.fill_null(batch["size"], 0)})
            for name in _COLUMNS:
                for row in table.group_by(name).aggregate([("size", "count"), ("size", "sum")]).to_pylist():
                    count = counts[name][row[name]]
                    count[0] += row["size_count"]
                    count[1] += row["size_sum"]
    return {name: dict(sorted(found.items(), key=lambda x: (-x[1][0], x[0]))) for name, found in counts.items()}


def _header(manifest: Mapping[str, Any], counts: Mapping[str, Mapping[str, list[int]]], synthetic: bool) -> str:
    """The fields of Hugging Face's dataset cards, as YAML."""
    records = manifest["records"]
    languages = [
        name for name, (n, _) in counts["natural_language"].items() if _CODE.fullmatch(name) and n > records / 100
    ]
    licences = [name.lower() for name in counts["licence"] if name != "unknown"][:_SHOWN]
    known = bool(licences) and all(map(_LICENCE.fullmatch, licences))
    fields = {
        "pretty_name": [json.dumps(manifest["name"])],
        "license": (licences if known else ["other" if licences else "unknown"]),
        "language": languages,
        "task_categories": ["text-generation"],
        "size_categories": [_size_category(records)],
        "tags": ["code", "array_record", *(["synthetic"] if synthetic else [])],
    }
    lines = [
        f"{name}: {values[0]}\n"
        if name == "pretty_name"
        else f"{name}:\n" + "".join(f"- {value}\n" for value in values)
        for name, values in fields.items()
        if values
    ]
    return "---\n" + "".join(lines) + "---\n"


def _size_category(records: int) -> str:
    steps = [
        ("1K", 10**3),
        ("10K", 10**4),
        ("100K", 10**5),
        ("1M", 10**6),
        ("10M", 10**7),
        ("100M", 10**8),
        ("1B", 10**9),
    ]
    if records < 1000:
        return "n<1K"
    for (low, _), (high, most) in zip(steps, steps[1:], strict=False):
        if records < most:
            return f"{low}<n<{high}"
    return "n>1B"


def _facts(manifest: Mapping[str, Any]) -> str:
    rows = [
        ("content", _KINDS[manifest["kind"]]),
        *((name, f"{manifest[name]:,}") for name in ("records", "tokens", "bytes")),
        ("shards", f"{len(manifest['shards'])}"),
        *((name, f"`{manifest[key]}`") for name, key in (("digest", "digest"), ("tokenizer", "tokenizer_digest"))),
    ]
    return _markdown(("", ""), rows) + "\n`corpus_index.parquet` lists what each record is made of.\n"


def _pipeline(stages: Iterable[Mapping[str, Any]]) -> str:
    """What came into each stage and what it kept, with the digest of its output."""
    rows = []
    for done in stages:
        result = done.get("result") or {}
        numbers = [f"{result[n]:,}" if n in result else "" for n in ("files_in", "files_kept")]
        rows.append((f"`{done['stage']}`", *numbers, f"`{done['outputs']['digest'][:16]}`"))
    return _markdown(("stage", "in", "kept", "digest"), rows) if rows else "No stage has recorded it.\n"


def _rounds(stages: Iterable[Mapping[str, Any]]) -> str:
    rows = [
        (f"{r['round']}", f"{r['pages']:,}", f"{r['recalled']:,}", f"{r['tokens']:,}", f"{r['code_domains']:,}",
         f"{r['heldout']['precision']:.3f}", f"{r['heldout']['recall']:.3f}", f"{r['heldout']['score']:.3f}")
        for done in stages
        for r in (done.get("result") or {}).get("rounds", [])
    ]  # fmt: skip
    head = ("round", "pages", "recalled", "tokens", "code domains", "precision (held out)", "recall", "threshold")
    return _markdown(head, rows) if rows else ""


def _licence_note(licences: Mapping[str, list[int]]) -> str:
    records = sum(n for n, _ in licences.values())
    unknown = licences.get("unknown", [0])[0]
    return f"\nOf {unknown:,} of {records:,} records no licence is recorded.\n" if unknown else ""


def _teachers(stages: Iterable[Mapping[str, Any]]) -> str:
    rows = [
        (f"`{done['stage']}`", s["step"], s["model"], f"`{s.get('prompt_sha256', '')[:16]}`", f"{s['entered']:,}",
         f"{s['passed']:,}", f"{s['requests']:,}", ", ".join(f"{why} {n:,}" for why, n in s["rejected"].items()))
        for done in stages
        for s in done.get("yield", {}).get("steps", [])
    ]  # fmt: skip
    head = ("stage", "step", "teacher", "prompt (SHA-256)", "entered", "passed", "requests", "rejected for")
    return _markdown(head, rows) if rows else ""


def _decontamination(stages: Iterable[Mapping[str, Any]]) -> str:
    text = ""
    for done in stages:
        result = done.get("result") or {}
        if "benchmarks" not in result:
            continue
        rule = {name.rpartition(".")[2]: value for name, value in done["params"].items()}
        items = ", ".join(f"{name} ({n:,} items)" for name, n in result["benchmarks"].items())
        hits, into, dropped = result["hits"], result["files_in"], result["files_in"] - result["files_kept"]
        text += (
            f"`{done['stage']}` dropped {dropped:,} of {into:,} for {items}: "
            f"{rule['min_grams']} shared {rule['ngram']}-grams, entry points by {rule['entry_points']}.\n"
        )
        if hits:
            most = list(hits.items())[:_SHOWN]
            text += "\n" + _markdown(("benchmark item", "dropped"), [(name, f"{n:,}") for name, n in most]) + "\n"
    return text or "**None**: no stage before this data set has compared it with a benchmark.\n"


def _table(head: tuple[str, ...], found: Mapping[str, list[int]]) -> str:
    rows = [(name, f"{n:,}", f"{size:,}") for name, (n, size) in list(found.items())[:_SHOWN]]
    if rest := list(found.values())[_SHOWN:]:
        records, size = map(sum, zip(*rest, strict=True))
        rows.append((f"{len(rest):,} others", f"{records:,}", f"{size:,}"))
    return _markdown(head, rows)


def _markdown(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(re.sub(r"[|\n\r]", " ", cell) for cell in line) + " |\n" for line in lines)
