"""The safetensors format, one tensor at a time: 8 bytes of length, a JSON header, the tensors.

The library of that name maps whole files into memory, knows no bfloat16 in NumPy and no object stores.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import ml_dtypes
import numpy as np
from etils import epath

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Tensor(NamedTuple):
    """Where a tensor stands in a file."""

    path: epath.Path
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int

    def read(self) -> np.ndarray:
        """Raises ValueError when the file ends too early."""
        data = bytearray(math.prod(self.shape) * self.dtype.itemsize)
        with self.path.open("rb") as file:
            file.seek(self.offset)
            if file.readinto(data) != len(data):  # pyright: ignore[reportAttributeAccessIssue]
                raise ValueError(f"{self.path} is shorter than its header says: fetch it again")
        return np.frombuffer(data, self.dtype).reshape(self.shape)


class Planned(NamedTuple):
    """A tensor that is yet to be written."""

    name: str
    shape: tuple[int, ...]
    value: Callable[[], np.ndarray]


def open_directory(directory: epath.Path) -> dict[str, Tensor]:
    """Name → tensor of all files in `directory`. Raises FileNotFoundError: none, ValueError: a damaged one."""
    paths = sorted(directory.glob("*.safetensors"))
    if not paths:
        raise FileNotFoundError(f"{directory} holds no *.safetensors: convert its weights to that format first")
    return {name: tensor for path in paths for name, tensor in _header(path).items()}


def _header(path: epath.Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        return {
            name: Tensor(path, DTYPES[t["dtype"]], tuple(t["shape"]), 8 + length + t["data_offsets"][0])
            for name, t in header.items()
        }
    except (ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{path} is damaged, or holds something else than floating-point tensors: {error}") from error


def write_directory(directory: epath.Path, tensors: Sequence[Planned], dtype: np.dtype, max_bytes: int) -> None:
    """Writes files of at most `max_bytes` each (or of one tensor), and their index if there are several."""
    size = lambda tensor: math.prod(tensor.shape) * dtype.itemsize
    files: list[list[Planned]] = [[]]
    for tensor in tensors:
        if files[-1] and sum(map(size, files[-1])) + size(tensor) > max_bytes:
            files.append([])
        files[-1].append(tensor)
    if len(files) == 1:
        return _write(directory / "model.safetensors", files[0], dtype)
    index: dict[str, str] = {}
    for number, held in enumerate(files, start=1):
        name = f"model-{number:05}-of-{len(files):05}.safetensors"
        _write(directory / name, held, dtype)
        index |= {tensor.name: name for tensor in held}
    described = {"metadata": {"total_size": sum(map(size, tensors))}, "weight_map": index}
    (directory / "model.safetensors.index.json").write_text(json.dumps(described, indent=1))


def _write(path: epath.Path, tensors: Sequence[Planned], dtype: np.dtype) -> None:
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in tensors:
        end = at + math.prod(tensor.shape) * dtype.itemsize
        header[tensor.name] = {"dtype": NAMES[dtype], "shape": tensor.shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors begin aligned
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            file.write(np.ascontiguousarray(tensor.value().astype(dtype)).tobytes())
