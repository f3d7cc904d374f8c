"""One JSON record per file: its signals, the decision and the reasons, in the form of the released filter."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from data_prep.engine import LocalEngine
from data_prep.files import atomic, write_parquet
from data_prep.quality import rules
from data_prep.quality.profiles import Profile, measure, profile_named
from data_prep.sources import notebooks
from data_prep.sources.reference import printable

PARTS, PART_FILES, PART_BYTES = 256, 64, 1 << 20  # so many that workers end together, so large that a part costs little


def record(path: str, data: bytes, profile: Profile, groups: Mapping[str, rules.Rules]) -> dict[str, Any]:
    """The record of one file.

    Its keys: `path`, `sha256`, `bytes`, `ext`, `filename`, `program_lang`, `doc_type`, `lang`; `signals`, values by
    full name (``qsc_codepython_cate_ast``); `keep` (1, 0, or None for what is no text); `drop_reasons`, full names of
    signals; `stochastic`, the rules among them that drop only some of the files; `signal_errors`, causes by full name;
    `error`, the reason why the file could not be read.
    """
    text, error = profile.decode(data)
    language, doc_type = profile.detect(path, text)
    if text is not None and language == notebooks.LANGUAGE and doc_type == "code":
        try:
            text = notebooks.convert(text)
        except ValueError as problem:
            text, error = None, f"malformed_notebook: {problem}"
    name = path.rpartition("/")[2]
    sha256 = hashlib.sha256(data).hexdigest()
    found = {
        "path": path,
        "sha256": sha256,
        "bytes": len(data),
        "ext": name.rpartition(".")[2] if "." in name[1:] else "",
        "filename": name,
        "program_lang": language,
        "doc_type": doc_type,
        "lang": None if text is None else profile.natural_language(text, doc_type),
        "signals": {},
        "keep": None,
        "drop_reasons": [],
        "stochastic": [],
        "signal_errors": {},
        "error": error,
    }
    if text is None:
        return found
    group = rules.group_of(doc_type, language, groups, found["lang"])
    if group is None:
        return found | {"keep": 0, "drop_reasons": [f"doc_type:{doc_type}"]}
    values, failures = measure(text, language, doc_type, len(data), profile, path, found["lang"])
    full = full_names(profile, doc_type, language)
    dropping, drawn = decide(values, failures, groups[group], sha256, profile.failure_drops)
    return found | {
        "signals": {full[name]: value for name, value in values.items()},
        "keep": int(not dropping),
        "drop_reasons": [full[name] for name in dropping],
        "stochastic": [full[name] for name in drawn],
        "signal_errors": {full[name]: cause for name, cause in failures.items()},
    }


def full_names(profile: Profile, doc_type: str, language: str) -> dict[str, str]:
    """The released filter's name of each signal that a file can have, by its name here."""
    batches = {"text": "doc", "code": "code", f"code/{language}": f"code{language}"}
    families = profile.families(doc_type, language)
    return {name: f"qsc_{batches[family]}_{name}" for family in families for name in profile.signals[family]}


def decide(
    values: Mapping[str, float | None],
    failures: Mapping[str, str],
    group: rules.Rules,
    key: str,
    failure_drops: bool,
) -> tuple[list[str], list[str]]:
    """(the signals whose rules drop the file, those whose rules hold for it but drop only some of such files)."""
    dropping, drawn = [], []
    for signal, comparisons in group.items():
        if failure_drops and signal in failures:
            dropping.append(signal)
        value = values.get(signal)
        if value is None or not (holding := [c for c in comparisons if c.fires(value)]):
            continue
        if any(c.probability == 1 or rules.draw(key, signal) < c.probability for c in holding):
            dropping.append(signal)
        if all(c.probability < 1 for c in holding):
            drawn.append(signal)
    return dropping, drawn


