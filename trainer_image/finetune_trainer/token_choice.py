"""The next token of every row from its logits: penalties, warpers, greedy or sampled.

Rules and their order are those of transformers' logits processors, so that a setting means what
it means elsewhere. Shape suffixes: `B` rows, `L` tokens so far, `V` vocabulary, `K` candidates.
"""
# ruff: noqa: N803, N806 - tensors carry shape suffixes

from __future__ import annotations

import torch
from torch import Tensor

from finetune_trainer.decoding import Decoding


def next_tokens(
    logits_BV: Tensor, decoding: Decoding, *, seen_BV: Tensor | None, uniforms_B: Tensor | None
) -> Tensor:
    """Return int64[B]; `seen_BV` marks tokens of prompt and answer, `uniforms_B` are in [0, 1)."""
    scores_BV = penalised(logits_BV.float(), seen_BV, decoding.repetition_penalty)
    if not decoding.do_sample or uniforms_B is None:
        return scores_BV.argmax(-1)
    shares_BK, ids_BK = candidates(scores_BV, decoding)
    sums_BK = shares_BK.cumsum(-1)
    aim_B1 = uniforms_B[:, None].to(sums_BK) * sums_BK[:, -1:]
    # Rounding may lift the aim onto the whole sum, behind the last candidate that has a share.
    last_B1 = (shares_BK > 0).sum(-1, keepdim=True) - 1
    place_B1 = torch.minimum(torch.searchsorted(sums_BK, aim_B1, right=True), last_B1)
    return ids_BK.gather(1, place_B1)[:, 0]


def penalised(scores_BV: Tensor, seen_BV: Tensor | None, penalty: float) -> Tensor:
    """Return scores with seen tokens made less likely (CTRL, arXiv:1909.05858, section 4.1)."""
    if seen_BV is None:
        return scores_BV
    lower_BV = torch.where(scores_BV < 0, scores_BV * penalty, scores_BV / penalty)
    return torch.where(seen_BV, lower_BV, scores_BV)


def without(scores_BV: Tensor, ids: Tensor) -> Tensor:
    """Return scores under which none of the ids can be chosen."""
    return scores_BV.index_fill(1, ids, -torch.inf)


def candidates(scores_BV: Tensor, decoding: Decoding) -> tuple[Tensor, Tensor]:
    """Return float32[B, K] shares, the largest first, 0 where left out; and int64[B, K] ids."""
    scores_BV = scores_BV / decoding.temperature
    most = min(decoding.top_k or scores_BV.shape[-1], scores_BV.shape[-1])
    scores_BK, ids_BK = scores_BV.topk(most, sorted=True)
    shares_BK = scores_BK.softmax(-1)
    if decoding.top_p is not None:
        # A token is kept while those before it hold less than top_p; the first always is.
        before_BK = shares_BK.cumsum(-1) - shares_BK
        before_BK[:, 0] = 0
        shares_BK = shares_BK * (before_BK < decoding.top_p)
    if decoding.min_p is not None:
        shares_BK = shares_BK * (shares_BK >= decoding.min_p * shares_BK[:, :1])
    return shares_BK, ids_BK


def seen_tokens(tokens_BL: Tensor, mask_BL: Tensor, vocabulary: int) -> Tensor:
    """Return bool[B, V]: tokens a row holds, its padding not among them."""
    seen_BV = torch.zeros(tokens_BL.shape[0], vocabulary, device=tokens_BL.device)
    # An id beyond the head's rows can never be chosen; a place that is padding adds nothing.
    real_BL = mask_BL * (tokens_BL < vocabulary)
    return seen_BV.scatter_add_(1, tokens_BL * real_BL, real_BL.float()) > 0
