"""The tokenizer: SentencePiece BPE in the layout of the released OpenCoder models (paper §3.1), and its encoder.

Ids: 0 <unk>, 1 <s>, 2 </s>, 3 <pad>, 4 … 259 the bytes, then the BPE pieces, and at the end of a vocabulary of V
V-101 <|im_end|>, V-100 <|im_start|> and 99 reserved ones, which gives 96539 and 96540 at V = 96,640. The special pieces
are control pieces: no text encodes to them. White space is kept as it is and every byte string survives a round trip.
Where the text has fewer pieces in it than the vocabulary has room for, the ids left over are control pieces too.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
from collections import Counter
from collections.abc import Iterator

import gin
import numpy as np
import pyarrow.compute as pc
import sentencepiece
from etils import epath
from sentencepiece import sentencepiece_model_pb2

from data_prep import documents as docs
from data_prep.files import atomic, write_json
from data_prep.progress import Progress
from data_prep.sampling import draw

LOGGER = logging.getLogger("data_prep")

FIRST_BYTE = 4
EOS = 2
TAIL = ("<|im_end|>", "<|im_start|>", *(f"<|reserved_{i}|>" for i in range(99)))
CHUNK = 8192  # characters: SentencePiece skips sentences above a limit, so long documents are cut at line ends
MEASURED_BYTES = 4 << 20  # of each language, for bytes_per_token


@gin.configurable
def tokenizer(
    out: epath.Path,
    *,
    documents: epath.Path = epath.Path("split"),
    vocab_size: int = 8192,
    sample_bytes: int = 32 << 20,
    salt: str = "tokenizer",
) -> dict:
    """Trains on a sample of the kept training documents; writes tokenizer.model and tokenizer.json.

    Args:
      out: tokenizer directory to write.
      documents: documents with column `split`.
      vocab_size: number of ids, the 361 special and byte ids included.
      sample_bytes: expected size of the sample, drawn by a salted hash of the ids.
      salt: another salt draws another sample.

    Returns:
      "vocab_size", "pieces" (fewer than `vocab_size` where the text has no more in it: the other ids are unused),
      "sample_documents", "sample_bytes" and "bytes_per_token".

    Raises:
      ValueError: there are no training documents, or `vocab_size` has no room beside the special and byte ids.
    """
    sample = _sample(documents, sample_bytes, salt)
    LOGGER.info("tokenizer: training %d pieces on %d documents", vocab_size, len(sample))
    model, pieces = _train(sample, vocab_size)
    with atomic(out / "tokenizer.model") as file:
        file.write(model)
    bytes_per_token = _bytes_per_token(documents, Encoder(out))
    description = {
        "vocab_size": vocab_size,
        "digest": hashlib.sha256(model).hexdigest(),
        "special": {
            "unk": 0,
            "bos": 1,
            "eos": EOS,
            "pad": 3,
            "im_end": vocab_size - len(TAIL),
            "im_start": vocab_size - len(TAIL) + 1,
        },
        "bytes_per_token": bytes_per_token,
    }
    write_json(out / "tokenizer.json", description)
    return {
        "vocab_size": vocab_size,
        "pieces": pieces,
        "sample_documents": len(sample),
        "sample_bytes": sum(len(text.encode()) for text in sample),
        "bytes_per_token": bytes_per_token,
    }


class Encoder:
    """Turns text into ids, exactly: `decode(encode(x)) == x` for every byte string x.

    Args:
      directory: a tokenizer directory.
    """

    # SentencePiece writes a space as U+2581 and replaces bytes that are not UTF-8, so both go around it as raw bytes.
    _RAW = re.compile("([\u2581\ud800-\udfff]+)")

    def __init__(self, directory: epath.PathLike) -> None:
        model = (epath.Path(directory) / "tokenizer.model").read_bytes()
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    def encode(self, text: str | bytes) -> np.ndarray:
        """Ids (uint32 [tokens]) of `text`, without any special ids."""
        if isinstance(text, str):
            text = text.encode("utf-8", "surrogatepass")
        runs = self._RAW.split(text.decode("utf-8", "surrogateescape"))  # plain, raw, plain, raw, …, plain
        ids = [self._raw(run) if i % 2 else self._processor.encode(run, out_type="numpy") for i, run in enumerate(runs)]
        return (ids[0] if len(ids) == 1 else np.concatenate(ids)).astype(np.uint32)

    def lengths(self) -> np.ndarray:
        """Bytes that each id stands for, int64 [vocab_size]."""
        model = self._processor
        pieces = (model.id_to_piece(i).replace("\u2581", " ").encode() for i in range(model.vocab_size()))
        return np.array([1 if model.is_byte(i) else len(piece) for i, piece in enumerate(pieces)])

    @staticmethod
    def _raw(run: str) -> np.ndarray:
        return np.frombuffer(run.encode("utf-8", "surrogateescape"), np.uint8).astype(np.int32) + FIRST_BYTE


def _sample(documents: epath.Path, sample_bytes: int, salt: str) -> list[str]:
    """Texts of the training documents that a draw with the share `sample_bytes` / all bytes selects."""
    total = sum(pc.sum(table["size"]).as_py() for table in docs.read(documents, ["size"], split="train"))
    sample = []
    with Progress("tokenizer: sample", total, "bytes") as progress:
        for table in docs.read(documents, ["id", "text", "size"], split="train"):
            for identifier, text in zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True):
                if draw(salt, identifier) * total < sample_bytes:
                    sample.append(text)
            progress.update(pc.sum(table["size"]).as_py())
    if not any(text.strip() for text in sample):
        raise ValueError(f"{documents} holds no training documents to make a tokenizer from")
    return sample


def _train(sample: list[str], vocab_size: int) -> tuple[bytes, int]:
    """The model file, the same bytes for the same sample on any number of threads, and how many ids are not unused."""
    room = vocab_size - len(TAIL)
    least = FIRST_BYTE + 256 + 1 + len(TAIL)  # one id for the space
    if vocab_size <= least:
        raise ValueError(f"tokenizer.vocab_size = {vocab_size} is too small: bind more than {least}")
    proto = sentencepiece_model_pb2.ModelProto.FromString(trained(sample, room))
    unused = room - len(proto.pieces)
    if unused:
        LOGGER.warning("tokenizer: the text holds only %d pieces; %d ids stay unused", vocab_size - unused, unused)
    for piece in (*(f"<|unused_{i}|>" for i in range(unused)), *TAIL):
        proto.pieces.add(piece=piece, score=0.0, type=proto.SentencePiece.CONTROL)
    proto.trainer_spec.ClearField("required_chars")
    proto.trainer_spec.vocab_size = vocab_size
    proto.trainer_spec.num_threads = 1
    return proto.SerializeToString(deterministic=True), vocab_size - unused


def trained(sample: list[str], size: int) -> bytes:
    """A SentencePiece model of `size` pieces, or of as many as the sample has in it."""
    try:
        return _sentencepiece(sample, size)
    except RuntimeError as error:
        if match := re.search(r"too high .* <= (\d+)", str(error)):
            return _sentencepiece(sample, int(match[1]))
        if "smaller than required_chars" in str(error):
            common = max(1, (size - FIRST_BYTE - 256) // 2)
            LOGGER.warning("tokenizer: all but the %d most common characters are encoded as bytes", common)
            return trained(_without_rare_characters(sample, common), size)
        raise


def _sentencepiece(sample: list[str], size: int) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_chunks(sample),
        model_writer=model,
        model_type="bpe",
        vocab_size=size,
        unk_id=0,
        bos_id=1,
        eos_id=EOS,
        pad_id=3,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        required_chars="\u2581",  # without it a space would be encoded as the bytes of its stand-in
        max_sentencepiece_length=32,  # long enough for deep indentation
        max_sentence_length=4 * CHUNK,
        minloglevel=2,
    )
    return model.getvalue()


def _without_rare_characters(sample: list[str], common: int) -> list[str]:
    counts = Counter[str]()
    for text in sample:
        counts.update(text)
    order = sorted(counts, key=lambda character: (-counts[character], character))
    rare = dict.fromkeys(map(ord, order[common:]))
    return [text.translate(rare) for text in sample]


def _chunks(sample: list[str]) -> Iterator[str]:
    """The texts cut into at most `CHUNK` characters, behind the last line end of each chunk if it has one."""
    for text in sample:
        start = 0
        while start < len(text):
            end = start + CHUNK
            if end < len(text):
                end = text.rfind("\n", start, end) + 1 or end
            yield text[start:end]
            start = end


def _bytes_per_token(documents: epath.Path, encoder: Encoder) -> dict[str, float]:
    """By language, on held-out documents; on training documents if nothing is held out."""
    size, tokens = Counter[str](), Counter[str]()
    for split in ("heldout", "train"):
        for table in docs.read(documents, ["text", "language"], split=split):
            for text, language in zip(table["text"].to_pylist(), table["language"].to_pylist(), strict=True):
                if text and size[language] < MEASURED_BYTES:
                    size[language] += len(text.encode())
                    tokens[language] += len(encoder.encode(text))
        if size:
            break
    return {language: round(size[language] / tokens[language], 4) for language in sorted(tokens)}
