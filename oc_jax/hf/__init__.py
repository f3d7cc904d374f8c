"""Models in Hugging Face's format, in and out: any `LlamaForCausalLM` directory ↔ the checkpoint of a train stage.

One table says which tensor of theirs is which parameter of ours, and serves both ways. Tensors are read and written one
at a time, so that little but the parameters themselves is in memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from flax import traverse_util

from oc_jax import checkpoint as checkpoint_lib
from oc_jax import model as model_lib
from oc_jax.hf import safetensors
from oc_jax.hf.card import model_card
from oc_jax.hf.tokenizer import export_tokenizer, import_tokenizer
from oc_jax.model import ModelConfig, Params
from oc_jax.sharding import Layout, MeshConfig, make_layout
from oc_jax.tokenizer import Tokenizer

LOGGER = logging.getLogger("oc_jax.hf")
MAX_FILE_BYTES = 5 * 10**9


class Weight(NamedTuple):
    """A tensor of theirs ({} is the layer) and the parameter of ours that holds it, for all layers stacked.

    A matrix of theirs is [out, in]; ours has the inputs first, as `inputs` axes. 0: both are the same.
    """

    name: str
    path: str
    inputs: int

    @property
    def stacked(self) -> bool:
        return "{}" in self.name

    def to_ours(self, theirs: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return (theirs.T if self.inputs else theirs).reshape(shape)

    def to_theirs(self, ours: np.ndarray) -> np.ndarray:
        return ours.reshape(math.prod(ours.shape[: self.inputs]), -1).T if self.inputs else ours

    def their_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (math.prod(shape[self.inputs :]), math.prod(shape[: self.inputs])) if self.inputs else shape


WEIGHTS = (
    Weight("model.embed_tokens.weight", "embedding", 0),
    Weight("model.layers.{}.input_layernorm.weight", "layers/attention_norm/scale", 0),
    Weight("model.layers.{}.self_attn.q_proj.weight", "layers/attention/q", 1),
    Weight("model.layers.{}.self_attn.k_proj.weight", "layers/attention/k", 1),
    Weight("model.layers.{}.self_attn.v_proj.weight", "layers/attention/v", 1),
    Weight("model.layers.{}.self_attn.o_proj.weight", "layers/attention/o", 2),
    Weight("model.layers.{}.post_attention_layernorm.weight", "layers/mlp_norm/scale", 0),
    Weight("model.layers.{}.mlp.gate_proj.weight", "layers/mlp/gate", 1),
    Weight("model.layers.{}.mlp.up_proj.weight", "layers/mlp/up", 1),
    Weight("model.layers.{}.mlp.down_proj.weight", "layers/mlp/down", 1),
    Weight("model.norm.weight", "norm/scale", 0),
    Weight("lm_head.weight", "lm_head", 1),
)
EMBEDDING, LM_HEAD = WEIGHTS[0], WEIGHTS[-1]

# What config.json may ask for, and the only answer that the model has.
FIXED = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "rope_type": "default"}

# Called the same in config.json and ModelConfig.
SAME = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "rms_norm_eps",
)


def read_config(directory: epath.Path) -> ModelConfig:
    """config.json as a ModelConfig. Raises FileNotFoundError, or ValueError for another architecture than Llama's."""
    path = directory / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{directory} is not a Hugging Face model: it holds no config.json")
    config = json.loads(path.read_text())
    if "LlamaForCausalLM" not in config.get("architectures", []):
        raise ValueError(f"{path}: only LlamaForCausalLM can be imported, not {config.get('architectures')}")
    config |= config.get("rope_scaling") or {}  # where older versions name the type …
    config |= config.get("rope_parameters") or {}  # … and newer ones also theta
    for name, known in FIXED.items():
        if config.get(name, known) != known:
            raise ValueError(f"{path}: {name} = {config[name]!r} is not supported, only {known!r}")
    heads = config["num_attention_heads"]
    return ModelConfig(
        **{name: config[name] for name in SAME},
        num_key_value_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        rope_theta=float(config.get("rope_theta", 10_000)),
        initializer_range=config.get("initializer_range", 0.02),
    )


