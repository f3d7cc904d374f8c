"""The tokenizer as training, evaluation and decoding see it: exact text ↔ ids, and the special ids by name.

A tokenizer directory holds `tokenizer.model` (SentencePiece) and `tokenizer.json` (sizes, digest, special ids).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable

import sentencepiece
from etils import epath

SPECIAL = {
    "unk": "<unk>",
    "bos": "<s>",
    "eos": "</s>",
    "pad": "<pad>",
    "im_end": "<|im_end|>",
    "im_start": "<|im_start|>",
}


class Tokenizer:
    """Encodes and decodes exactly: `decode(encode(x)) == x` for every byte string x.

    Args:
      directory: a tokenizer directory.

    Raises:
      FileNotFoundError: it holds no tokenizer.
      ValueError: model and description do not belong together, or a special id is not where the description says.
    """

    # SentencePiece writes a space as U+2581 and replaces bytes that are not UTF-8, so both go around it as raw bytes.
    _RAW = re.compile("([\u2581\ud800-\udfff]+)")

    def __init__(self, directory: epath.PathLike) -> None:
        self.directory = directory = epath.Path(directory)
        for name in ("tokenizer.model", "tokenizer.json"):
            if not (directory / name).exists():
                raise FileNotFoundError(f"{directory} holds no {name}: give the output of stage tokenizer")
        model = (directory / "tokenizer.model").read_bytes()
        description = json.loads((directory / "tokenizer.json").read_text())
        self.digest = hashlib.sha256(model).hexdigest()
        if self.digest != description["digest"]:
            raise ValueError(f"{directory}: tokenizer.model is not the one tokenizer.json describes: make it again")
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size: int = description["vocab_size"]
        self.bytes_per_token: dict[str, float] = description["bytes_per_token"]
        special = description["special"]
        pieces = {name: self._processor.id_to_piece(special[name]) for name in SPECIAL}
        if pieces != SPECIAL or len(self._processor) != self.vocab_size:
            raise ValueError(f"{directory}: special ids or vocabulary size differ from tokenizer.json: make it again")
        self.unk: int = special["unk"]
        self.bos: int = special["bos"]
        self.eos: int = special["eos"]
        self.pad: int = special["pad"]
        self.im_start: int = special["im_start"]
        self.im_end: int = special["im_end"]
        self._first_byte: int = self._processor.piece_to_id("<0x00>")
        self._bytes = [self._bytes_of(i) for i in range(self.vocab_size)]

    def encode(self, text: str | bytes) -> list[int]:
        """Ids of `text`; special ids never come out, whatever it spells."""
        if isinstance(text, str):
            text = text.encode("utf-8", "surrogatepass")
        ids: list[int] = []
        for i, run in enumerate(self._RAW.split(text.decode("utf-8", "surrogateescape"))):  # plain, raw, plain, …
            if i % 2:
                ids += [byte + self._first_byte for byte in run.encode("utf-8", "surrogateescape")]
            else:
                ids += self._processor.encode(run, out_type=int)
        return ids

    def decode(self, ids: Iterable[int]) -> bytes:
        """The bytes that `ids` stand for; special ids stand for nothing."""
        return b"".join(self._bytes[i] for i in ids)

    def decode_text(self, ids: Iterable[int]) -> str:
        """As `decode`, with U+FFFD for what is not UTF-8."""
        return self.decode(ids).decode("utf-8", "replace")

    def _bytes_of(self, i: int) -> bytes:
        if self._processor.is_byte(i):
            return bytes([i - self._first_byte])
        if self._processor.is_control(i) or self._processor.is_unknown(i):
            return b""
        return self._processor.id_to_piece(i).replace("\u2581", " ").encode()
