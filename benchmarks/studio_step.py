"""A training loop as a fine-tuning studio describes its own, written anew from the description.

Described behaviour: two padded samples per step; the frozen base in bfloat16 with adapters in
float32 and dropout on their input; arithmetic under autocast; every layer recomputed in backward;
logits of all positions; loss read and tested on the host every step; gradients clipped.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from contender_turns import Turns
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_
from train_task import RATE, Job, in_order, padded, peer_model, samples


def studio_loop(job: Job, model: Path, turns: Turns) -> dict[str, Any]:
    """Train step by step; return the mean loss of each epoch and its last gradient norm."""
    torch.manual_seed(1)
    rows = in_order(job, samples(job.samples))
    trained = peer_model(model, job, torch.bfloat16)
    trained.gradient_checkpointing_enable({"use_reentrant": False})
    trained.enable_input_require_grads()
    trained.train()
    parameters = [one for one in trained.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
    losses: list[float] = []
    norms: list[float] = []
    turns.begin()
    for step in range(job.epochs * job.steps):
        batch = padded(rows[step * job.batch : (step + 1) * job.batch])
        with torch.autocast("cpu", torch.bfloat16):
            loss = _loss(trained, batch)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise ArithmeticError(f"loss {losses[-1]} in step {step}")
        loss.backward()
        norms.append(float(clip_grad_norm_(parameters, 1.0)))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        turns.step_done(step + 1)
    means = [sum(losses[i : i + job.steps]) / job.steps for i in range(0, len(losses), job.steps)]
    return {"losses": means, "norms": norms[job.steps - 1 :: job.steps]}


def _loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    shifted = logits[:, :-1].float().flatten(0, 1)
    return F.cross_entropy(shifted, batch["labels"][:, 1:].flatten(), ignore_index=-100)