def write(
    tops: Sequence[str], out: epath.Path, profile: str, thresholds: Mapping[str, Sequence[str]], workers: int = 0
) -> int:
    """Writes the records of all files below the directories `tops` to the JSON-lines file `out`; returns how many.

    A call that was interrupted goes on where it stopped, as long as it is the same call on the same files. What is
    done lies in ``<out>.parts`` until the end.

    Raises:
        FileNotFoundError: one of `tops` is no directory.
        ValueError: there is no such profile, or a threshold is wrong.
    """
    profile_named(profile)
    groups = rules.load(thresholds, profile)
    files = [file for top in tops for file in list_files(top)]
    scratch = out.parent / f"{out.name}.parts"
    parts = _write_parts(scratch, files, json.dumps([profile, thresholds], sort_keys=True))
    engine = LocalEngine(workers=workers, batch_rows=8)
    engine.map(partial(_record_table, profile=profile, groups=groups), parts, scratch / "records", label=profile)
    with atomic(out) as target:
        for part in parts:
            with (scratch / "records" / part.name).open("rb") as file:
                lines = pq.ParquetFile(file).read(use_threads=False)["record"]  # read_table would load Arrow's datasets
                target.write("".join(lines.to_pylist()).encode())
    scratch.rmtree()
    return len(files)


def list_files(top: str) -> list[tuple[bytes, str]]:
    """(location, path below `top` with slashes) of each regular file, by path.

    Links, .git and directories that may not be read are left out.

    Raises:
        FileNotFoundError: there is no such directory.
    """
    if not os.path.isdir(top):
        raise FileNotFoundError(f"{top} is no directory")
    found = []
    pending = [(os.fsencode(top), b"")]
    while pending:
        directory, below = pending.pop()
        with contextlib.suppress(PermissionError), os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False) and entry.name != b".git":
                    pending.append((entry.path, below + entry.name + b"/"))
                elif entry.is_file(follow_symlinks=False):
                    found.append((entry.path, printable(below + entry.name)))
    return sorted(found, key=lambda file: file[1])


def _write_parts(scratch: epath.Path, files: Sequence[tuple[bytes, str]], call: str) -> list[epath.Path]:
    """Lists of files to work on; those of an earlier call are kept with their results if nothing has changed."""
    sizes = []
    key = hashlib.sha256(call.encode())
    for location, path in files:
        state = os.stat(location)
        sizes.append(state.st_size)
        key.update(f"\0{location!r}\0{path}\0{state.st_size}\0{state.st_mtime_ns}".encode())
    directory = scratch / key.hexdigest()[:16]
    chunks = _chunks(sizes)
    parts = [directory / f"part-{i:05d}.parquet" for i in range(len(chunks))]
    if not directory.exists():
        if scratch.exists():
            scratch.rmtree()
        directory.mkdir(parents=True)
        (scratch / "records").mkdir()
    for part, chunk in zip(parts, chunks, strict=True):
        if not part.exists():
            locations, paths = zip(*files[chunk], strict=True)
            write_parquet(iter([pa.table({"location": locations, "path": paths})]), part)
    return parts


def _chunks(sizes: Sequence[int]) -> list[slice]:
    """Runs of consecutive files for a part each: at least PARTS of them, unless they would be too small."""
    most_files, most_bytes = max(PART_FILES, len(sizes) // PARTS), max(PART_BYTES, sum(sizes) // PARTS)
    found, start, total = [], 0, 0
    for i, size in enumerate(sizes):
        if i > start and (i - start == most_files or total + size > most_bytes):
            found.append(slice(start, i))
            start, total = i, 0
        total += size
    return [*found, slice(start, len(sizes))] if sizes else []


def _record_table(table: pa.Table, profile: str, groups: Mapping[str, rules.Rules]) -> pa.Table:
    how = profile_named(profile)
    lines = []
    for row in table.to_pylist():
        with open(row["location"], "rb") as file:
            found = record(row["path"], file.read(), how, groups)
        lines.append(json.dumps(found, ensure_ascii=False) + "\n")
    return pa.table({"record": pa.array(lines, pa.large_string())})
