"""One optimizer update that a gradient which is not finite makes inert."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class GuardedUpdate:
    """An optimizer behind a flag: weights, moments and counters never see a bad gradient.

    With `keep_flag` every update after a bad one is inert too, so that the host may read the norm
    late and still find the weights as they were. Fused optimizers read the flag on the device.
    RMSprop, Adadelta and those of bitsandbytes do not: for them the host reads it, once per update.
    """

    def __init__(self, optimizer: Optimizer, device: torch.device, *, keep_flag: bool) -> None:
        self.optimizer, self._keep = optimizer, keep_flag
        self.reads_on_device = all(group.get("fused") for group in optimizer.param_groups)
        self.place(device)

    def update(self, norm: Tensor, factor: float) -> None:
        """Update once with the rates `factor` x each group's peak, and clear the gradients.

        `norm` is the gradient norm over all ranks, on the device.
        """
        self.flag(norm)
        for group in self.optimizer.param_groups:
            group["lr"] = factor * group["peak"]
        if self.reads_on_device or not self.diverged():
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def flag(self, norm: Tensor) -> None:
        """Note whether a norm is finite, without an update."""
        bad = (~torch.isfinite(norm)).to(self._bad)
        self._bad.copy_(torch.maximum(self._bad, bad) if self._keep else bad)

    def diverged(self) -> bool:
        """Read the flag; waits for the device."""
        return bool(self._bad.item())

    def place(self, device: torch.device) -> None:
        """Put the flag, not set, onto a device."""
        self._bad = torch.zeros((), device=device)
        if self.reads_on_device:
            # Fused optimizers read this attribute; it is GradScaler's way to make an update inert.
            setattr(self.optimizer, "found_inf", self._bad)  # noqa: B010

    def clear(self) -> None:
        """Take the flag back, for weights that are good again."""
        self._bad.zero_()

    def moments(self, parameter: Tensor) -> dict[str, Tensor]:
        """Return a parameter's state by name; counters that a library holds as numbers included."""
        state = self.optimizer.state[parameter]
        return {name: torch.as_tensor(state[name]) for name in _own(state)}

    def load_moments(self, parameter: Tensor, moments: dict[str, Tensor]) -> None:
        """Take over a parameter's state as `moments` returned it."""
        state = self.optimizer.state[parameter]
        for name in _own(state):
            if isinstance(state[name], Tensor):
                state[name].copy_(moments[name])
            else:
                state[name] = int(moments[name])


def _own(state: dict[str, Any]) -> list[str]:
    """Return the names of what belongs to the parameter: bitsandbytes' code books are constants."""
    return [name for name in state if not name.startswith("qmap")]
