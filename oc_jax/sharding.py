"""From logical axis names to devices. The only file that names mesh axes.

The model calls its axes ``embed``, ``heads``, ``batch`` … ; a rule table says which mesh axes each is split over.
Stored parameters and activations use different names (``embed`` and ``act_embed``), which is all that FSDP is: the
parameter is split over ``fsdp``, the activation that meets it is not, so XLA gathers the parameter just before its use.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import gin
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

MESH_AXES = ("dcn", "fsdp", "tensor", "context")

# logical axis → mesh axes that split it (None: replicated)
DEFAULT_RULES = {
    # stored parameters
    "layers": None,
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "norm": None,
    # activations and batches
    "batch": ("dcn", "fsdp"),
    "length": "context",
    "act_embed": None,
    "act_heads": "tensor",
    "act_kv_heads": "tensor",
    "act_mlp": "tensor",
    "act_vocab": "tensor",
}


@gin.configurable
@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; one of them may be -1 and takes the devices that the others leave.

    `dcn` splits the batch between slices (between nodes on a slow network, or between parts of one slice that hold a
    copy of the parameters each), `fsdp` splits batch and parameters,
    `tensor` splits heads, MLP and vocabulary, `context` splits the sequence. `rules` overrides entries of
    `DEFAULT_RULES`.
    """

    dcn: int = 1
    fsdp: int = -1
    tensor: int = 1
    context: int = 1
    rules: dict[str, str | Sequence[str] | None] = dataclasses.field(default_factory=dict)

    def sizes(self, devices: int) -> tuple[int, ...]:
        """Axis sizes on `devices` devices. Raises ValueError when they do not multiply to that number."""
        sizes = [self.dcn, self.fsdp, self.tensor, self.context]
        fixed = math.prod(s for s in sizes if s != -1)
        if sizes.count(-1) > 1 or fixed < 1 or devices % fixed or (-1 not in sizes and fixed != devices):
            wanted = " × ".join(f"{axis}={size}" for axis, size in zip(MESH_AXES, sizes, strict=True))
            raise ValueError(f"mesh {wanted} does not fit {devices} devices: change MeshConfig in gin/mesh")
        return tuple(devices // fixed if s == -1 else s for s in sizes)


@dataclasses.dataclass(frozen=True)
class Layout:
    """A mesh and the rules that place logical axes on it."""

    mesh: Mesh
    rules: dict[str, str | Sequence[str] | None]

    def spec(self, *names: str | None) -> PartitionSpec:
        """PartitionSpec for an array whose axes are called `names`. Raises KeyError for an unknown name."""
        axes = [None if name is None else self.rules[name] for name in names]
        return PartitionSpec(*(tuple(a) if isinstance(a, list) else a for a in axes))

    def sharding(self, *names: str | None) -> NamedSharding:
        return NamedSharding(self.mesh, self.spec(*names))

    def axes(self, name: str) -> tuple[str, ...]:
        """The mesh axes that split the logical axis `name`."""
        axes = self.rules[name] or ()
        return (axes,) if isinstance(axes, str) else tuple(axes)

    def ways(self, *names: str) -> int:
        """Into how many parts the logical axes `names` are split."""
        return math.prod(self.mesh.shape[axis] for name in names for axis in self.axes(name))

    def constrain(self, x: jax.Array, *names: str | None) -> jax.Array:
        """Asks XLA to lay out `x` by the logical names of its axes."""
        return jax.lax.with_sharding_constraint(x, self.sharding(*names))

    def gather(self, x: jax.Array, name: str, axis: int) -> jax.Array:
        """Within a `shard_map`: all of `axis` of `x`, which the logical axis `name` splits."""
        if self.ways(name) == 1:  # not left to XLA, which copies the array on CPU
            return x
        return jax.lax.all_gather(x, self.axes(name), axis=axis, tiled=True)

    def sum_scatter(self, x: jax.Array, name: str, axis: int) -> jax.Array:
        """Within a `shard_map`: the sum of `x` over the devices along `name`; each keeps its part of `axis`."""
        if self.ways(name) == 1:
            return x
        return jax.lax.psum_scatter(x, self.axes(name), scatter_dimension=axis, tiled=True)

    @property
    def batch_shards(self) -> int:
        """Into how many parts the batch axis is split."""
        return self.ways("batch")

    def tree(self, axes, shapes):
        """NamedShardings for a tree of logical axis names; raises ValueError where a size does not divide."""

        def one(path, names, shape):
            sharding = self.sharding(*names)
            for name, size in zip(names, shape.shape, strict=True):
                if size % self.ways(name):
                    most = math.gcd(size, self.ways(name))
                    raise ValueError(
                        f"parameter {jax.tree_util.keystr(path)}: axis '{name}' of size {size} does not divide over "
                        f"{self.ways(name)} devices of mesh axis {self.rules[name]}: give that axis {most} in "
                        "MeshConfig and the rest of the devices to dcn, or change MeshConfig.rules"
                    )
            return sharding

        return jax.tree_util.tree_map_with_path(one, axes, shapes, is_leaf=lambda x: isinstance(x, tuple))


def make_layout(config: MeshConfig, devices: Sequence[Any] | None = None) -> Layout:
    """Lays `devices` (all of them by default) out as `config` says, with Auto axes (XLA propagates shardings)."""
    devices = jax.devices() if devices is None else devices
    shape = config.sizes(len(devices))
    unknown = set(config.rules) - set(DEFAULT_RULES)
    if unknown:
        raise ValueError(f"MeshConfig.rules: unknown logical axes {sorted(unknown)}; known: {sorted(DEFAULT_RULES)}")
    auto = (AxisType.Auto,) * len(MESH_AXES)
    if devices[0].platform == "tpu":  # respects the torus, and slices when dcn > 1
        from jax.experimental import mesh_utils

        slices = len({getattr(d, "slice_index", 0) for d in devices})
        if config.dcn % slices:
            raise ValueError(f"MeshConfig.dcn = {config.dcn} does not divide over {slices} slices: make it {slices}")
        if slices > 1:
            within, between = (shape[0] // slices, *shape[1:]), (slices, 1, 1, 1)
            grid = mesh_utils.create_hybrid_device_mesh(within, between, devices=devices)
        else:
            grid = mesh_utils.create_device_mesh(shape, devices=devices)
    else:
        grid = np.asarray(devices).reshape(shape)
    return Layout(Mesh(grid, MESH_AXES, axis_types=auto), DEFAULT_RULES | dict(config.rules))
