"""Gives the ranks what rank 0 has read: whole tensors, or rows of them; every call is collective.

Bytes are sent, so that types which a communication library does not know pass as well.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from finetune_trainer.engine import First


def broadcast(tensor: Tensor) -> None:
    """Overwrite a tensor by that of rank 0."""
    if dist.get_world_size() > 1:
        dist.broadcast(_bytes(tensor), 0)


def everywhere(value: Tensor | None, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return rank 0's float32 tensor on every rank; the others give its shape alone."""
    full = torch.empty(shape, device=device) if value is None else value.to(device)
    dist.broadcast(full, 0)
    return full


def scatter(whole: Tensor | None, rows: Tensor, groups_of: int) -> None:
    """Overwrite `rows` by this rank's part of rank 0's `whole` tensor, cut among `groups_of` ranks.

    Parts are equally long; beyond the end of the tensor they are zero.
    """
    parts = None
    if whole is not None:
        missing = len(rows) * groups_of - len(whole)
        whole = whole.contiguous()
        padded = F.pad(whole, (0, 0) * (whole.ndim - 1) + (0, missing)) if missing else whole
        cut = torch.split(padded, len(rows))
        parts = [_bytes(cut[rank % groups_of]) for rank in range(dist.get_world_size())]
    dist.scatter(_bytes(rows), parts, 0)


def share_buffers(model: nn.Module, first: First | None) -> None:
    """Give all ranks the buffers that rank 0 finds in the files."""
    for name, buffer in saved_buffers(model):
        if first is not None:
            buffer.copy_(first(name))
        broadcast(buffer)


def place_buffers(task: nn.Module, device: torch.device) -> None:
    """Move buffers to a device; those without values only serve to take back a merge."""
    for module in task.modules():
        for name, buffer in module.named_buffers(recurse=False):
            moved = torch.zeros_like(buffer, device=device) if buffer.is_meta else buffer.to(device)
            module._buffers[name] = moved


def saved_buffers(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the buffers that files hold, by name."""
    saved = model.state_dict()
    return [(name, one) for name, one in model.named_buffers() if name in saved]


def parameter_places(task: nn.Module) -> dict[nn.Parameter, list[tuple[nn.Module, str]]]:
    """Return where each parameter hangs; a shared one at several places."""
    places: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for module in task.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            places.setdefault(parameter, []).append((module, name))
    return places


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.view(-1).view(torch.uint8)
