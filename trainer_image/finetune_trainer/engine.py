"""Runs micro-batches and updates on one process or as one of several data-parallel ranks.

The loop knows only this contract: `loss_sum`, `backward`, `clip_and_step`, `forward`, `weights`,
`moments`, `load`. Sharded strategies are subclasses in modules of their own, so that a run imports
only what it uses.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from finetune_trainer.adapter import saved_name
from finetune_trainer.data import MicroBatch
from finetune_trainer.distributed import World
from finetune_trainer.guarded_update import GuardedUpdate
from finetune_trainer.loss_scale import LossScale
from finetune_trainer.pieces import Piece, Source, fill, whole
from finetune_trainer.problems.causal_lm import CausalLanguageModelling

Result = TypeVar("Result")
BuildUpdate = Callable[[list[tuple[str, Tensor]]], GuardedUpdate]
"""Builds the optimizer on the named tensors an engine updates, which may be shards."""
First = Callable[[str], Tensor]
"""Returns a whole tensor by its name in the task's model; rank 0 alone can, and is asked."""


class Engine:
    """One process, or data parallel: every rank holds all weights and gradients are averaged."""

    sharded = False
    """sharded engines need every rank for a forward, a checkpoint and its loading."""
    scales_loss = False
    """scales_loss engines multiply the loss, so that 16-bit gradients do not vanish."""
    writers = 1
    """writers is the number of ranks, from 0, that write a checkpoint together."""

    def __init__(
        self,
        task: CausalLanguageModelling,
        update: BuildUpdate,
        world: World,
        compute_dtype: torch.dtype,
        *,
        find_unused: bool = False,
    ) -> None:
        self.task, self.world, self.device = task, world, world.device
        self._dtype, self._find_unused = compute_dtype, find_unused
        self._scale = LossScale(self.device) if compute_dtype is torch.float16 else None
        self.scales_loss = self._scale is not None
        self._wrapped = self._wrap()
        trained = list(self._trained())
        self._held = {saved_name(piece.name): piece for piece in trained}
        self._update = self._updating(update, trained)

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
        self._scaled(loss * self.world.size).backward()  # type: ignore[no-untyped-call]

    def clip_and_step(self, factor: float, clip: float) -> Tensor:
        """Update once at `factor` x the peak rates and clear gradients.

        Returns the norm before clipping, on the device, the same on all ranks.
        """
        parameters = [piece.tensor for piece in self._held.values()]
        self._unscale(parameters)
        norm = clip_grad_norm_(parameters, clip or torch.inf, foreach=True)
        self._update.update(norm, factor)
        self._adapt_scale(norm)
        return norm

    def discard(self) -> None:
        """Drop the gradients since the last update."""
        self._update.optimizer.zero_grad(set_to_none=True)

    def diverged(self) -> bool:
        """Read whether an update was not finite; waits for the device."""
        return self._update.diverged()

    def forgive(self) -> None:
        """Take the flag of an update back, for weights that are good again."""
        self._update.clear()

    def forward(self, function: Callable[[], Result]) -> Result:
        """Run another forward of the task, such as an evaluation's or a generation's.

        Sharded engines fetch weights inside it: every rank calls it, with as many forwards.
        """
        with self.precision():
            return function()

    def precision(self) -> AbstractContextManager[object]:
        """Return the context of every forward: autocast unless arithmetic is float32."""
        if self._dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self._dtype)

    def weights(self) -> list[Piece]:
        """Return what this rank saves of the trained tensors, by the names they are saved under."""
        return self._own(self._weight_targets())

    def moments(self) -> list[Piece]:
        """Return what this rank saves of the optimizer's tensors, `<parameter>.<moment>`."""
        return self._own(self._moment_targets())

    def load(self, weights: Source, moments: Source) -> None:
        """Take over the state of a checkpoint, however it was cut; a collective call.

        Only rank 0 reads, and gives the tensors to the others. Raises DataError for missing rows.
        """
        targets = self._weight_targets(), self._moment_targets()
        if self.world.rank == 0:
            fill(targets[0], weights)
            fill(targets[1], moments)
        if self.world.size > 1:
            for target in (*targets[0].values(), *targets[1].values()):
                moved = target.tensor.to(self.device)
                dist.broadcast(moved, 0)
                target.tensor.copy_(moved)
        self._take_moments(targets[1])

    def _scaled(self, loss: Tensor) -> Tensor:
        return loss if self._scale is None else self._scale.scaled(loss)

    def _unscale(self, parameters: Iterable[Tensor]) -> None:
        if self._scale is not None:
            self._scale.unscale([one.grad for one in parameters if one.grad is not None])

    def _adapt_scale(self, norm: Tensor) -> None:
        if self._scale is not None:
            self._scale.adapt(norm)

    def _wrap(self) -> nn.Module:
        """Place the task for training; return what is called for a loss."""
        if self.world.size == 1:
            return self.task
        # Every rank loads the same file and draws adapters by name: nothing needs to be sent.
        with warnings.catch_warnings():
            # torch 2.15 renames broadcast_buffers; its successor does not exist in 2.11.
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(
                self.task,
                broadcast_buffers=False,
                init_sync=False,
                bucket_cap_mb=512,
                find_unused_parameters=self._find_unused,
            )

    def _trained(self) -> Iterator[Piece]:
        """Yield what this rank updates: parameters, or its rows of them."""
        for name, parameter in self.task.model.named_parameters():
            if parameter.requires_grad:
                yield whole(name, parameter)

    def _updating(self, update: BuildUpdate, trained: list[Piece]) -> GuardedUpdate:
        return update([(piece.name, piece.tensor) for piece in trained])

    def _own(self, targets: dict[str, Piece]) -> list[Piece]:
        return list(targets.values()) if self.world.rank == 0 else []

    def _weight_targets(self) -> dict[str, Piece]:
        return {
            name: Piece(name, piece.tensor.detach(), piece.shape, piece.first)
            for name, piece in self._held.items()
        }

    def _moment_targets(self) -> dict[str, Piece]:
        found = {}
        if self._scale is not None:
            found["loss_scale"] = whole("loss_scale", self._scale.state)
        for name, piece in self._held.items():
            for moment, tensor in self._update.moments(piece.tensor).items():
                full = f"{name}.{moment}"
                if tensor.shape == piece.tensor.shape:
                    found[full] = Piece(full, tensor, piece.shape, piece.first)
                else:
                    found[full] = whole(full, tensor)
        return found

    def _take_moments(self, targets: dict[str, Piece]) -> None:
        for name, piece in self._held.items():
            names = self._update.moments(piece.tensor)
            self._update.load_moments(
                piece.tensor, {moment: targets[f"{name}.{moment}"].tensor for moment in names}
            )
