"""The profile `reference` against what the released filter computed for real files."""

from __future__ import annotations

import json
import pathlib
import tarfile
from typing import Any

import pygments
import pytest
import zstandard
from etils import epath

from data_prep.quality import records, rules

# The records were made with Pygments 2.18; other versions split a few files elsewhere.
SAME_PYGMENTS = pygments.__version__.startswith("2.18.")


Records = dict[str, dict[str, Any]]


def both(shared_data: pathlib.Path, tmp_path: pathlib.Path, step: int) -> tuple[Records, Records]:
    """The given records and ours, by path, of every `step`-th file."""
    theirs: Records = {}
    ours: Records = {}
    for name in ("sample", "authors_examples"):
        with zstandard.open(shared_data / "filtering" / f"{name}_reference.jsonl.zst", "rt", encoding="utf-8") as file:
            wanted = {record["path"]: record for record in list(map(json.loads, file))[::step]}
        with (
            zstandard.open(shared_data / "filtering" / f"{name}.tar.zst", "rb") as stream,
            tarfile.open(fileobj=stream, mode="r|") as archive,
        ):
            for member in archive:
                if member.name in wanted:
                    archive.extract(member, tmp_path / name, filter="data")
        out = epath.Path(tmp_path / f"{name}.jsonl")
        assert records.write([str(tmp_path / name)], out, "reference", {}) == len(wanted)
        theirs |= wanted
        ours |= {record["path"]: record for record in map(json.loads, out.read_text().splitlines())}
    assert theirs.keys() == ours.keys()
    return theirs, ours


def compare(theirs: Records, ours: Records) -> None:
    compared = 0
    different = []
    for path, given in theirs.items():
        for name, expected in given["signals"].items():
            if name not in given["signal_errors"]:
                compared += 1
                if ours[path]["signals"].get(name, "absent") != expected:
                    different.append((path, name, expected, ours[path]["signals"].get(name, "absent")))
        if not given["signal_errors"]:  # the released filter left out the signals after one that took too long
            assert given["signals"].keys() == ours[path]["signals"].keys(), path
    assert compared > 35 * len(theirs)
    if SAME_PYGMENTS:
        assert not different
    else:
        assert len(different) < 0.002 * compared
        assert all(name.startswith("qsc_code_") for _, name, _, _ in different)
    fields = ("path", "sha256", "bytes", "ext", "filename", "program_lang", "doc_type", "lang", "stochastic", "error")
    for path, given in theirs.items():
        assert list(given) == list(ours[path])
        assert [given[field] for field in fields] == [ours[path][field] for field in fields]
        certain, found = (set(record["drop_reasons"]) - set(given["stochastic"]) for record in (given, ours[path]))
        if SAME_PYGMENTS:
            assert certain == found, path
            if certain or not given["stochastic"]:
                assert given["keep"] == ours[path]["keep"], path


def test_records_equal_those_of_the_released_filter(shared_data: pathlib.Path, tmp_path: pathlib.Path):
    compare(*both(shared_data, tmp_path, step=24))


@pytest.mark.slow
def test_all_records_equal_those_of_the_released_filter(shared_data: pathlib.Path, tmp_path: pathlib.Path):
    compare(*both(shared_data, tmp_path, step=1))


def test_thresholds_equal_the_published_ones(shared_data: pathlib.Path):
    path = shared_data.parent / "filtering" / "thresholds.json"
    if not path.exists():
        pytest.skip(f"no {path}")
    published = {group["group"]: group["rules"] for group in json.loads(path.read_text())["groups"]}
    ours = rules.load(profile="reference")
    assert set(published) == set(ours) - {"code/general"}
    for group, given in published.items():
        expected = {}
        for rule in given:
            probability = rule["stochastic"]["drop_probability"] if rule["stochastic"] else 1.0
            name = rule["signal"].split("_", 2)[2]
            expected[name] = {(c["op"], float(c["value"]), probability) for c in rule["comparisons"]}
        assert expected == {
            name: {(c.operator, c.threshold, c.probability) for c in comparisons}
            for name, comparisons in ours[group].items()
        }, group
