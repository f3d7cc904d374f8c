from __future__ import annotations

import inspect
import json
import pathlib
import shutil
import textwrap

import pyarrow as pa
import pytest
from etils import epath
from hypothesis import example, given
from hypothesis import strategies as st

from data_prep import documents, files
from data_prep.tokenizer import Encoder
from data_prep.tokenizer import tokenizer as train
from oc_jax.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> epath.Path:
    root = epath.Path(tmp_path_factory.mktemp("tokenizer"))
    (root / "split").mkdir()
    (root / "tokenizer").mkdir()
    text = inspect.getsource(textwrap)
    row = dict.fromkeys(("path", "repo", "source", "id"), "x") | {"provenance": "{}", "doc_type": "code"}
    row |= {"text": text, "size": len(text), "language": "python", "split": "train", "reasons": []}
    files.write_parquet(iter([pa.Table.from_pylist([row], documents.SCHEMA)]), root / "split" / "part-00000.parquet")
    train(root / "tokenizer", documents=root / "split", vocab_size=700)
    return root / "tokenizer"


@pytest.fixture(scope="module")
def tokenizer(directory: epath.Path) -> Tokenizer:
    return Tokenizer.load(directory)


@pytest.fixture(scope="module")
def encoder(directory: epath.Path) -> Encoder:
    return Encoder(directory)


CODE_LIKE = st.lists(
    st.sampled_from(["def ", "    ", "\t", "\n", "\r\n", "x", "0123", "\u2581", "é", "\U0001f600", "<s>", " "])
).map("".join)


@given(st.binary(max_size=80) | CODE_LIKE.map(str.encode))
@example("  \u2581\u2581 x \u2581".encode())
@example(b"\xe2\x96\xe2\x96\x81\xff\x00 \xed\xa0\x80")
def test_every_byte_string_survives_and_both_encoders_agree(
    tokenizer: Tokenizer, encoder: Encoder, data: bytes
) -> None:
    ids = tokenizer.encode(data)
    assert tokenizer.decode(ids) == data
    assert encoder.encode(data).tolist() == ids
    assert all(4 <= i < tokenizer.im_end for i in ids)


@given(st.text(st.characters(codec=None), max_size=60) | CODE_LIKE)
def test_text_is_encoded_as_its_bytes(tokenizer: Tokenizer, encoder: Encoder, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text.encode("utf-8", "surrogatepass")
    assert encoder.encode(text).tolist() == ids
    assert encoder.encode(text).dtype == "uint32"


def test_special_ids_decode_to_nothing_and_are_never_spelt(tokenizer: Tokenizer) -> None:
    assert (tokenizer.eos, tokenizer.pad, tokenizer.im_start, tokenizer.im_end) == (2, 3, 600, 599)
    assert tokenizer.ends == (2, 599) and tokenizer.prefix == [2]
    assert tokenizer.decode([*range(4), *range(599, 700)]) == b""
    assert tokenizer.decode([700, 10**6]) == b""  # a model's vocabulary may be larger
    spelling = "<unk><s></s><pad><|im_start|><|im_end|><|reserved_7|><0x41>"
    assert not set(tokenizer.encode(spelling)) & {*range(4), *range(599, 700)}
    assert tokenizer.decode_text(tokenizer.encode(spelling)) == spelling


def test_text_that_is_cut_inside_a_character_decodes_to_a_replacement(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode_text(tokenizer.encode("a\U0001f600".encode()[:3])) == "a\ufffd"


def test_a_wrong_tokenizer_is_refused(directory: epath.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no tokenizer.json"):
        Tokenizer.load(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    description = json.loads((copy / "tokenizer.json").read_text())
    description["special"]["im_end"] += 1
    (copy / "tokenizer.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match="special ids"):
        Tokenizer.load(copy)
    (copy / "tokenizer.model").write_bytes((copy / "tokenizer.model").read_bytes()[:-1])
    with pytest.raises(ValueError, match="not the one"):
        Tokenizer.load(copy)
