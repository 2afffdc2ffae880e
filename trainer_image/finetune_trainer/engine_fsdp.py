"""Shards weights, gradients and moments over ranks, layer by layer, by torch's fully_shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import ceil
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from finetune_trainer.data import MicroBatch
from finetune_trainer.distributed import World, group_of_one
from finetune_trainer.engine import BuildUpdate, Engine, First
from finetune_trainer.first_shards import broadcast, scatter, share_buffers
from finetune_trainer.pieces import Piece, Source, fill
from finetune_trainer.problems.causal_lm import CausalLanguageModelling
from finetune_trainer.quantisation import is_coded, share_code_state, take_codes

Result = TypeVar("Result")


@dataclass(frozen=True)
class Sharding:
    """How ranks share the weights."""

    group_size: int
    """group_size is the ranks among which one copy of the weights is cut."""
    reshard: bool = True
    """reshard frees a layer's weights after its forward and fetches them again for its backward."""
    offload: bool = False
    """offload keeps shards and moments on the CPU and updates there."""
    accumulate_whole: bool = False
    """accumulate_whole reduces gradients once per step: whole gradients are held until then."""


class ShardedEngine(Engine):
    """Every rank holds its rows of every tensor; a layer is whole only while it computes.

    What is trained stays float32 in the shards; arithmetic is in the compute type, the reduction in
    float32.
    """

    sharded = True

    def __init__(
        self,
        task: CausalLanguageModelling,
        update: BuildUpdate,
        world: World,
        compute_dtype: torch.dtype,
        sharding: Sharding,
        first: First | None = None,
    ) -> None:
        if world.size == 1:
            group_of_one()
        self._sharding, self.writers, self._first = sharding, sharding.group_size, first
        self._mesh = _mesh(world, sharding.group_size)
        self._shard_group = self._mesh.get_group("shard")
        super().__init__(task, update, world, compute_dtype)
        self._parameters: list[Any] = [one for one in task.model.parameters() if one.requires_grad]

    def loss_sum(self, batch: MicroBatch, *, last: bool) -> Tensor:
        """Return float32[] on the device: this micro-batch's share of the step's loss."""
        wrapped: Any = self._wrapped
        wrapped.set_is_last_backward(last)
        if self._sharding.accumulate_whole:
            wrapped.set_requires_gradient_sync(last)
        if not self._sharding.reshard:
            wrapped.set_reshard_after_backward(last)
        return super().loss_sum(batch, last=last)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient; reductions sum, so nothing has to be undone."""
        self._scaled(loss).backward()  # type: ignore[no-untyped-call]

    def clip_and_step(self, factor: float, clip: float) -> Tensor:
        """Update this rank's rows; the norm is one sum over the shard group."""
        shards = [piece.tensor for piece in self._held.values()]
        for shard, parameter in zip(shards, self._parameters, strict=True):
            shard.grad = None if parameter.grad is None else parameter.grad.to_local()
        self._unscale(shards)
        grads = [shard.grad for shard in shards if shard.grad is not None]
        square = get_total_norm(grads, foreach=True).square().to(self.device)
        dist.all_reduce(square, group=self._shard_group)
        norm = square.sqrt()
        own = norm.to(shards[0].device)
        clip_grads_with_norm_(shards, clip or torch.inf, own, foreach=True)
        self._update.update(own, factor)
        self._adapt_scale(norm)
        self.discard()
        return norm

    def discard(self) -> None:
        """Drop the gradients since the last update."""
        super().discard()
        for parameter in self._parameters:
            parameter.grad = None

    def forward(self, function: Callable[[], Result]) -> Result:
        """Run another forward of the task with the root's weights fetched; collective."""
        task: Any = self.task
        result: Result = task.run_inside(function)
        return result

    def precision(self) -> AbstractContextManager[object]:
        """Return a context that changes nothing: the layers cast their own weights and inputs."""
        return nullcontext()

    def load(self, weights: Source, moments: Source) -> None:
        """Take over this rank's rows of a checkpoint's state, however it was cut; every rank reads.

        Raises DataError for missing rows.
        """
        for module in self._units():
            module.reshard()
        targets = self._moment_targets()
        fill(self._weight_targets(), weights)
        fill(targets, moments)
        self._take_moments(targets)

    def _wrap(self) -> nn.Module:
        choice = self._sharding
        narrow = None if self._dtype is torch.float32 else self._dtype
        settings: dict[str, Any] = {
            "mesh": self._mesh if self._mesh["replicate"].size() > 1 else self._mesh["shard"],
            "mp_policy": MixedPrecisionPolicy(param_dtype=narrow, reduce_dtype=torch.float32),
            "offload_policy": (
                CPUOffloadPolicy(pin_memory=self.device.type == "cuda")
                if choice.offload
                else OffloadPolicy()
            ),
        }
        for layer in decoder_layers(self.task.model):
            fully_shard(layer, reshard_after_forward=choice.reshard, **settings)
        fully_shard(self.task, **settings)
        self._fill()
        for module in self._units():
            module.set_gradient_divide_factor(1.0)
            # gloo has no scaled sum, which is what a factor makes of the reduction.
            module.set_force_sum_reduction_for_comms(enable=True)
        # A method of the root, so that its hooks run around it.
        self.task.__dict__["run_inside"] = lambda function: function()
        register_fsdp_forward_method(self.task, "run_inside")
        return self.task

    def _fill(self) -> None:
        """Give shards without values their rows of what rank 0 reads, tensor by tensor."""
        made: dict[Any, nn.Parameter] = {}
        found = {}
        for name, parameter in self.task.named_parameters(remove_duplicate=False):
            if parameter.is_meta:
                if parameter not in made:
                    made[parameter] = self._filled(name.removeprefix("model."), parameter)
                found[name] = made[parameter]
        if found:
            self.task.load_state_dict(found, strict=False, assign=True)
            share_buffers(self.task.model, self._first)

    def _filled(self, name: str, parameter: Any) -> nn.Parameter:
        holder, _, own = name.rpartition(".")
        layer, whole = self.task.model.get_submodule(holder), None
        if self._first is not None:
            whole = self._first(name).to(self.device)
            if is_coded(layer, own):
                whole = take_codes(layer, whole, parameter.dtype)
            whole = whole.to(parameter.dtype)
        if is_coded(layer, own):
            share_code_state(layer, self.device, broadcast)
        shard: Any = torch.empty_like(
            parameter, device="cpu" if self._sharding.offload else self.device
        )
        own_rows = shard.to_local()
        rows = torch.empty(
            ceil(len(parameter) / self._sharding.group_size),
            *parameter.shape[1:],
            dtype=parameter.dtype,
            device=self.device,
        )
        scatter(whole, rows, self._sharding.group_size)
        own_rows.copy_(rows[: len(own_rows)])
        return nn.Parameter(shard, requires_grad=parameter.requires_grad)

    def _units(self) -> Iterator[FSDPModule]:
        return (module for module in self.task.modules() if isinstance(module, FSDPModule))

    def _trained(self) -> Iterator[Piece]:
        number, size = self._mesh["shard"].get_local_rank(), self._sharding.group_size
        for name, parameter in self.task.model.named_parameters():
            if parameter.requires_grad:
                whole: Any = parameter
                # The same memory without DTensor: fused SGD and bitsandbytes take plain tensors.
                shard = whole.detach().to_local().requires_grad_()
                first = min(len(parameter), number * ceil(len(parameter) / size))
                yield Piece(name, shard, tuple(parameter.shape), first)

    def _own(self, targets: dict[str, Piece]) -> list[Piece]:
        if self.world.rank == 0:
            return list(targets.values())
        if self.world.rank >= self.writers:
            return []
        return [one for one in targets.values() if one.tensor.numel() and not one.is_whole]


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """Return the repeated blocks of a model, which its library class names itself."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    inner = getattr(model, "get_base_model", None)
    if inner is not None:
        names |= set(getattr(inner(), "_no_split_modules", None) or ())
    return [
        module
        for module in model.modules()
        if any(parent.__name__ in names for parent in type(module).__mro__)
    ]


def _mesh(world: World, group_size: int) -> DeviceMesh:
    """Return ranks in rows of shard groups; every group has the run's timeout."""
    numbers = torch.arange(world.size).reshape(-1, group_size)
    groups: list[Any] = [
        dist.new_subgroups_by_enumeration(rows.tolist(), timeout=world.timeout)[0]
        for rows in (numbers.T, numbers)
    ]
    return DeviceMesh.from_group(
        groups, world.device.type, mesh=numbers, mesh_dim_names=("replicate", "shard")
    )
