from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import pathlib
import textwrap
import types
from collections.abc import Callable
from typing import Any

import pytest
import sentencepiece
from etils import epath

from data_prep import tokenizer as module
from data_prep.tokenizer import Encoder, tokenizer

VOCAB = 800


def rows(*sources: types.ModuleType, **columns: Any) -> list[dict[str, Any]]:
    return [{"path": f"{m.__name__}.py", "text": inspect.getsource(m), "split": "train"} | columns for m in sources]


@pytest.fixture
def documents(write_documents: Callable[..., epath.Path]) -> epath.Path:
    tabs = "\n".join("\t" * (n % 4) + f"if (x{n}) {{" for n in range(400))
    held = {"path": "held.c", "text": "heldoutword " * 5000, "split": "heldout", "language": "c"}
    dropped = {"path": "bad.c", "text": "droppedword " * 5000, "split": "train", "reasons": ["too_bad"]}
    return write_documents(
        "split", rows(textwrap, argparse), [{"path": "tabs.c", "text": tabs, "split": "train"}, held, dropped]
    )


def train(documents: epath.Path, out: pathlib.Path, **parameters: Any) -> epath.Path:
    out.mkdir()
    tokenizer(epath.Path(out), documents=documents, **{"vocab_size": VOCAB} | parameters)
    return epath.Path(out)


def test_layout_is_that_of_the_released_models(documents: epath.Path, tmp_path: pathlib.Path) -> None:
    out = train(documents, tmp_path / "tokenizer")
    model = (out / "tokenizer.model").read_bytes()
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    names = [pieces.id_to_piece(i) for i in range(len(pieces))]
    assert len(names) == len(set(names)) == VOCAB
    assert names[:4] == ["<unk>", "<s>", "</s>", "<pad>"]
    assert names[4:260] == [f"<0x{byte:02X}>" for byte in range(256)]
    assert names[VOCAB - 101 : VOCAB - 99] == ["<|im_end|>", "<|im_start|>"]
    control = [i for i in range(VOCAB) if pieces.is_control(i)]
    assert control == [1, 2, 3, *range(VOCAB - 101, VOCAB)]
    assert json.loads((out / "tokenizer.json").read_text()) == {
        "vocab_size": VOCAB,
        "digest": hashlib.sha256(model).hexdigest(),
        "special": {"unk": 0, "bos": 1, "eos": 2, "pad": 3, "im_end": VOCAB - 101, "im_start": VOCAB - 100},
        "bytes_per_token": {"c": pytest.approx(60_000 / len(Encoder(out).encode("heldoutword " * 5000)), rel=1e-4)},
    }


def test_pieces_suit_code(documents: epath.Path, tmp_path: pathlib.Path) -> None:
    out = train(documents, tmp_path / "tokenizer")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(out / "tokenizer.model"))
    learned = [pieces.id_to_piece(i) for i in range(260, VOCAB - 101)]
    assert "\u2581" * 8 in learned
    assert any("\n" in piece and len(piece) > 1 for piece in learned)
    assert any(piece.count("\t") > 1 for piece in learned)
    assert not any(len(piece) > 1 and any(c.isdigit() for c in piece) for piece in learned)
    assert not any(word.startswith(piece) for piece in learned for word in ("heldoutw", "droppedw") if len(piece) > 4)