def write_config(out: epath.Path, config: ModelConfig, tokenizer: Tokenizer, dtype: np.dtype, tied: bool) -> None:
    """config.json and generation_config.json."""
    described: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **{name: getattr(config, name) for name in SAME},
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "rope_theta": config.rope_theta,
        "initializer_range": config.initializer_range,
        **{name: FIXED[name] for name in ("hidden_act", "attention_bias", "mlp_bias")},
        "tie_word_embeddings": tied,
        "torch_dtype": dtype.name,
        "bos_token_id": tokenizer.prefix[0] if tokenizer.prefix else None,
        "eos_token_id": tokenizer.eos,
        "pad_token_id": tokenizer.pad,
    }
    (out / "config.json").write_text(json.dumps(described, indent=1) + "\n")
    generation = {"eos_token_id": list(tokenizer.ends), "pad_token_id": tokenizer.pad}
    (out / "generation_config.json").write_text(json.dumps(generation, indent=1) + "\n")


def load_params(directory: epath.Path, config: ModelConfig, layout: Layout) -> Params:
    """The parameters of a Hugging Face directory, in its precision, as arrays laid out by `layout`.

    Tied embeddings come apart: the embedding is also the output projection. A process reads every tensor once and keeps
    what its devices hold. Raises ValueError for a tensor that is missing, left over, or of another shape.
    """
    tensors = safetensors.open_directory(directory)
    if LM_HEAD.name not in tensors and EMBEDDING.name in tensors:
        tensors[LM_HEAD.name] = tensors[EMBEDDING.name]
    _, shapes, axes = model_lib.abstract(config)
    shardings = _flat(layout.tree(axes, shapes))
    params = {}
    for path, shape in _flat(shapes).items():
        (weight,) = (w for w in WEIGHTS if w.path == path)
        layers = range(shape.shape[0]) if weight.stacked else [0]
        held = []
        for layer in layers:
            tensor = tensors.pop(weight.name.format(layer), None)
            expected = weight.their_shape(shape.shape[1:] if weight.stacked else shape.shape)
            if tensor is None or tensor.shape != expected:
                found = "is missing" if tensor is None else f"has the shape {list(tensor.shape)}"
                raise ValueError(
                    f"{directory}: {weight.name.format(layer)} {found}; by config.json it is {list(expected)}"
                )
            held.append(tensor)
        params[path] = _assemble(weight, held, shape.shape, shardings[path])
    # Old exports list what every model of the architecture has.
    left_over = [name for name in tensors if not name.endswith("rotary_emb.inv_freq")]
    if left_over:
        raise ValueError(f"{directory} holds {left_over[0]}, which has no place in the model of config.json")
    return traverse_util.unflatten_dict(params, sep="/")


def _flat(tree: Params) -> dict[str, Any]:
    return traverse_util.flatten_dict(tree, sep="/")  # pyright: ignore[reportReturnType]


def _assemble(weight: Weight, tensors: list[safetensors.Tensor], shape: tuple[int, ...], sharding) -> jax.Array:
    """One parameter, of which this process holds in memory what its devices get and one tensor more."""
    places = sharding.addressable_devices_indices_map(shape)
    key = lambda index: tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True))
    parts: dict[tuple, np.ndarray] = {}
    for index in places.values():
        parts[key(index)] = np.empty([stop - start for start, stop in key(index)], tensors[0].dtype)
    for layer, tensor in enumerate(tensors):
        ours = weight.to_ours(tensor.read(), shape[1:] if weight.stacked else shape)
        for bounds, part in parts.items():
            window = tuple(slice(*b) for b in bounds)
            if not weight.stacked:
                part[...] = ours[window]
            elif bounds[0][0] <= layer < bounds[0][1]:
                part[layer - bounds[0][0]] = ours[window[1:]]
    on_devices = [jax.device_put(parts[key(index)], device) for device, index in places.items()]
    return jax.make_array_from_single_device_arrays(shape, sharding, on_devices)


