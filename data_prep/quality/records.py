"""One JSON record per file: its signals, the decision and the reasons, in the form of the released filter."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from etils import epath

from data_prep import documents as docs
from data_prep.engine import LocalEngine, atomic, write_parquet
from data_prep.quality import rules
from data_prep.quality.profiles import Profile, measure, profile_named
from data_prep.sources import notebooks

LANG = "en"  # the natural language of every file: the released filter's model is not to be had
FILES_PER_PART = 64


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
        "lang": LANG,
        "signals": {},
        "keep": None,
        "drop_reasons": [],
        "stochastic": [],
        "signal_errors": {},
        "error": error,
    }
    if text is None:
        return found | {"lang": None}
    group = rules.group_of(doc_type, language, groups)
    if group is None:
        return found | {"keep": 0, "drop_reasons": [f"doc_type:{doc_type}"]}
    values, failures = measure(text, language, doc_type, len(data), profile, path)
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
        value = values.get(signal)
        holding = [c for c in comparisons if value is not None and c.fires(np.float64(value))]
        if any(c.probability == 1 or rules.draw(key, signal) < c.probability for c in holding):
            dropping.append(signal)
        elif failure_drops and signal in failures:
            dropping.append(signal)
        if holding and all(c.probability < 1 for c in holding):
            drawn.append(signal)
    return dropping, drawn


def list_files(top: str) -> list[str]:
    """Paths of all regular files below a directory, relative to it with slashes, sorted. Links are left out.

    Raises:
        FileNotFoundError: there is no such directory.
    """
    if not os.path.isdir(top):
        raise FileNotFoundError(f"{top} is no directory")
    found = []
    for directory, subdirectories, names in os.walk(top):
        subdirectories[:] = [name for name in subdirectories if name != ".git"]
        for name in names:
            location = os.path.join(directory, name)
            if os.path.isfile(location) and not os.path.islink(location):
                found.append(os.path.relpath(location, top).replace(os.sep, "/"))
    return sorted(found, key=os.fsencode)


def write(tops: list[str], out: epath.Path, profile: str, workers: int, thresholds: dict[str, list[str]]) -> int:
    """Writes the records of all files below the directories `tops` to the JSON-lines file `out`; returns how many.

    A call that was interrupted goes on where it stopped if the same files are asked for in the same way. What is done
    lies in ``<out>.parts`` until the end.
    """
    files = [(top, path) for top in tops for path in list_files(top)]
    scratch = out.parent / f"{out.name}.parts"
    state = [(top, path, *_state(top, path)) for top, path in files]
    _prepare(scratch, json.dumps([profile, thresholds, state], sort_keys=True), files)
    groups = rules.load(thresholds, profile)
    engine = LocalEngine(workers=workers, batch_rows=8)
    inputs = sorted((scratch / "files").glob("part-*.parquet"))
    engine.map(partial(_record_table, profile=profile, groups=groups), inputs, scratch / "records", label=profile)
    with atomic(out) as file:
        for part in docs.parts(scratch / "records") if inputs else []:
            for line in _column(part, "record"):
                file.write(f"{line}\n".encode())
    scratch.rmtree()
    return len(files)
