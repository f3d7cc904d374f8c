from __future__ import annotations

import json
import pathlib
import tomllib

import pytest
import zstandard

from data_prep.quality import signals
from data_prep.quality.profiles import PROFILES, measure

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_the_committed_table_is_current() -> None:
    assert (ROOT / "docs" / "signals.md").read_text() == signals.markdown(), (
        "run python -m data_prep.quality.signals > docs/signals.md"
    )


def test_every_signal_is_described_and_nothing_else() -> None:
    facts = tomllib.loads((ROOT / "data_prep/quality/signals.toml").read_text())
    own = {name for name, fact in facts.items() if "unit" in fact}
    by_family = {(family, name) for family in facts.keys() - own for name in facts[family]}
    names = {(family.rpartition("/")[2], name) for family, name in signals.described()}
    assert own <= {name for _, name in names} and by_family <= names
    for signal in signals.described().values():
        assert signal.meaning.endswith(".") and signal.why.endswith(".") and signal.unit


def test_the_table_has_the_names_of_the_released_filter(shared_data: pathlib.Path) -> None:
    path = shared_data / "filtering" / "sample_reference.jsonl.zst"
    if not path.exists():
        pytest.skip("no recorded signals")
    with path.open("rb") as file:
        rows = map(json.loads, zstandard.ZstdDecompressor().stream_reader(file).read().splitlines())
        recorded = {name for row in rows for name in row["signals"]}
    page = signals.markdown()
    assert len(recorded) == 118
    assert [name for name in sorted(recorded) if page.count(f"| `{name}` |") != 1] == []


SAMPLES = [
    ("import os\n\n\ndef f(x):\n    '''Say.'''\n    return x\n\nprint(f('0x1f'))\n", "python", "code"),
    ("a" * 4000 + "\n" + "x x x x x x x x x x x x\n" * 9, "json", "data"),
    ("#include <a.h>\nint main(void) { goto out; out: return 0x7; }\n", "c", "code"),
    ("<html><body>read <b>this</b> page</body></html>", "html", "code"),
    ("READ me... (http://x.y) <b>\n• one\n• one\n", "markdown", "text"),
    ("", "java", "code"),
]


@pytest.mark.parametrize("text, language, doc_type", SAMPLES, ids=[language for _, language, _ in SAMPLES])
def test_values_are_in_their_range(text: str, language: str, doc_type: str) -> None:
    values, failures = measure(text, language, doc_type, len(text), PROFILES["refinecode"])
    assert values and not failures
    group = "text/en" if doc_type == "text" else f"code/{language}"
    for name, value in values.items():
        low, high = signals.of_group(group, name).range
        assert value is None or low <= value <= high, name