def import_model(source: epath.Path, out: epath.Path, *, mesh: MeshConfig = MeshConfig()) -> ModelConfig:
    """Writes the model in `source` as a train stage `out` and its tokenizer as the folder `tokenizer` beside it.

    Raises what `read_config` and `load_params` raise, and ValueError for another tokenizer beside `out`.
    """
    config = read_config(source)
    import_tokenizer(source, out.parent / "tokenizer")
    params = load_params(source, config, make_layout(mesh))
    described = {"model": dataclasses.asdict(config), "stage": out.name, "config": f"# imported from {source}\n"}
    checkpoint_lib.write(out / "checkpoints", 0, {"params": params}, described)
    return config


def export_model(
    stage: epath.Path,
    tokenizer: epath.Path,
    out: epath.Path,
    *,
    dtype: str = "bfloat16",
    mesh: MeshConfig = MeshConfig(),
    max_file_bytes: int = MAX_FILE_BYTES,
) -> None:
    """Writes the newest checkpoint of a train stage so that transformers, and what reads its format, can load it.

    The embedding is written once where the output projection has the same bits. Raises FileNotFoundError if there is no
    checkpoint or tokenizer.
    """
    metadata = checkpoint_lib.metadata(stage / "checkpoints")
    config = ModelConfig(**metadata["model"])
    _, shapes, axes = model_lib.abstract(config)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), shapes)
    loaded = checkpoint_lib.restore_params(stage / "checkpoints", shapes, make_layout(mesh).tree(axes, shapes))
    params = _flat(loaded)
    tied = bool(jax.numpy.array_equal(params[EMBEDDING.path], params[LM_HEAD.path].T))
    planned = []
    for weight in (w for w in WEIGHTS if not (tied and w is LM_HEAD)):
        leaf = params[weight.path]
        if not weight.stacked:
            value = lambda weight=weight, leaf=leaf: weight.to_theirs(np.asarray(leaf))
            planned.append(safetensors.Planned(weight.name, weight.their_shape(leaf.shape), value))
            continue
        for layer in range(leaf.shape[0]):
            value = lambda weight=weight, leaf=leaf, layer=layer: weight.to_theirs(np.asarray(leaf[layer]))
            planned.append(safetensors.Planned(weight.name.format(layer), weight.their_shape(leaf.shape[1:]), value))
    out.mkdir(parents=True, exist_ok=True)
    kept = np.dtype(jax.numpy.dtype(dtype))
    safetensors.write_directory(out, planned, kept, max_file_bytes)
    write_config(out, config, Tokenizer.load(tokenizer), kept, tied)
    export_tokenizer(tokenizer, out)
    (out / "README.md").write_text(model_card(stage, metadata))


def import_main(argv: list[str]) -> None:
    """python run.py --mode=import"""
    parser = argparse.ArgumentParser(
        prog="run.py --mode=import",
        description="Makes a Hugging Face model (any LlamaForCausalLM) a train stage that others can start from.",
    )
    parser.add_argument("--model", required=True, help="directory with config.json, *.safetensors and a tokenizer")
    parser.add_argument(
        "--out", required=True, help="the stage, e.g. out/mine/imported; the tokenizer goes to out/mine/tokenizer"
    )
    args = parser.parse_args(argv)
    config = import_model(epath.Path(args.model), epath.Path(args.out))
    print(f"{args.out}: {json.dumps(dataclasses.asdict(config))}")


def export_main(argv: list[str]) -> None:
    """python run.py --mode=export"""
    parser = argparse.ArgumentParser(
        prog="run.py --mode=export", description="Writes a checkpoint in Hugging Face's format, with a model card."
    )
    parser.add_argument("--checkpoint", required=True, help="directory of a train stage, e.g. out/cookbook/sft2")
    parser.add_argument("--tokenizer", help="tokenizer directory (default: beside the checkpoint)")
    parser.add_argument("--out", required=True, help="directory to write")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"), help="precision of the weights")
    args = parser.parse_args(argv)
    stage = epath.Path(args.checkpoint)
    tokenizer = epath.Path(args.tokenizer) if args.tokenizer else stage.parent / "tokenizer"
    export_model(stage, tokenizer, epath.Path(args.out), dtype=args.dtype)
    print(f"{args.out}: {', '.join(sorted(path.name for path in epath.Path(args.out).iterdir()))}")
