"""Exact counts of what a step does: reads by the host, collectives, operations, saved bytes.

Counts do not vary with the machine, so they gate what a timing cannot. On a CPU a read costs
nothing and copies to it are invisible; the counters see the calls that would wait on a GPU.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

WAITING_OPS = {
    "aten::_local_scalar_dense",
    "aten::is_nonzero",
    "aten::nonzero",
    "aten::masked_select",
    "aten::equal",
    "aten::unique_consecutive",
    "aten::unique_dim",
    "aten::_unique2",
    "aten::bincount",
    "aten::repeat_interleave.Tensor",
}
"""Operations whose result, or whose shape, the host must know before it goes on."""
WAITING_CALLS = {
    Tensor.cpu,
    Tensor.tolist,
    Tensor.numpy,
    Tensor.__array__,
    Tensor.item,
}
"""Calls that copy to the host; on a CPU tensor some of them dispatch nothing."""
PACKAGE = "finetune_trainer"


class _Calls(TorchFunctionMode):
    def __init__(self, reads: Counter[str]) -> None:
        super().__init__()
        self._reads = reads

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in WAITING_CALLS or (func is Tensor.to and _goes_to_host(args, kwargs or {})):
            self._reads[_place()] += 1
        return func(*args, **(kwargs or {}))


class _Ops(TorchDispatchMode):
    def __init__(self, seen: Counter[str], waiting: Counter[str] | None = None) -> None:
        super().__init__()
        self._seen, self._waiting = seen, waiting

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        self._seen[name] += 1
        full = f"{name}.{func._overloadname}".removesuffix(".default")
        waits = full in WAITING_OPS or name in WAITING_OPS or _picks_by_flag(name, args)
        if self._waiting is not None and waits:
            self._waiting[_place()] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def host_reads() -> Iterator[Counter[str]]:
    """Count, by `module.function`, what would make the host wait for a GPU in this thread.

    The trainer's own `.to("cpu")` counts and `.to(<a device with a number>)` does not: give what
    is under test a device "cpu:0" to tell its device from the host. Libraries name the device of
    some tensor, which here is the host's.
    """
    reads: Counter[str] = Counter()
    with _Calls(reads), _Ops(Counter(), reads):
        yield reads


@contextmanager
def operations(prefix: str = "") -> Iterator[Counter[str]]:
    """Count operations by name, those of the backward pass and of DDP's reducer included."""
    seen: Counter[str] = Counter()
    with _Ops(seen):
        yield seen
    for name in [one for one in seen if not one.startswith(prefix)]:
        del seen[name]


@contextmanager
def saved_bytes(model: torch.nn.Module) -> Iterator[list[int]]:
    """Collect the bytes of every storage that autograd keeps for backward, weights left out.

    Casts of weights are among them: take the difference between two numbers of tokens.
    """
    weights = {one.untyped_storage().data_ptr() for one in model.parameters()}
    kept: dict[int, Tensor] = {}
    found: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in weights and tensor.numel():
            # Held, or a freed address would be counted as one storage with its successor.
            kept.setdefault(address, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found
    found.extend(one.untyped_storage().nbytes() for one in kept.values())


def _goes_to_host(args: Any, kwargs: Any) -> bool:
    places = [one for one in (*args[1:], *kwargs.values()) if isinstance(one, (str, torch.device))]
    if not any(str(one) == "cpu" for one in places):
        return False
    caller = traceback.extract_stack()[-3]
    return not any(library in caller.filename for library in ("/torch/", "/transformers/"))


def _picks_by_flag(name: str, args: Any) -> bool:
    """Tell whether an indexing by booleans hides a `nonzero`."""
    if name not in ("aten::index", "aten::index_put", "aten::index_put_"):
        return False
    return any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1])


def _place() -> str:
    """Return the innermost function of the trainer that is running, or that of the caller."""
    frames = traceback.extract_stack()
    ours = [one for one in frames if f"/{PACKAGE}/" in one.filename]
    frame = (ours or frames)[-1]
    return f"{Path(frame.filename).stem}.{frame.name}"
