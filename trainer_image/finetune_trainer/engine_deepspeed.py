"""Shards by DeepSpeed's ZeRO: gradients and moments (stage 2), and weights too (stage 3)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from finetune_trainer.data import MicroBatch
from finetune_trainer.distributed import World, group_of_one
from finetune_trainer.engine import BuildUpdate, Engine, First
from finetune_trainer.first_shards import (
    broadcast,
    everywhere,
    parameter_places,
    place_buffers,
    share_buffers,
)
from finetune_trainer.guarded_update import GuardedUpdate
from finetune_trainer.pieces import Piece, Source, filled, whole
from finetune_trainer.problems.causal_lm import CausalLanguageModelling
from finetune_trainer.vocabulary import outside_weights

Result = TypeVar("Result")


class ZeroEngine(Engine):
    """DeepSpeed owns reduction, clipping and the masters; it reads norm and overflow on the host.

    An update that is not finite is left out by the library itself.
    """

    sharded = True

    def __init__(
        self,
        task: CausalLanguageModelling,
        update: BuildUpdate,
        world: World,
        compute_dtype: torch.dtype,
        config: dict[str, Any],
        first: First | None = None,
    ) -> None:
        if world.size == 1:
            group_of_one()
        self._config, self._first = config, first
        super().__init__(task, update, world, compute_dtype)
        begun = self._finer_than_computed()
        self._zero = self._initialised()
        for name, value in begun.items():
            self._place(self._held[name], value, "")

    def loss_sum(self, batch: MicroBatch, *, last: bool) -> Tensor:
        """Return float32[] on the device: this micro-batch's share of the step's loss."""
        self._zero.set_gradient_accumulation_boundary(last)
        loss: Tensor = self._zero(batch.to(self.device))
        return loss

    def backward(self, loss: Tensor) -> None:
        """Add the gradient; the factor undoes the average that the reduction takes."""
        self._zero.backward(loss * self.world.size, scale_wrt_gas=False)

    def clip_and_step(self, factor: float, clip: float) -> Tensor:
        """Update by the library, which clips; return the norm before clipping."""
        self._zero.optimizer.clip_grad = clip
        for group in self._update.optimizer.param_groups:
            group["lr"] = factor * group["peak"]
        self._zero.step()
        bad = self._zero.optimizer.overflow
        norm = torch.as_tensor(
            torch.inf if bad else self._zero.get_global_grad_norm(), device=self.device
        ).float()
        self._update.flag(norm)
        return norm

    def discard(self) -> None:
        """Drop the gradients since the last update.

        The library keeps them in several places, by stage and type; it empties all of them where it
        leaves an update out because of an infinite norm.
        """
        inner, infinite = self._zero.optimizer, torch.tensor(torch.inf, device=self.device)
        name = "_get_norm_groups" if self._stage == 3 else "scaled_global_norm"
        value = [infinite] if self._stage == 3 else infinite
        setattr(inner, name, lambda: value)
        self._zero.set_gradient_accumulation_boundary(True)
        self._zero.step()
        delattr(inner, name)

    def forward(self, function: Callable[[], Result]) -> Result:
        """Run another forward inside the task's hooks, which fetch weights; collective."""
        found: list[Result] = []

        def inside() -> Tensor:
            found.append(function())
            return torch.zeros(())  # the hooks know only some types of output

        self.task.__dict__["forward"] = inside
        try:
            self.task()
        finally:
            del self.task.__dict__["forward"]
        return found[0]

    def precision(self) -> AbstractContextManager[object]:
        """Return a context that changes nothing: the weights have the compute type."""
        return nullcontext()

    def weights(self) -> list[Piece]:
        """Return the gathered masters on rank 0, which writes alone; collective."""
        return self._gathered("")

    def moments(self) -> list[Piece]:
        """Return the gathered moments on rank 0, which writes alone; collective."""
        found = [piece for moment in self._moment_names() for piece in self._gathered(moment)]
        if self.world.rank:
            return []
        counters = {
            f"{name}.{counter}": torch.as_tensor(value)
            for name in self._held
            for counter, value in self._counters().items()
        }
        return found + [whole(name, value) for name, value in counters.items()]

    def load(self, weights: Source, moments: Source) -> None:
        """Take over the state of a checkpoint, which rank 0 reads; a collective call."""
        names = self._moment_names()
        shapes = {name: piece.shape for name, piece in self._held.items()}
        masters = {} if self.world.rank else filled(shapes, weights)
        wanted = {f"{name}.{one}": shape for name, shape in shapes.items() for one in names}
        wanted |= {f"{name}.{one}": () for name in shapes for one in self._counters()}
        states = {} if self.world.rank else filled(wanted, moments)
        for name, piece in self._held.items():
            self._place(piece, masters.get(name), "")
            for moment in names:
                self._place(piece, states.get(f"{name}.{moment}"), moment)
        first = next(iter(self._held))
        for counter in self._counters():
            value = everywhere(states.get(f"{first}.{counter}"), (), self.device)
            for state in self._states():
                old = state[counter]
                state[counter] = old.copy_(value) if _is_tensor(old) else int(value)

    def _wrap(self) -> nn.Module:
        """Put every weight onto the devices, tensor by tensor; stage 3 cuts each before the next.

        Then no device ever holds the whole model; no host does in any stage.
        """
        os.environ.setdefault("DS_ACCELERATOR", self.device.type)
        import deepspeed  # noqa: PLC0415 - seconds, and only for this strategy

        # An all-reduce in shared memory that it would compile at start on CPUs.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(auto_mpi_discovery=False, dist_backend=dist.get_backend())
        cut = None
        if self._stage == 3:
            cut = deepspeed.zero.Init(module=nn.Module(), config_dict_or_path=self._config)
        places = parameter_places(self.task)
        for name, parameter in list(self.task.model.named_parameters()):
            held = self._received(name, parameter) if parameter.is_meta else parameter
            for module, own in places[parameter]:
                setattr(module, own, held)
            if cut is not None:
                cut._convert_to_zero_parameters([held])
        place_buffers(self.task, self.device)
        share_buffers(self.task.model, self._first)
        return self.task

    def _received(self, name: str, parameter: nn.Parameter) -> nn.Parameter:
        held = torch.empty_like(parameter, device=self.device)
        if self._first is not None:
            held.data.copy_(self._first(name))
        if self._stage < 3:  # cutting sends by itself
            broadcast(held.data)
        return nn.Parameter(held.data, parameter.requires_grad)

    def _trained(self) -> Iterator[Piece]:
        for name, parameter in self.task.model.named_parameters():
            if parameter.requires_grad:
                yield Piece(name, parameter, tuple(getattr(parameter, "ds_shape", parameter.shape)))

    def _updating(self, update: BuildUpdate, trained: list[Piece]) -> GuardedUpdate:
        """Build the optimizer on shapes alone: the library lays out its state on partitions."""
        shapes = [torch.empty(one.shape, device="meta", requires_grad=True) for one in trained]
        built = update(list(zip((one.name for one in trained), shapes, strict=True)))
        real = dict(zip(shapes, (one.tensor for one in trained), strict=True))
        for group in built.optimizer.param_groups:
            group["params"] = [real[one] for one in group["params"]]
        built.place(self.device)
        return built

    def _initialised(self) -> Any:
        import deepspeed  # noqa: PLC0415

        optimizer = self._update.optimizer
        form = dict(next(iter(optimizer.state.values()), {}))
        optimizer.state.clear()
        zero, *_ = deepspeed.initialize(
            model=self.task,
            optimizer=optimizer,
            config=self._config,
            dist_init_required=False,
        )
        inner: Any = zero.optimizer
        three = self._stage == 3
        flats = (
            inner.fp32_partitioned_groups_flat if three else inner.single_partition_of_fp32_groups
        )
        for flat in flats if form else ():
            optimizer.state[flat] = {name: _zero(value, flat) for name, value in form.items()}
        if three:
            for parameter in outside_weights(self.task):
                deepspeed.zero.register_external_parameter(self.task, parameter)
        else:
            # Else it links them after the first group's first update, when others have none.
            inner._lazy_init_hp_params_optimizer_state()
        return zero

    @property
    def _stage(self) -> int:
        return int(self._config["zero_optimization"]["stage"])

    def _finer_than_computed(self) -> dict[str, Tensor | None]:
        """Return what masters begin with, on rank 0; below stage 3 the library would round it."""
        found: dict[str, Tensor | None] = {}
        for name, piece in self._held.items():
            if self._stage < 3 and piece.tensor.dtype != self._dtype:
                found[name] = None if self.world.rank else piece.tensor.detach().cpu().clone()
        return found

    def _states(self) -> list[dict[str, Any]]:
        return [state for state in self._update.optimizer.state.values() if state]

    def _moment_names(self) -> list[str]:
        return [k for k, v in self._first_state().items() if _is_tensor(v) and v.ndim]

    def _counters(self) -> dict[str, Any]:
        return {k: v for k, v in self._first_state().items() if not (_is_tensor(v) and v.ndim)}

    def _first_state(self) -> dict[str, Any]:
        return next(iter(self._states()), {})

    def _gathered(self, moment: str) -> list[Piece]:
        from deepspeed.utils import (  # noqa: PLC0415
            safe_get_full_fp32_param,
            safe_get_full_optimizer_state,
        )

        found = []
        for name, piece in self._held.items():
            held = piece.tensor
            state = safe_get_full_optimizer_state(held, moment) if moment else None
            full = safe_get_full_fp32_param(held) if state is None else state
            if self.world.rank == 0:
                saved = f"{name}.{moment}" if moment else name
                found.append(whole(saved, full.detach().cpu().reshape(piece.shape)))
        return found

    def _place(self, piece: Piece, value: Tensor | None, moment: str) -> None:
        """Set a master (and the weight computed with) or a moment to what rank 0 has of it."""
        from deepspeed import utils  # noqa: PLC0415

        parameter: Any = piece.tensor
        full = everywhere(value, piece.shape, self.device)
        if self._stage < 3:
            if moment:
                utils.safe_set_full_optimizer_state(parameter, full, moment)
            else:
                utils.safe_set_full_fp32_param(parameter, full)
                parameter.data.copy_(full)
            return
        # The library's own setter for whole tensors fails where ranks do not divide them.
        size = parameter.ds_tensor.numel()
        padded = nn.functional.pad(full.flatten(), (0, size * self.world.size - full.numel()))
        own = padded[size * self.world.rank :][:size]
        if moment:
            utils.safe_set_local_optimizer_state(parameter, own, moment)
            return
        utils.safe_set_local_fp32_param(parameter, own)
        parameter.ds_tensor.data.copy_(own)
        if parameter.numel() == full.numel():
            parameter.data.copy_(full)  # small weights stay whole


def _zero(value: Any, flat: Tensor) -> Any:
    """Return the empty state of a flat partition: like that of one parameter."""
    if not _is_tensor(value):
        return 0
    if value.ndim:
        return torch.zeros_like(flat, requires_grad=False)
    return torch.zeros((), dtype=value.dtype, device=flat.device)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)
