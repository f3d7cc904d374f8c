"""Searches mesh, remat and micro-batches for the fastest step of a run file that fits a TPU that is not there.

    python run.py --mode=plan --gin_file=gin/runs/opencoder_8b.gin --topology=v5p:4x4x8 --workdir=out/plan

Candidates are put in order by a step time from arithmetic, those that by arithmetic alone exceed the memory are left
out, and the rest are compiled by `aot.report`, the fastest first, until no other can gain more than
`MARGIN`. Each report stays in the workdir, so the same command goes on where it was stopped.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from typing import Any

from etils import epath

from oc_jax import aot, flops
from oc_jax.sharding import Layout, make_layout

MARGIN = 0.02  # of the best step time: what a candidate has to promise to be compiled, too
COMPILES = 12  # at most in one call
WAYS = (1, 2, 4, 8)  # of tensor × context, and of parts of a batch
ATTENTION = ("context", "query", "key", "value")
KEPT: tuple[Any, ...] = (
    (*ATTENTION, "middle", "gate", "up"),
    (*ATTENTION, "middle", "gate"),
    (*ATTENTION, "middle"),
    ATTENTION,
    ("context",),
    "full",
)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Arguments of a `train` stage and what arithmetic says of them."""

    arguments: dict[str, Any]
    layout: Layout
    seconds: float  # of a step: the slowest of compute and each mesh axis
    gib: float  # of a device: state, kept activations, and the largest arrays of a layer's backward pass

    @property
    def name(self) -> str:
        mesh, remat = self.arguments["mesh"], self.arguments["model"].remat
        kept = remat if isinstance(remat, str) else "+".join(remat)
        return f"tensor{mesh.tensor}-context{mesh.context}-parts{self.arguments['accumulation']}-{kept}"

    @property
    def configuration(self) -> str:
        """All that its compilation depends on."""
        names = ("model", "mesh", "batch_size", "accumulation", "seq_len", "compute_dtype", "loss_chunk", "z_loss")
        return repr({name: self.arguments[name] for name in names})

    @property
    def bindings(self) -> list[str]:
        mesh, remat = dataclasses.asdict(self.arguments["mesh"]), self.arguments["model"].remat
        return [
            f"ModelConfig.remat = {json.dumps(remat)}",
            *(f"MeshConfig.{axis} = {size}" for axis, size in mesh.items() if axis != "rules"),
            f"train.accumulation = {self.arguments['accumulation']}",
        ]


def candidates(arguments: dict[str, Any], devices: list[Any], slices: int) -> list[Candidate]:
    """All that the shapes allow and whose arithmetic fits, the fastest and simplest first."""
    chip = aot.CHIPS[devices[0].device_kind]
    found, executed = [], {}
    for choice, layout in _choices(arguments, devices, slices):
        remat = choice["model"].remat
        if remat not in executed:  # FLOPs of the whole step depend on nothing else
            executed[remat] = aot.executed_flops(aot.lower(choice, layout)[0])
        seconds, gib = _estimate(choice, layout, chip, executed[remat])
        if gib <= chip.hbm_gib:
            found.append(Candidate(choice, layout, seconds, gib))
    split = lambda c: c.layout.ways("mlp", "length")
    return sorted(found, key=lambda c: (round(c.seconds, 3), split(c), c.arguments["accumulation"]))


def _choices(arguments: dict[str, Any], devices: list[Any], slices: int) -> Iterator[tuple[dict[str, Any], Layout]]:
    model, mesh = arguments["model"], arguments["mesh"]
    copies = mesh.dcn if mesh.dcn > 0 and mesh.dcn % slices == 0 else slices
    for tensor, context, parts, remat in itertools.product(WAYS, WAYS, WAYS, KEPT):
        shards = len(devices) // (copies * tensor * context)
        divided = [
            *((size, tensor) for size in (model.num_attention_heads, model.num_key_value_heads)),
            *((size, tensor) for size in (model.intermediate_size, model.vocab_size)),
            (arguments["seq_len"], 128 * context),  # blocks of the attention kernel
            (arguments["batch_size"], copies * shards * parts),
            (model.hidden_size, shards),
        ]
        whole = copies * shards * tensor * context == len(devices) and tensor * context <= max(WAYS)
        if whole and all(size % ways == 0 for size, ways in divided):
            chosen = dataclasses.replace(mesh, dcn=copies, fsdp=-1, tensor=tensor, context=context)
            kept = dataclasses.replace(model, remat=remat)
            try:
                layout = make_layout(chosen, devices)
            except NotImplementedError:  # sizes that the torus does not have
                continue
            yield arguments | {"mesh": chosen, "model": kept, "accumulation": parts}, layout


