"""Compiles the training step of a run file for a TPU pod that is not there, and says what it will need.

    python run.py --mode=aot --gin_file=gin/runs/opencoder_8b_v5p.gin --topology=v5p:4x4x8 --workdir=out/aot

It is the step that `train` runs, lowered for the real chip by its own compiler (libtpu), on a CPU, in minutes. Memory
and collectives are read from the compiled program; time is a roofline, with its assumptions stated.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax.interpreters import partial_eval

from oc_jax import flops, hlo
from oc_jax.packing import Batch
from oc_jax.sharding import Layout, make_layout
from oc_jax.step import BATCH_AXES, TrainState, make_train_step, state_shardings


@dataclasses.dataclass(frozen=True)
class Chip:
    """One JAX device of a generation of TPU."""

    hbm_gib: float  # what the compiler lets a program use
    link: float  # bytes/s one way over one link between chips
    ring: int  # the size from which a dimension of the torus is closed
    dcn: float  # bytes/s between slices, per device


# Capacity is what libtpu says when a program is too large. Rates are Google's (docs.cloud.google.com/tpu/docs/v5p, …),
# which print all links of a chip both ways: 400 GB/s over 4 links on v5e, 800 on v6e, 1,200 over 6 on v5p and tpu7x.
# Of a link 90 % counts, as jax-ml.github.io/scaling-book measures. Network: 25 Gb/s a chip on v5e, 50 on v4 and v5p,
# 100 on v6e and tpu7x.
CHIPS = {
    "TPU v4": Chip(30.75, 45e9, 4, 25e9 / 4),
    "TPU v5 lite": Chip(15.75, 45e9, 16, 25e9 / 8),
    "TPU v5": Chip(95.74, 90e9, 4, 25e9 / 4),
    "TPU v6 lite": Chip(31.25, 90e9, 16, 50e9 / 4),
    "TPU7x": Chip(94.75, 90e9, 4, 50e9 / 8),
}
ASSUMPTIONS = (
    "matrix products run at the vendor's bf16 peak, everything else is free",
    "a mesh axis has the links of the torus dimensions that it covers, each at its one-way rate (45 GB/s on v4 and "
    "v5e, 90 GB/s on v5p, v6e and tpu7x); between slices a chip has 25 Gb/s (v5e), 50 (v4, v5p) or 100 (v6e, tpu7x)",
    "`overlapped` hides asynchronous collectives under compute and waits for synchronous ones, `exposed` hides none",
)


def topology_devices(name: str, slices: int = 1) -> list[Any]:
    """The devices of `slices` TPU slices called `name` as libtpu does (v5p:4x4x8). Needs libtpu, not a TPU.

    Raises ValueError for a name that libtpu does not know, ImportError without libtpu.
    """
    try:
        import libtpu  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImportError("compiling for a TPU needs libtpu: pip install -r requirements-tpu.txt") from None
    from jax.experimental import topologies

    quiet = {"TPU_ACCELERATOR_TYPE": "v5p-8", "TPU_WORKER_HOSTNAMES": "localhost"}
    for key, value in {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", **quiet}.items():
        os.environ.setdefault(key, value)
    jax.config.update("jax_platforms", "cpu")
    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if name.startswith("v4:"):
        options["chip_config_name"] = "megacore"  # one device a chip, as programs see it
    try:
        return list(topologies.get_topology_desc(topology_name=name, platform="tpu", **options).devices)
    except Exception as error:
        raise ValueError(f"--topology={name}: {str(error).splitlines()[0]}") from None


def lower(arguments: dict[str, Any], layout: Layout):
    """(traced step, shapes and shardings of its state) for the arguments of a `train` stage."""
    step = make_train_step(
        arguments["model"],
        arguments["optimizer"],
        arguments["schedule"],
        layout,
        compute_dtype=arguments["compute_dtype"] or "bfloat16",
        loss_chunk=arguments["loss_chunk"],
        z_loss=arguments["z_loss"],
    )
    shapes, shardings = state_shardings(arguments["model"], arguments["optimizer"], layout)
    place = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    state = jax.tree.map(place, shapes, shardings)
    rows = arguments["accumulation"]
    shape = (rows, arguments["batch_size"] // rows, arguments["seq_len"])
    dtypes = Batch(jnp.int32, jnp.int32, jnp.float32, jnp.int32, jnp.int32)
    batch = Batch(*(jax.ShapeDtypeStruct(shape, d, sharding=layout.sharding(*BATCH_AXES)) for d in dtypes))
    return step.trace(state, batch), state


def executed_flops(traced) -> float:
    """FLOPs of a traced step, without what nobody reads: rematerialisation traces whole layers again."""
    jaxpr, _ = partial_eval.dce_jaxpr(traced.jaxpr.jaxpr, [True] * len(traced.jaxpr.out_avals))
    return flops.executed_flops(jaxpr)


def report(arguments: dict[str, Any], topology: str, slices: int = 1) -> dict[str, Any]:
    """Compiles the step of one `train` stage and describes it. Sizes in GiB per device, FLOPs of the whole step."""
    devices = topology_devices(topology, slices)
    layout = make_layout(arguments["mesh"], devices)
    model, tokens = arguments["model"], arguments["batch_size"] * arguments["seq_len"]
    if arguments["batch_size"] // arguments["accumulation"] % layout.batch_shards:
        raise ValueError(f"train.batch_size / accumulation does not divide over {layout.batch_shards} batch shards")
    started, cpu = time.monotonic(), time.process_time()
    traced, state = lower(arguments, layout)
    model_flops = tokens * flops.train_flops_per_token(model, arguments["seq_len"])
    recomputed = executed_flops(traced) - model_flops
    described = {
        "topology": topology,
        "slices": slices,
        "devices": len(devices),
        "device": devices[0].device_kind,
        "mesh": dict(layout.mesh.shape),
        "batch_size": arguments["batch_size"],
        "accumulation": arguments["accumulation"],
        "seq_len": arguments["seq_len"],
        "remat": model.remat,
        "parameters": flops.parameter_count(model),
        "model_flops": model_flops,
        "recomputed_flops": recomputed,
        "recomputed_share": recomputed / model_flops,
    }
    chip = CHIPS[devices[0].device_kind]
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        found = re.search(r"([\d.]+)G\)? (?:of|exceeds available HBM) \(?([\d.]+)G", str(error))
        if not found:
            raise
        memory = {"peak": float(found[1]), "available": float(found[2])}
        return described | {"fits": False, "memory": memory, "advice": advice(described, layout)}
    described["compile_seconds"] = round(time.monotonic() - started, 1)
    described["compile_cpu_seconds"] = round(time.process_time() - cpu, 1)
    text = compiled.as_text() or ""
    memory = memory_split(compiled, text, state, arguments, layout) | {"available": chip.hbm_gib}
    described |= {"memory": memory, "fits": memory["peak"] <= chip.hbm_gib}
    described |= {"spare": 1 - memory["peak"] / chip.hbm_gib}
    described |= roofline(hlo.collectives(text, dict(layout.mesh.shape)), described, layout, chip)
    return described if described["fits"] else described | {"advice": advice(described, layout)}


def memory_split(compiled, text: str, state: TrainState, arguments: dict[str, Any], layout: Layout) -> dict[str, float]:
    """GiB per device: parameters, optimizer, activations kept from forward to backward, and the rest of the peak."""

    def gib(tree) -> float:
        parts = [math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)]
        return sum(parts) / 2**30

    layers = arguments["model"].num_hidden_layers
    rows = arguments["batch_size"] // arguments["accumulation"] // layout.batch_shards
    length = arguments["seq_len"] // layout.ways("length")
    kept = 0.0
    for line in re.findall(r"= \((.*?)\) while\(", text):  # arrays that a loop over layers carries: one slice a layer
        shapes = [(t, [int(d) for d in dims.split(",") if d]) for t, dims in re.findall(r"(\w+)\[([\d,]+)\]", line)]
        stacked = [
            math.prod(dims) * hlo.BYTES[t]
            for t, dims in shapes
            if dims[0] == layers and {rows, length} <= set(dims[1:]) and math.prod(dims) >= layers * rows * length
        ]
        kept = max(kept, sum(stacked) / 2**30)
    peak = compiled.memory_analysis().peak_memory_in_bytes / 2**30
    split = {"parameters": gib(state.params), "optimizer": gib(state.opt_state), "activations": kept}
    return {"peak": peak, **split, "temporaries": peak - sum(split.values())}


def roofline(
    collectives: list[hlo.Collective], described: dict[str, Any], layout: Layout, chip: Chip
) -> dict[str, Any]:
    """Seconds of compute and of every mesh axis, the step time between two bounds, and the MFU at each."""
    peak = flops.PEAK_FLOPS[described["device"]] * described["devices"]
    compute = (described["model_flops"] + described["recomputed_flops"]) / peak
    axes: dict[str, dict[str, Any]] = {}
    for key, group in itertools.groupby(sorted(collectives, key=lambda c: c.axes), key=lambda c: c.axes):
        group = list(group)
        by_kind: dict[str, float] = {}
        for c in group:
            by_kind[c.kind] = by_kind.get(c.kind, 0.0) + c.bytes
        total = sum(by_kind.values())
        seconds = total / bandwidth(layout, key, chip)
        waited = sum(c.bytes for c in group if not c.asynchronous)
        axes["+".join(key)] = {"bytes": by_kind, "seconds": seconds, "synchronous_share": waited / total}
    seconds = [axis["seconds"] for axis in axes.values()]
    waited = sum(axis["seconds"] * axis["synchronous_share"] for axis in axes.values())
    overlapped, exposed = max([compute + waited, *seconds]), compute + sum(seconds)
    ideal = described["model_flops"] / peak
    return {
        "compute_seconds": compute,
        "axes": axes,
        "step_seconds": {"overlapped": overlapped, "exposed": exposed},
        "mfu": {"overlapped": ideal / overlapped, "exposed": ideal / exposed},
        "hidden_on_every_axis": all(s <= compute for s in seconds),
        "tokens_per_second": described["batch_size"] * described["seq_len"] / exposed,
        "assumptions": ASSUMPTIONS,
    }


def bandwidth(layout: Layout, axes: tuple[str, ...], chip: Chip) -> float:
    """Bytes/s that can leave a device along mesh axes `axes`."""
    names = list(layout.mesh.shape)
    grid = layout.mesh.devices
    group = grid[tuple(slice(None) if name in axes else 0 for name in names)].ravel()
    if len({getattr(d, "slice_index", 0) for d in group}) > 1:
        return chip.dcn
    links = 0
    for dimension in range(3):
        size = len({d.coords[dimension] for d in group})
        links += 0 if size == 1 else 2 if size >= chip.ring else 1
    return max(links, 1) * chip.link


def advice(described: dict[str, Any], layout: Layout) -> list[str]:
    """What makes a step that does not fit smaller, cheapest first."""
    ways = []
    rows = described["batch_size"] // described["accumulation"] // layout.batch_shards
    if described["remat"] != "full":
        ways.append('keep fewer activations: ModelConfig.remat = "full", or a shorter list')
    if rows > 1:
        ways.append(f"cut the batch: train.accumulation = {2 * described['accumulation']}")
    if rows == 1:
        ways.append("split the sequence or the heads: MeshConfig.context = 2, or MeshConfig.tensor = 2")
    if described["slices"] > 1:
        ways.append("spread the state over slices too: MeshConfig.rules = {'embed': ('dcn', 'fsdp')}")
    return [*ways, "use more chips, or chips with more memory"]


# what a later compilation of the same step is compared by, and the share by which it may be worse
TOLERANCES = {"memory/peak": 0.02, "model_flops": 1e-9, "recomputed_flops": 0.01, "step_seconds/exposed": 0.02}


def regressions(golden: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What of a report is worse than in the one kept from before, as lines to read; [] if nothing is."""

    def value(report: dict[str, Any], path: str) -> float:
        for key in path.split("/"):
            report = report[key]
        return float(report)  # pyright: ignore[reportArgumentType]

    if golden["fits"] and not now["fits"]:
        return [f"it fits no longer: {now['memory']['peak']:.1f} of {now['memory']['available']:.1f} GiB"]
    pairs = {path: (value(golden, path), value(now, path)) for path in TOLERANCES}
    return [
        f"{path}: {new:.4g}, was {old:.4g}" for path, (old, new) in pairs.items() if new > old * (1 + TOLERANCES[path])
    ]


