"""Safetensors files written as a stream: the header is known before the first tensor is made.

The library's own writer needs all tensors at once, writes a temporary sibling and renames it; a
merged model may be larger than the memory, and stores that are object stores refuse the rename.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import prod

import torch

CHUNK_BYTES = 16 << 20
ALIGNMENT = 8

DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
"""Types by their name in the file format."""
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorPlan:
    """One tensor to be written: its name, type and shape."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Return the size of the tensor's data."""
        return prod(self.shape) * self.dtype.itemsize


def shards(plans: Iterable[TensorPlan], max_bytes: int) -> list[list[TensorPlan]]:
    """Cut tensors, in order, into files of at most `max_bytes`; a larger tensor stands alone."""
    files: list[list[TensorPlan]] = []
    size = max_bytes
    for plan in plans:
        if not files or size + plan.bytes > max_bytes:
            files.append([])
            size = 0
        files[-1].append(plan)
        size += plan.bytes
    return files


def shard_stream(plans: list[TensorPlan], tensor: Callable[[str], torch.Tensor]) -> Iterator[bytes]:
    """Yield the bytes of one safetensors file; each tensor is asked for once and then released."""
    yield _header(plans)
    for plan in plans:
        value = tensor(plan.name)
        if value.dtype != plan.dtype or tuple(value.shape) != plan.shape:
            raise ValueError(
                f"{plan.name}: planned {plan.dtype} {plan.shape}, "
                f"made {value.dtype} {tuple(value.shape)}"
            )
        yield from _data(value)


def weight_index(files: dict[str, list[TensorPlan]]) -> bytes:
    """Return `model.safetensors.index.json`: which tensor lies in which file."""
    places = {plan.name: file for file, plans in files.items() for plan in plans}
    size = sum(plan.bytes for plans in files.values() for plan in plans)
    content = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
    return json.dumps(content, indent=2).encode() + b"\n"


def _header(plans: list[TensorPlan]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for plan in plans:
        entries[plan.name] = {
            "dtype": DTYPE_NAMES[plan.dtype],
            "shape": list(plan.shape),
            "data_offsets": [offset, offset + plan.bytes],
        }
        offset += plan.bytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _data(value: torch.Tensor) -> Iterator[bytes]:
    flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    for start in range(0, flat.numel(), CHUNK_BYTES):
        yield flat[start : start + CHUNK_BYTES].numpy().tobytes()
