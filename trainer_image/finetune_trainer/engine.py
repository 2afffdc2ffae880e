"""Runs micro-batches and updates on one process or as one of several data-parallel ranks.

The loop knows only this contract: `loss_sum`, `backward`, `clip_and_step`, `state`, `load`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from finetune_trainer.data import MicroBatch
from finetune_trainer.distributed import World
from finetune_trainer.model import saved_name
from finetune_trainer.problems.causal_lm import CausalLanguageModelling

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class Engine:
    """One process, or data parallel: every rank holds all weights and gradients are averaged."""

    def __init__(
        self,
        task: CausalLanguageModelling,
        optimizer: Optimizer,
        world: World,
        compute_dtype: torch.dtype,
    ) -> None:
        self.task, self.world, self._optimizer, self._dtype = task, world, optimizer, compute_dtype
        self._named = [(n, p) for n, p in task.model.named_parameters() if p.requires_grad]
        self._parameters = [parameter for _, parameter in self._named]
        self.device = self._parameters[0].device
        self._bad = torch.zeros((), device=self.device)
        # Fused optimizers read this attribute; it is GradScaler's way to make an update inert.
        setattr(optimizer, "found_inf", self._bad)  # noqa: B010
        self._wrapped = self._replicated() if world.size > 1 else task

    def loss_sum(self, batch: MicroBatch, *, last: bool) -> Tensor:
        """Return float32[] on the device: this micro-batch's share of the step's loss.

        `last` is told before the forward: only the last micro-batch of a step reduces gradients.
        """
        if isinstance(self._wrapped, DistributedDataParallel):
            self._wrapped.require_backward_grad_sync = last
        with self.precision():
            loss: Tensor = self._wrapped(batch.to(self.device))
        return loss

    def backward(self, loss: Tensor) -> None:
        """Add the gradient; the factor undoes the average that the reduction takes."""
        (loss * self.world.size).backward()  # type: ignore[no-untyped-call]

    def clip_and_step(self, rate: float, clip: float) -> Tensor:
        """Update once and clear gradients; return the norm before clipping, on the device.

        The norm is the same on all ranks. From the first one that is not finite on, every update
        is inert, so that the host may read late: weights and moments stay as they were before.
        """
        norm = clip_grad_norm_(self._parameters, clip or torch.inf, foreach=True)
        self._bad.copy_(torch.maximum(self._bad, (~torch.isfinite(norm)).float()))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def diverged(self) -> bool:
        """Read whether an update was not finite; waits for the device."""
        return bool(self._bad.item())

    def precision(self) -> AbstractContextManager[object]:
        """Return the context of every forward: autocast unless arithmetic is float32."""
        if self._dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self._dtype)

    def weights(self) -> dict[str, Tensor]:
        """Return the trained tensors by the names they are saved under."""
        return {saved_name(name): parameter.detach() for name, parameter in self._named}

    def moments(self) -> dict[str, Tensor]:
        """Return the optimizer's tensors, `<parameter>.<moment>`; empty before the first step."""
        state = self._optimizer.state
        return {
            f"{saved_name(name)}.{moment}": state[parameter][moment]
            for name, parameter in self._named
            if parameter in state
            for moment in MOMENTS
        }

    def load(self, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> None:
        """Take over the tensors of a checkpoint on rank 0, then give them to every rank."""
        for name, parameter in self._named:
            self._optimizer.state[parameter] = {
                moment: torch.zeros((), device=self.device)
                if moment == "step"
                else torch.zeros_like(parameter)
                for moment in MOMENTS
            }
            for moment in MOMENTS if self.world.rank == 0 else ():
                source = moments[f"{saved_name(name)}.{moment}"]
                self._optimizer.state[parameter][moment].copy_(source)
            if self.world.rank == 0:
                parameter.data.copy_(weights[saved_name(name)])
        if self.world.size > 1:
            for tensor in self._all_tensors():
                dist.broadcast(tensor, 0)

    def _all_tensors(self) -> Iterator[Tensor]:
        yield from (parameter.data for parameter in self._parameters)
        yield from self.moments().values()

    def _replicated(self) -> nn.Module:
        # Every rank loads the same file and draws adapters by name: nothing needs to be sent.
        with warnings.catch_warnings():
            # torch 2.15 renames broadcast_buffers; its successor does not exist in 2.11.
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(
                self.task, broadcast_buffers=False, init_sync=False, bucket_cap_mb=512
            )
