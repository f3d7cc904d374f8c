"""The tokenizer as training, evaluation and decoding see it: text ↔ ids, and the special ids by name.

`Tokenizer.load` reads a tokenizer directory of ours (`tokenizer.model` of SentencePiece and `tokenizer.json`, which
describes it) or one in Hugging Face's format (its own `tokenizer.json`, or `tokenizer.model` alone, with
`tokenizer_config.json`).
"""

from __future__ import annotations

import abc
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

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


class Tokenizer(abc.ABC):
    """Encodes and decodes; special ids never come out of a text, whatever it spells.

    With a tokenizer of ours `decode(encode(x)) == x` for every byte string x; one of Hugging Face's replaces what is
    not UTF-8, and what its normaliser replaces.

    Attributes:
      digest: SHA-256 of the file that decides about ids.
      vocab_size: the highest id + 1.
      bytes_per_token: by language, where it was measured.
      eos, pad: ids; `pad` is `eos` where there is none.
      im_start, im_end: ids of the chat template's markers; None where there are none.
      prefix: ids that stand before a text that is to be completed, as they stood in training.
      ends: ids that end a completion.
    """

    def __init__(self, directory: epath.Path, digest: str, pieces: Sequence[bytes], special: dict[str, int]) -> None:
        """pieces: the bytes of each id; special: name → id."""
        self.directory = directory
        self.digest = digest
        self.vocab_size = len(pieces)
        self.bytes_per_token: dict[str, float] = {}
        self._pieces = pieces
        self.eos: int = special["eos"]
        self.pad: int = special.get("pad", self.eos)
        self.im_start: int | None = special.get("im_start")
        self.im_end: int | None = special.get("im_end")
        self.prefix: list[int] = []
        self.ends = tuple(sorted({i for i in (self.eos, self.im_end) if i is not None}))

    @property
    def start(self) -> list[int]:
        """What a text's first token is predicted from: the last id of `prefix`, else eos, the end of another text."""
        return self.prefix[-1:] or [self.eos]

    @staticmethod
    def load(directory: epath.PathLike) -> Tokenizer:
        """The tokenizer in `directory`.

        Raises FileNotFoundError if there is none, ValueError if its files do not belong together or are not understood.
        """
        directory = epath.Path(directory)
        description = directory / "tokenizer.json"
        if description.exists():
            found = json.loads(description.read_text())
            return HuggingFaceTokenizer(directory) if "model" in found else SentencePieceTokenizer(directory, found)
        if (directory / "tokenizer.model").exists() and (directory / "tokenizer_config.json").exists():
            return SentencePieceTokenizer(directory, _describe(directory))
        raise FileNotFoundError(
            f"{directory} holds no tokenizer.json: give the output of stage tokenizer, or of --mode=import"
        )

    @abc.abstractmethod
    def encode(self, text: str | bytes) -> list[int]:
        """Ids of `text`."""

    def decode(self, ids: Iterable[int]) -> bytes:
        """The bytes that `ids` stand for; nothing for special ids and those a model's vocabulary has beyond ours."""
        return b"".join(self._pieces[i] for i in ids if i < len(self._pieces))

    def decode_text(self, ids: Iterable[int]) -> str:
        """As `decode`, with U+FFFD for what is not UTF-8."""
        return self.decode(ids).decode("utf-8", "replace")


class SentencePieceTokenizer(Tokenizer):
    """`tokenizer.model` and its description: {"digest", "vocab_size", "special", "bytes_per_token", …}."""

    # SentencePiece writes a space as U+2581 and replaces bytes that are not UTF-8, so both go around it as raw bytes.
    _RAW = re.compile("([\u2581\ud800-\udfff]+)")

    def __init__(self, directory: epath.Path, description: dict[str, Any]) -> None:
        path = directory / "tokenizer.model"
        if not path.exists():
            raise FileNotFoundError(f"{directory} holds no tokenizer.model: give the output of stage tokenizer")
        model = path.read_bytes()
        digest = hashlib.sha256(model).hexdigest()
        if digest != description["digest"]:
            raise ValueError(f"{directory}: tokenizer.model is not the one tokenizer.json describes: make it again")
        self._processor = processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        special: dict[str, int] = description["special"]
        # Ids behind those of the model were added to it; none of them stands for text.
        names = {name: processor.id_to_piece(i) for name, i in special.items() if i < len(processor)}
        if any(names[name] != SPECIAL[name] for name in names) or len(processor) > description["vocab_size"]:
            raise ValueError(f"{directory}: special ids or vocabulary size differ from tokenizer.json: make it again")
        self._first_byte: int = processor.piece_to_id("<0x00>")
        pieces = [self._bytes_of(i) for i in range(len(processor))]
        super().__init__(directory, digest, pieces + [b""] * (description["vocab_size"] - len(processor)), special)
        self.bytes_per_token = description["bytes_per_token"]
        self.prefix = description.get("prefix", [self.eos])

    def encode(self, text: str | bytes) -> list[int]:
        if isinstance(text, str):
            text = text.encode("utf-8", "surrogatepass")
        ids: list[int] = []
        for i, run in enumerate(self._RAW.split(text.decode("utf-8", "surrogateescape"))):  # plain, raw, plain, …
            if i % 2:
                ids += [byte + self._first_byte for byte in run.encode("utf-8", "surrogateescape")]
            else:
                ids += self._processor.encode(run, out_type=int)
        return ids

    def _bytes_of(self, i: int) -> bytes:
        if self._processor.is_byte(i):
            return bytes([i - self._first_byte])
        if self._processor.is_control(i) or self._processor.is_unknown(i):
            return b""
        return self._processor.id_to_piece(i).replace("\u2581", " ").encode()


