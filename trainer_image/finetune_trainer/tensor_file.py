"""Writes and reads pieces of tensors as safetensors, each file one sequential stream.

The library's own writer makes a temporary sibling and renames it, which volumes mounted from
object stores refuse. A file of whole tensors is a plain one, which PEFT loads; for others the
header's metadata names first row and whole shape under `rows`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Protocol

import torch
from torch import Tensor

from finetune_trainer.pieces import Piece, overlaps
from finetune_trainer.weight_shards import DTYPE_NAMES, DTYPES

CHUNK_BYTES = 8 << 20


def tensor_file(pieces: Sequence[Piece], facts: Mapping[str, str]) -> Iterator[bytes]:
    """Yield a safetensors file of pieces on the CPU; `facts` go into its header."""
    rows = {one.name: [one.first, list(one.shape)] for one in pieces if not one.is_whole}
    metadata = {"format": "pt", **facts} | ({"rows": json.dumps(rows)} if rows else {})
    header: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for piece in pieces:
        start, end = end, end + piece.tensor.numel() * piece.tensor.element_size()
        header[piece.name] = {
            "dtype": DTYPE_NAMES[piece.tensor.dtype],
            "shape": list(piece.tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for piece in pieces:
        flat = piece.tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        content = flat.data.cast("B")
        for start in range(0, len(content), CHUNK_BYTES):
            yield bytes(content[start : start + CHUNK_BYTES])


class Readable(Protocol):
    """What pieces are read from, in order."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes."""

    def seekable(self) -> bool:
        """Tell whether bytes can be passed over unread."""


def read_pieces(
    stream: Readable | BinaryIO, targets: Mapping[str, Piece] | None = None
) -> Iterator[Piece]:
    """Yield the pieces of a file, one in memory at a time; those that share rows with `targets`."""
    header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    rows = json.loads(header.pop("__metadata__", {}).get("rows", "{}"))
    place = 0
    for name, entry in sorted(header.items(), key=lambda one: one[1]["data_offsets"]):
        first, shape = rows.get(name, (0, entry["shape"]))
        start, end = entry["data_offsets"]
        if targets is not None and not overlaps(targets.get(name), first, entry["shape"]):
            continue
        _pass_over(stream, start - place)
        place = end
        yield Piece(name, _tensor(stream.read(end - start), entry), tuple(shape), first)


def read_tensors(content: bytes) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file of whole tensors."""
    from io import BytesIO  # noqa: PLC0415

    return {piece.name: piece.tensor for piece in read_pieces(BytesIO(content))}


def _tensor(content: bytes, entry: dict[str, Any]) -> Tensor:
    if not content:
        return torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]])
    flat = torch.frombuffer(bytearray(content), dtype=DTYPES[entry["dtype"]])
    return flat.reshape(entry["shape"])


def _pass_over(stream: Any, count: int) -> None:
    if count and stream.seekable():
        stream.seek(count, 1)
        return
    while count > 0:
        count -= len(stream.read(min(count, CHUNK_BYTES))) or count
