"""Keeps the ranks of a sharded engine at equally many forwards, however much each has to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed as dist
from torch import nn

from finetune_trainer.generate import cached_attention

ROUND = 8
"""Forwards between two questions whether any rank still works."""


class _Steps:
    """Counts forwards; at the start of each round all ranks tell each other who still works."""

    def __init__(self, causal: Any, device: torch.device) -> None:
        self._causal, self._device = causal, device
        self._done, self._working = 0, True

    def before_forward(self, _module: nn.Module, _inputs: Any) -> None:
        """Take part in the round this forward belongs to."""
        if self._done % ROUND == 0 and self._working:
            self._somebody_works()
        self._done += 1

    def finish(self) -> None:
        """Join the others' forwards with one token each until the last rank is done."""
        self._working = False
        token = torch.zeros(1, 1, dtype=torch.int64, device=self._device)
        while self._done % ROUND or self._somebody_works():
            self._causal(input_ids=token, use_cache=False, logits_to_keep=1)

    def _somebody_works(self) -> bool:
        flag = torch.tensor([float(self._working)], device=self._device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag.item())


@contextmanager
def lock_step(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Make every rank run as many forwards of the causal model inside as the busiest one.

    A sharded layer's weights are gathered by all ranks together, so a rank with fewer or shorter
    answers goes on with empty forwards. Not for ranks that hold all weights themselves.
    """
    causal: Any = model
    causal = causal.get_base_model() if hasattr(model, "peft_config") else causal
    steps = _Steps(causal, device)
    hook = causal.register_forward_pre_hook(steps.before_forward)
    try:
        yield
        with torch.no_grad(), cached_attention(model):
            steps.finish()
    finally:
        hook.remove()