def _describe(directory: epath.Path) -> dict[str, Any]:
    """What our tokenizer.json would say of a Hugging Face directory that holds a SentencePiece model."""
    model = (directory / "tokenizer.model").read_bytes()
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    config = _config(directory)
    added = {token["content"]: int(i) for i, token in config.get("added_tokens_decoder", {}).items()}
    known = added | {p: i for i in range(len(processor)) if (p := processor.id_to_piece(i)) in SPECIAL.values()}
    special = {name: known[piece] for name, piece in SPECIAL.items() if piece in known}
    if "eos" not in special:
        raise ValueError(f"{directory}: tokenizer.model has no {SPECIAL['eos']}")
    return {
        "digest": hashlib.sha256(model).hexdigest(),
        "vocab_size": max([len(processor), *(i + 1 for i in added.values())]),
        "special": special,
        "bytes_per_token": {},
        "prefix": [special["bos"]] if config.get("add_bos_token", True) else [],
    }


def _config(directory: epath.Path) -> dict[str, Any]:
    path = directory / "tokenizer_config.json"
    return json.loads(path.read_text()) if path.exists() else {}


class HuggingFaceTokenizer(Tokenizer):
    """A `tokenizer.json` of Hugging Face, byte-level (GPT-2, Llama 3, Qwen) or with byte fallback (Llama 2)."""

    def __init__(self, directory: epath.Path) -> None:
        import tokenizers  # only models from elsewhere need it

        text = (directory / "tokenizer.json").read_text()
        description = json.loads(text)
        self._tokenizer = tokenizers.Tokenizer.from_str(text)
        self._tokenizer.encode_special_tokens = True  # as text
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        byte_level = '"ByteLevel"' in json.dumps(description["decoder"])
        pieces = [b""] * (max(vocabulary.values()) + 1)
        for piece, i in description["model"]["vocab"].items():
            pieces[i] = _gpt2_bytes(piece) if byte_level else _bytes(piece)
        for token in description["added_tokens"]:
            pieces[token["id"]] = b"" if token["special"] else token["content"].encode()
        config = _config(directory)
        named = {name: config.get(f"{name}_token") for name in ("eos", "pad")} | {
            name: SPECIAL[name] for name in ("im_start", "im_end")
        }
        spelled = {name: token["content"] if isinstance(token, dict) else token for name, token in named.items()}
        special = {name: vocabulary[token] for name, token in spelled.items() if token in vocabulary}
        if "eos" not in special:
            raise ValueError(f"{directory}/tokenizer_config.json names no eos_token of tokenizer.json")
        super().__init__(directory, hashlib.sha256(text.encode()).hexdigest(), pieces, special)
        self.prefix = self._tokenizer.encode("").ids

    def encode(self, text: str | bytes) -> list[int]:
        if isinstance(text, str):
            text = text.encode("utf-8", "replace")
        text = text.decode("utf-8", "replace")
        return self._tokenizer.encode(text, add_special_tokens=False).ids


def _bytes(piece: str) -> bytes:
    byte = re.fullmatch("<0x([0-9A-F]{2})>", piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace("\u2581", " ").encode()


def _gpt2_alphabet() -> dict[str, int]:
    """The printable character that stands for a byte in byte-level vocabularies → the byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


_GPT2 = _gpt2_alphabet()


def _gpt2_bytes(piece: str) -> bytes:
    return bytes(_GPT2[character] for character in piece if character in _GPT2)
