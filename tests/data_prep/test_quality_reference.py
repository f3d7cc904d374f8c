"""The profile `reference` against what the released filter computed for real files."""

from __future__ import annotations

import hashlib
import io
import json
import pathlib
import tarfile
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pygments
import pytest
import zstandard

from data_prep import documents
from data_prep.quality import rules
from data_prep.quality.profiles import PROFILES, measure
from data_prep.quality.stages import judge_table, score_table

# No threshold uses these two: one needs lists of stop words, the other the file's name.
LEFT_OUT = {"qsc_doc_frac_words_redpajama_stop", "qsc_doc_cate_code_related_file_name"}
FAMILIES = {"doc", "code", "codepython"}
OTHER_LANGUAGES_WITH_RULES = {"c", "cpp", "csharp", "go", "html", "java", "javascript"}
# The records were made with Pygments 2.18; other versions split a few files elsewhere.
SAME_PYGMENTS = pygments.__version__.startswith("2.18.")


def records(shared_data: pathlib.Path, step: int) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Every `step`-th of the recorded files that the released filter could read and had rules for."""
    for name in ("sample", "authors_examples"):
        with zstandard.open(shared_data / "filtering" / f"{name}_reference.jsonl.zst", "rt", encoding="utf-8") as file:
            wanted = {record["path"]: record for record in list(map(json.loads, file))[::step]}
        stream = zstandard.ZstdDecompressor().stream_reader((shared_data / "filtering" / f"{name}.tar.zst").open("rb"))
        with tarfile.open(fileobj=io.BytesIO(stream.read())) as archive:
            for member in archive:
                record = wanted.get(member.name)
                if record and not record["error"] and record["doc_type"] in ("code", "data", "text"):
                    file = archive.extractfile(member)
                    assert file is not None
                    yield record, file.read()


def check(shared_data: pathlib.Path, step: int) -> None:
    compared = 0
    different: list[tuple[str, str, float | None, float | None]] = []
    for record, data in records(shared_data, step):
        values, failures = measure(
            data.decode(), record["program_lang"], record["doc_type"], len(data), PROFILES["reference"]
        )
        assert not failures, record["path"]
        for full_name, expected in record["signals"].items():
            _, batch, name = full_name.split("_", 2)
            if batch not in FAMILIES or full_name in LEFT_OUT or full_name in record["signal_errors"]:
                continue
            compared += 1
            if values[name] != expected:
                different.append((record["path"], full_name, expected, values[name]))
    assert compared > 70_000 / step
    if SAME_PYGMENTS:
        assert not different
    else:
        assert len(different) < 0.002 * compared
        assert {name for _, name, _, _ in different} <= {
            "qsc_code_frac_chars_comments",
            "qsc_code_frac_chars_hex_words",
            "qsc_code_frac_chars_long_word_length",
            "qsc_code_frac_chars_string_length",
            "qsc_code_frac_lines_assert",
            "qsc_code_frac_lines_dupe_lines",
        }


def test_every_value_equals_the_released_filter(shared_data: pathlib.Path):
    check(shared_data, step=16)


@pytest.mark.slow
def test_every_value_equals_the_released_filter_on_all_records(shared_data: pathlib.Path):
    check(shared_data, step=1)


def test_decisions_equal_the_released_filter(shared_data: pathlib.Path):
    """The same rules fire; random ones are left out, as are those of single languages other than Python."""
    found = list(records(shared_data, step=16))
    rows = [
        {
            "id": record["path"],
            "content_sha256": hashlib.sha256(data).hexdigest(),
            "text": data.decode(),
            "path": record["path"],
            "repo": "sample",
            "language": record["program_lang"],
            "doc_type": record["doc_type"],
            "size": len(data),
            "source": "test",
            "provenance": "{}",
            "reasons": [],
        }
        for record, data in found
    ]
    scored = score_table(pa.Table.from_pylist(rows, documents.SCHEMA), "reference")
    judged = judge_table(scored, rules.load(), failure_drops=False)
    for (record, _), reasons in zip(found, judged["reasons"].to_pylist(), strict=True):
        expected = {name for name in record["drop_reasons"] if name not in record["stochastic"]}
        if record["program_lang"] in OTHER_LANGUAGES_WITH_RULES:
            expected = {name for name in expected if name.startswith("qsc_code_")}
        ours = {reason.split(" ")[0] for reason in reasons} - {"score_lines_no_logic"}
        assert ours == {name.split("_", 2)[2] for name in expected}, record["path"]


def test_thresholds_equal_the_published_ones(shared_data: pathlib.Path):
    path = shared_data.parent / "filtering" / "thresholds.json"
    if not path.exists():
        pytest.skip(f"no {path}")
    published = {group["group"]: group["rules"] for group in json.loads(path.read_text())["groups"]}
    ours = rules.load()
    for group in (
        "code/others",
        "code/data",
        "code/shell",
        "code/sql",
        "code/python",
        "code/go",
        "code/html",
        "text/en",
    ):
        expected = {}
        for rule in published[group]:
            _, batch, name = rule["signal"].split("_", 2)
            if batch in FAMILIES:
                probability = rule["stochastic"]["drop_probability"] if rule["stochastic"] else 1.0
                expected[name] = {(c["op"], float(c["value"]), probability) for c in rule["comparisons"]}
        assert expected == {
            name: {(c.operator, c.threshold, c.probability) for c in comparisons}
            for name, comparisons in ours[group].items()
        }, group
    for language in ("c", "cpp", "csharp", "java", "javascript"):  # these have no general rules of their own
        general = {rule["signal"]: rule for rule in published[f"code/{language}"] if "qsc_code_" in rule["signal"]}
        assert general == {rule["signal"]: rule for rule in published["code/others"]}
        assert f"code/{language}" not in ours