def test_same_bytes_for_any_number_of_threads(
    documents: epath.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spm_train = sentencepiece.SentencePieceTrainer.train
    models = set()
    for threads in (1, 7):
        monkeypatch.setattr(
            sentencepiece.SentencePieceTrainer,
            "train",
            lambda threads=threads, **kwargs: spm_train(num_threads=threads, **kwargs),
        )
        out = train(documents, tmp_path / str(threads))
        models.add((out / "tokenizer.model").read_bytes())
    assert len(models) == 1


def test_ids_that_a_small_corpus_has_no_pieces_for_stay_unused(
    write_documents: Callable[..., epath.Path], tmp_path: pathlib.Path
) -> None:
    documents = write_documents("split", rows(textwrap))
    (tmp_path / "a").mkdir()
    result = tokenizer(epath.Path(tmp_path / "a"), documents=documents, vocab_size=8192)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "a" / "tokenizer.model"))
    names = [pieces.id_to_piece(i) for i in range(len(pieces))]
    first = names.index("<|unused_0|>")
    assert result["pieces"] == first + 101 < 8192 == len(names) == len(set(names))
    assert names[first : 8192 - 101] == [f"<|unused_{i}|>" for i in range(8192 - 101 - first)]
    assert all(pieces.is_control(i) for i in range(first, 8192))
    assert names[8192 - 101 : 8192 - 99] == ["<|im_end|>", "<|im_start|>"]
    exact = train(documents, tmp_path / "exact", vocab_size=first + 101)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(exact / "tokenizer.model"))
    assert [pieces.id_to_piece(i) for i in range(first)] == names[:first]
    assert pieces.id_to_piece(first) == "<|im_end|>"


@pytest.mark.parametrize("text", ["a", "\u2581 \0", "漢字" * 9 + "".join(map(chr, range(0x4E00, 0x4E00 + 500)))])
@pytest.mark.parametrize("vocab_size", [363, 400])
def test_any_text_gives_a_tokenizer_that_encodes_everything(
    write_documents: Callable[..., epath.Path], tmp_path: pathlib.Path, text: str, vocab_size: int
) -> None:
    documents = write_documents("split", [{"path": "a.c", "text": text, "split": "train"}])
    encoder = Encoder(train(documents, tmp_path / "tokenizer", vocab_size=vocab_size))
    for sample in (text, "any other\ttext, 字", b"\xff\0"):
        raw = sample.encode() if isinstance(sample, str) else sample
        assert decoded(encoder, sample) == raw


def decoded(encoder: Encoder, text: str | bytes) -> bytes:
    pieces = encoder._processor
    ids = encoder.encode(text).tolist()
    assert all(4 <= i and not pieces.is_control(i) for i in ids)
    spelt = [
        bytes([i - 4]) if pieces.is_byte(i) else pieces.id_to_piece(i).replace("\u2581", " ").encode() for i in ids
    ]
    return b"".join(spelt)


def test_a_vocabulary_without_room_for_text_is_refused(documents: epath.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="more than 362"):
        train(documents, tmp_path / "tokenizer", vocab_size=362)


def test_a_corpus_without_training_documents_is_refused(
    write_documents: Callable[..., epath.Path], tmp_path: pathlib.Path
) -> None:
    documents = write_documents("split", rows(textwrap, split="heldout"))
    with pytest.raises(ValueError, match="no training documents"):
        train(documents, tmp_path / "tokenizer")
    blank = write_documents("blank", [{"path": "a.c", "text": "\n \n", "split": "train"}])
    with pytest.raises(ValueError, match="no training documents"):
        train(blank, tmp_path / "blank_tokenizer")


def test_sample_has_about_the_size_asked_for(
    write_documents: Callable[..., epath.Path], tmp_path: pathlib.Path
) -> None:
    documents = write_documents("split", [{"path": f"{i}.c", "text": "x" * 100, "split": "train"} for i in range(2000)])
    sample = module._sample(documents, 50_000, "a")
    assert 400 < len(sample) < 600
    assert len(module._sample(documents, 1 << 30, "a")) == 2000


def test_chunks_lose_nothing_and_end_at_line_ends() -> None:
    text = "".join(f"line {i} {'x' * (i % 90)}\n" for i in range(2000)) + "y" * (3 * module.CHUNK) + "\nend"
    chunks = list(module._chunks([text, ""]))
    assert "".join(chunks) == text
    assert max(map(len, chunks)) <= module.CHUNK
    assert all(chunk.endswith("\n") for chunk in chunks[:5])
