"""What a compiled step moves between devices, read from XLA's text of the program.

XLA's own cost analysis counts the body of a loop once; here every collective counts as often as its loops run it.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence

import numpy as np

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s32": 4, "u32": 4, "f32": 4, "f64": 8}
# collective → bytes that leave a device for each byte of its largest array, among n devices (ring or torus algorithms)
WIRE = {
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1.0,
}
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(WIRE)})(-start)?\((.*)")
_BETWEEN_SLICES = re.compile(r"= \((.*?), .* send\(.*_xla_megascale_transfer_type=\"(\w+)\"")
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    kind: str
    axes: tuple[str, ...]  # mesh axes over which it runs
    devices: int  # in one group
    bytes: float  # that leave a device, over all `times`
    times: int
    asynchronous: bool  # whether other work can run meanwhile
    what: str  # the operation of the model that it belongs to


def computations(text: str) -> dict[str, list[str]]:
    """Name → lines of every computation of a module; the entry is called "ENTRY"."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.endswith("{") and (match := re.match(r"(ENTRY )?%?([\w.\-]+) \(", line)):
            lines = found.setdefault("ENTRY" if match[1] else match[2], [])
        elif line.startswith("  "):
            lines.append(line)
    return found


def _arrays(text: str) -> list[int]:
    """Sizes in bytes of the arrays whose shapes stand in `text`."""
    return [
        BYTES[t] * math.prod(int(d) for d in dims.split(",") if d) for t, dims in _SHAPE.findall(text) if t in BYTES
    ]


def trip_count(condition: Sequence[str]) -> int:
    """How often a loop with this condition runs: the constant that the counter, which starts at 0, stays below."""
    return max((int(n) for line in condition for n in re.findall(r" constant\((\d+)\)", line)), default=1)


def executed(text: str) -> Iterator[tuple[str, int, bool]]:
    """(line, how often it runs, whether inside an asynchronous computation) for every instruction of a program."""
    found = computations(text)

    def walk(name: str, times: int, hidden: bool) -> Iterator[tuple[str, int, bool]]:
        for line in found.get(name, ()):
            yield line, times, hidden
            loop = re.search(r"\bwhile\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)", line)
            if loop:
                yield from walk(loop[2], times * trip_count(found[loop[1]]), hidden)
                continue
            inner = re.search(r"(?:calls|to_apply)=%?([\w.\-]+)", line)
            if inner and re.search(r"\b(fusion|call|async-start)\(", line):
                asynchronous = hidden or "async-start(" in line or "async_collective" in inner[1]
                yield from walk(inner[1], times, asynchronous)

    return walk("ENTRY", 1, False)


def group_of(line: str, devices: int) -> list[int]:
    """Numbers of the devices of the first group of a collective."""
    if match := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", line):
        return [int(match[1]), int(match[2])]
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return [int(n) for n in match[1].split(",")]
    if match := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line):
        ids = np.arange(devices).reshape([int(n) for n in match[3].split(",")])
        if match[4]:
            ids = ids.transpose([int(n) for n in match[4].split(",")])
        return ids.reshape(int(match[1]), int(match[2]))[0].tolist()
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*?\{([^}]*)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        along = set(re.findall(r"'(\w+)'", match[2]))
        ids = np.arange(devices)
        if order := re.search(r"device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\)", line):
            ids = ids.reshape([int(n) for n in order[1].split(",")])
            ids = ids.transpose([int(n) for n in order[2].split(",")]) if order[2] else ids
        ids = ids.reshape([int(n) for n in sizes.values()])
        return ids[tuple(slice(None) if name in along else 0 for name in sizes)].ravel().tolist()
    return list(range(devices))


def collectives(text: str, mesh: dict[str, int]) -> list[Collective]:
    """Every collective of the program that moves anything, with the axes of `mesh` (name → size) it runs over.

    What goes between slices of TPU is a send to the host, whose runtime (Megascale) does the collective; only the
    first axis crosses slices (`sharding.make_layout`).
    """
    sizes, devices = tuple(mesh.values()), math.prod(mesh.values())
    (between, slices), *_ = mesh.items()
    found = []
    for line, times, hidden in executed(text):
        if match := _BETWEEN_SLICES.search(line):
            kind = {"one-to-one": "collective-permute"}.get(name := match[2].lower().replace("_", "-"), name)
            moved = WIRE[kind](slices) * sum(_arrays(match[1])) * times
            found.append(Collective(kind, (between,), slices, moved, times, True, "between slices"))
            continue
        match = _COLLECTIVE.search(line)
        if not match:
            continue
        group = group_of(line, devices)
        places = np.stack(np.unravel_index(group, sizes))
        axes = tuple(name for name, place in zip(mesh, places, strict=True) if len(set(place.tolist())) > 1)
        if not axes:
            continue
        result, kind, start, operands = match.groups()
        arrays = _arrays(result)
        if start and kind != "all-reduce":  # the result of a start is (operands…, results…, contexts…)
            largest = (
                sum(arrays) / 2 if kind == "collective-permute" else max(sum(arrays) - sum(arrays) / len(group), 0)
            )
        elif kind == "reduce-scatter":
            largest = sum(arrays) * len(group)
        else:
            largest = sum(arrays)
        moved = WIRE[kind](len(group)) * largest * times
        name = re.search(r'op_name="([^"]*)"', line)
        found.append(Collective(kind, axes, len(group), moved, times, hidden or bool(start), name[1] if name else ""))
    return found
