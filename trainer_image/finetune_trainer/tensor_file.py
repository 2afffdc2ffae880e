"""Writes and reads safetensors as one sequential stream.

The library's own writer makes a temporary sibling and renames it, which volumes mounted from
object stores refuse.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import torch
from safetensors.torch import load
from torch import Tensor

NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64"}
CHUNK_BYTES = 8 << 20


def tensor_file(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> Iterator[bytes]:
    """Yield a safetensors file of CPU tensors in pieces; `facts` go into its header."""
    header: dict[str, object] = {"__metadata__": {"format": "pt", **facts}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for tensor in tensors.values():
        flat = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        content = flat.data.cast("B")
        for start in range(0, len(content), CHUNK_BYTES):
            yield bytes(content[start : start + CHUNK_BYTES])


def read_tensors(content: bytes) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file."""
    tensors: dict[str, Tensor] = load(content)
    return tensors
