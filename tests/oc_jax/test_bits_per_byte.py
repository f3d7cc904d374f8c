from __future__ import annotations

import math
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oc_jax
from oc_jax.evals.bits_per_byte import bits_per_byte, measure, select, windows, xz_bytes, zstd_bytes

EOS = 2
VOCABULARY = 260


class ByteTokenizer:
    start = [EOS]

    def encode(self, text: bytes) -> list[int]:
        return [4 + byte for byte in text]


class Uniform:
    """Gives each of `VOCABULARY` tokens the same probability."""

    tokenizer = ByteTokenizer()

    def __init__(self):
        self.longest = 0

    def score(self, sequences):
        self.longest = max(self.longest, *map(len, sequences))
        return [np.full(len(s) - 1, -math.log(VOCABULARY), np.float32) for s in sequences]


class KnowsPosition(Uniform):
    """Charges one bit for a token with at least `need` tokens of context, ten for others."""

    def __init__(self, need: int):
        super().__init__()
        self.need = need

    def score(self, sequences):
        super().score(sequences)
        bits = [np.where(np.arange(1, len(s)) >= self.need, 1.0, 10.0) for s in sequences]
        return [(-b * math.log(2)).astype(np.float32) for b in bits]


def test_uniform_model_pays_the_logarithm_of_its_vocabulary_per_token():
    documents = [b"print(1)\n", b"x = 2\n" * 50]
    row = measure(Uniform(), documents, context_length=16, overlap=0)
    assert row["model"] == pytest.approx(math.log2(VOCABULARY), rel=1e-6)
    assert (row["tokens"], row["bytes"], row["documents"]) == (309, 309, 2)


@pytest.mark.parametrize("overlap", [0, 5, 14])
def test_context_is_bounded_and_overlap_gives_more_of_it(overlap):
    engine = KnowsPosition(need=overlap + 1)
    row = measure(engine, [b"a" * 100], context_length=16, overlap=overlap)
    assert engine.longest <= 16
    assert row["model"] == pytest.approx((100 + 9 * overlap) / 100)  # only the first few lack context


@given(st.integers(0, 200), st.integers(2, 40), st.data())
def test_windows_charge_every_token_once_with_context(length, context_length, data):
    overlap = data.draw(st.integers(0, context_length - 2))
    charged: list[int] = []
    for start, first, stop in windows(length, context_length, overlap):
        assert 0 <= start < first < stop <= length and stop - start <= context_length
        assert first - start == min(first, overlap + 1)
        charged += range(first, stop)
    assert charged == list(range(1, length))


def test_overlap_that_leaves_no_room_is_refused():
    with pytest.raises(ValueError, match="overlap 15"):
        list(windows(10, 16, 15))


def record(number: int, language: str, text: bytes) -> dict:
    return {"id": f"id{number}", "language": language, "text": text}


@given(st.permutations(range(12)), st.integers(1, 90))
def test_selection_depends_on_content_only_and_is_cut_to_size(order, limit):
    records = [record(i, "Python" if i % 3 else "C", bytes([97 + i]) * (3 + i)) for i in range(12)]
    chosen = select([records[i] for i in order], limit, "salt")
    assert chosen == select(records, limit, "salt")
    unlimited = select(records, None, "salt")
    for language, texts in unlimited.items():
        assert b"".join(chosen[language]) == b"".join(texts)[:limit]
    assert {language: sorted(texts) for language, texts in unlimited.items()} == {
        language: sorted(r["text"] for r in records if r["language"] == language) for language in ("C", "Python")
    }


def hold_out(monkeypatch, records: list[dict]) -> None:
    data = types.SimpleNamespace(read_records=lambda directory: iter(records))
    monkeypatch.setitem(sys.modules, "oc_jax.data", data)
    monkeypatch.setattr(oc_jax, "data", data, raising=False)


def test_total_is_weighted_by_bytes(monkeypatch):
    records = [record(1, "C", b"a" * 300), record(2, "Python", b"ab" * 50), record(3, "Python", b"")]
    hold_out(monkeypatch, records)
    result = bits_per_byte(types.SimpleNamespace(engine=Uniform(), heldout=None), context_length=64)
    rows, total = result.numbers["by_language"], result.numbers["total"]
    assert list(rows) == ["C", "Python"] and rows["Python"]["documents"] == 1
    assert total["xz"] == pytest.approx((300 * rows["C"]["xz"] + 100 * rows["Python"]["xz"]) / 400)
    assert result.headline == total["model"] == pytest.approx(math.log2(VOCABULARY), rel=1e-6)


@pytest.mark.parametrize("records", [[], [record(1, "C", b"")]])
def test_without_held_out_documents_nothing_is_measured_and_the_result_says_so(monkeypatch, records):
    hold_out(monkeypatch, records)
    result = bits_per_byte(types.SimpleNamespace(engine=Uniform(), heldout=None), context_length=64)
    assert result.headline is None
    assert result.numbers == {"skipped": "no document is held out"}


@pytest.mark.parametrize(
    ("tool", "size"), [(["xz", "-9", "-c"], xz_bytes), (["zstd", "-19", "--long", "-c"], zstd_bytes)]
)
def test_yardsticks_are_the_sizes_of_the_command_line_tools(tool, size, tmp_path):
    if not shutil.which(tool[0]):
        pytest.skip(f"{tool[0]} is not installed")
    text = Path(__file__).read_bytes()
    for data in (b"x", text[:500], text, text * 3):
        (tmp_path / "file").write_bytes(data)
        theirs = len(subprocess.run([*tool, tmp_path / "file"], capture_output=True, check=True).stdout)
        assert size(data) == pytest.approx(theirs, rel=0.01, abs=4)