def write(described: dict[str, Any], out: epath.Path, name: str) -> None:
    """`out`/`name`.json and the same as a page, `name`.md."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(described, indent=1) + "\n")
    (out / f"{name}.md").write_text(page(described, name))


def page(d: dict[str, Any], name: str) -> str:
    """The report as Markdown."""
    mesh = " × ".join(f"{axis} {size}" for axis, size in d["mesh"].items() if size > 1)
    memory, fits = d["memory"], "Fits" if d["fits"] else "Does not fit"
    lines = [
        f"# {name}",
        "",
        f"{d['devices']} × {d['device']} ({d['slices']} × {d['topology']}), mesh {mesh}; "
        f"{d['batch_size']:,} sequences of {d['seq_len']:,}, in {d['accumulation']} part(s); remat {d['remat']}.",
        "",
        f"**{fits}**: {memory['peak']:.1f} of {memory['available']:.1f} GiB"
        + (f", {d['spare']:.0%} to spare." if d["fits"] else "."),
        "",
        "| GiB per device | |",
        "|---|---|",
        *(
            f"| {k} | {memory[k]:.2f} |"
            for k in ("parameters", "optimizer", "activations", "temporaries")
            if k in memory
        ),
        "",
        f"Model {d['model_flops']:.3e} FLOPs a step; {d['recomputed_share']:.1%} more are recomputed.",
    ]
    if "axes" in d:
        steps, mfu = d["step_seconds"], d["mfu"]
        lines += [
            "",
            "| mesh axis | GB that leave a device in a step | seconds | of it synchronous |",
            "|---|---|---|---|",
            f"| (compute) | | {d['compute_seconds']:.3f} | |",
        ]
        for axis, of in d["axes"].items():
            moved = ", ".join(f"{kind} {size / 1e9:.2f}" for kind, size in of["bytes"].items())
            lines.append(f"| {axis} | {moved} | {of['seconds']:.4f} | {of['synchronous_share']:.0%} |")
        lines += [
            "",
            f"Step time between {steps['overlapped']:.2f} s (MFU {mfu['overlapped']:.1%}) and {steps['exposed']:.2f} s "
            f"(MFU {mfu['exposed']:.1%}). Assumptions:",
            "",
            *(f"- {text}" for text in d["assumptions"]),
        ]
    if "advice" in d:
        lines += ["", "To make it fit:", "", *(f"- {text}" for text in d["advice"])]
    return "\n".join([*lines, "", f"`{d['command']}`", ""])
