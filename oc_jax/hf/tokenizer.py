"""Our tokenizer as transformers reads it, and theirs as we do.

A SentencePiece BPE model becomes a `tokenizer.json` of Hugging Face's that gives the same ids: the same pieces, with a
plain space for U+2581, so that no normaliser is needed and a literal U+2581 falls back to bytes as it does in ours; and
as merges all ways to put a piece together from two others, in the order of the pieces' scores.
"""

from __future__ import annotations

import json
from typing import Any

import sentencepiece
from etils import epath

from oc_jax.chat import DEFAULT_SYSTEM
from oc_jax.tokenizer import SPECIAL, Tokenizer

FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)

# What `oc_jax.chat.render` renders.
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\n"
    + DEFAULT_SYSTEM
    + "<|im_end|>\\n' }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def import_tokenizer(source: epath.Path, out: epath.Path) -> None:
    """Copies a tokenizer that `Tokenizer.load` can read. Raises as that, and ValueError if another one is in `out`."""
    digest = Tokenizer.load(source).digest
    if out.exists():
        if Tokenizer.load(out).digest != digest:
            raise ValueError(f"{out} holds another tokenizer than {source}: import into another folder")
        return
    _copy(source, out)


def _copy(source: epath.Path, out: epath.Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if (source / name).exists():
            (source / name).copy(out / name, overwrite=True)


def export_tokenizer(directory: epath.Path, out: epath.Path) -> None:
    """Writes the tokenizer in `directory` for `AutoTokenizer`; one that came from there is copied."""
    if (directory / "tokenizer_config.json").exists():
        return _copy(directory, out)
    processor = sentencepiece.SentencePieceProcessor(model_proto=(directory / "tokenizer.model").read_bytes())
    (out / "tokenizer.json").write_text(json.dumps(_fast(processor), ensure_ascii=False))
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
        **{f"{name}_token": SPECIAL[name] for name in ("unk", "bos", "eos", "pad")},
        "additional_special_tokens": [SPECIAL["im_start"], SPECIAL["im_end"]],
    }
    (out / "tokenizer_config.json").write_text(json.dumps(described, indent=1) + "\n")


def _fast(processor: sentencepiece.SentencePieceProcessor) -> dict[str, Any]:
    """A tokenizer.json of the `tokenizers` library."""
    pieces = [processor.id_to_piece(i).replace("\u2581", " ") for i in range(len(processor))]
    special = [i for i, piece in enumerate(pieces) if piece in SPECIAL.values()]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": pieces[i], "special": True, **flags} for i in special],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": SPECIAL["unk"],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": _merges(processor, pieces),
        },
    }


def _merges(processor: sentencepiece.SentencePieceProcessor, pieces: list[str]) -> list[list[str]]:
    """Pairs, best first. Among those that make the same piece, the longer left part first: SentencePiece goes left to
    right, which in a run of one character leaves the longer part on the left."""
    others = (processor.is_byte, processor.is_control, processor.is_unknown, processor.is_unused)
    normal = {piece: i for i, piece in enumerate(pieces) if not any(other(i) for other in others)}
    merges = []
    for piece in sorted(normal, key=lambda piece: (-processor.get_score(normal[piece]), normal[piece])):
        for cut in range(len(piece) - 1, 0, -1):
            if piece[:cut] in normal and piece[cut:] in normal:
                merges.append([piece[:cut], piece[cut:]])
    return merges
