"""Dynamic loss scaling for arithmetic in 16-bit floats with a small range, all on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FIRST_SCALE, GROWTH, BACKOFF, STEADY_STEPS = 65536.0, 2.0, 0.5, 2000


class LossScale:
    """A factor on the loss that falls when a gradient overflows and grows while none does.

    torch's GradScaler judges each rank's own gradients; here the norm over all ranks decides, so
    the factor is the same on all of them (Micikevicius et al., arXiv:1710.03740).
    """

    def __init__(self, device: torch.device) -> None:
        self.state = torch.tensor([FIRST_SCALE, 0.0], device=device)
        """state is float32[2], saved with the moments: the factor and the updates since it moved"""

    def scaled(self, loss: Tensor) -> Tensor:
        """Return the loss for backward."""
        return loss * self.state[0]

    def unscale(self, gradients: Sequence[Tensor]) -> None:
        """Take the factor off the gradients, before their norm is taken."""
        inverse = self.state[0].reciprocal()
        by_device: dict[torch.device, list[Tensor]] = {}
        for one in gradients:
            by_device.setdefault(one.device, []).append(one)
        for device, group in by_device.items():
            torch._foreach_mul_(group, inverse.to(device))

    def adapt(self, norm: Tensor) -> None:
        """Move the factor by whether the norm of the step was finite."""
        bad = (~torch.isfinite(norm)).to(self.state)
        factor, steady = self.state[0], self.state[1]
        # The device's own kernel does the same on an integer counter, which a checkpoint of
        # float tensors would not hold.
        grown = torch.where(steady + 1 >= STEADY_STEPS, factor * GROWTH, factor)
        counted = torch.where(steady + 1 >= STEADY_STEPS, torch.zeros_like(steady), steady + 1)
        self.state[0] = torch.where(bad > 0, factor * BACKOFF, grown)
        self.state[1] = torch.where(bad > 0, torch.zeros_like(steady), counted)