def _estimate(arguments: dict[str, Any], layout: Layout, chip: aot.Chip, executed: float) -> tuple[float, float]:
    """(seconds of a step, GiB of a device), both of what can't be avoided."""
    model, parts, devices = arguments["model"], arguments["accumulation"], layout.mesh.devices
    local = arguments["batch_size"] * arguments["seq_len"] / layout.ways("batch", "length")  # tokens
    weights, shards, ways = flops.parameter_count(model), layout.ways("embed"), layout.ways("mlp")
    moved = {  # bf16: parameters gathered for both passes, gradients; activations summed after attention and MLP
        "embed": parts * 3 * 2 * weights / ways * (1 - 1 / shards),
        "mlp": model.num_hidden_layers * 4 * 2 * local * model.hidden_size * (1 - 1 / ways),
    }
    seconds = [executed / (flops.PEAK_FLOPS[devices.flat[0].device_kind] * devices.size)]
    seconds += [size / aot.bandwidth(layout, layout.axes(name), chip) for name, size in moved.items() if size]
    heads, keys = model.num_attention_heads * model.head_dim, model.num_key_value_heads * model.head_dim
    width = {"context": heads, "query": heads, "key": keys, "value": keys}
    width |= dict.fromkeys(("gate", "up"), model.intermediate_size)
    split = sum(width.get(name, 0) for name in model.remat if not isinstance(model.remat, str))
    whole = model.hidden_size * (1 + ("middle" in model.remat))
    kept = 2 * model.num_hidden_layers * local / parts * (split / ways + whole)
    backward = 2 * local / parts * (3 * model.intermediate_size / ways + model.hidden_size)  # of a layer
    state = 12 * weights / (shards * ways)  # fp32 parameters and both moments
    return max(seconds), (kept + backward + state) / 2**30


def search(arguments: dict[str, Any], topology: str, slices: int, out: epath.Path, name: str) -> str:
    """Compiles candidates and returns a page: what each needs, and the bindings of the fastest that fits."""
    found = candidates(arguments, aot.topology_devices(topology, slices), slices)
    lines = [f"# {name}", "", "| candidate | GiB | recomputed | step | MFU at most |", "|---|---|---|---|---|"]
    best: tuple[float, Candidate] | None = None
    compiled = 0
    for candidate in found:
        if best and candidate.seconds > (1 - MARGIN) * best[0]:
            break
        path = out / f"{name}-{candidate.name}.json"
        described = json.loads(path.read_text()) if path.exists() else {}
        if described.get("configuration") != candidate.configuration:
            if compiled == COMPILES:
                lines += ["", f"Stopped after {COMPILES} compilations; the same command goes on."]
                break
            compiled += 1
            estimate = f"by arithmetic {candidate.seconds:.3g} s a step and {candidate.gib:.3g} GiB"
            print(f"compiling {candidate.name} ({compiled} of at most {COMPILES}; {estimate})", flush=True)
            described = aot.report(candidate.arguments, topology, slices)
            described |= {"command": " ".join(candidate.bindings), "configuration": candidate.configuration}
            aot.write(described, out, path.stem)
        lines.append(_row(candidate, described))
        print(lines[-1], flush=True)
        seconds = described["step_seconds"]["overlapped"] if described["fits"] else float("inf")
        if seconds < (best[0] if best else float("inf")):
            best = seconds, candidate
    lines.append("")
    if best:
        lines += [f"The fastest found that fits, {best[0]:.3g} s a step:", "", "```", *best[1].bindings, "```"]
    else:
        lines.append(f"None of {len(found)} candidates was found to fit: use more chips, or chips with more memory.")
    return "\n".join([*lines, ""])


def _row(candidate: Candidate, found: dict[str, Any]) -> str:
    memory = f"{found['memory']['peak']:.1f} of {found['memory']['available']:.1f}"
    if not found["fits"]:
        return f"| {candidate.name} | {memory} | does not fit | | |"
    step, mfu = found["step_seconds"]["overlapped"], found["mfu"]["overlapped"]
    return f"| {candidate.name} | {memory} | {found['recomputed_share']:.1%} | {step:.3g} s | {mfu:.1%} |"
