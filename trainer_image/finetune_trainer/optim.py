"""Parameter groups and the optimizers, each with its state in place before the first update."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adadelta, Adam, AdamW, Optimizer, RMSprop

from finetune_api.training_settings import OptimizerName, ParameterGroup, Training
from finetune_trainer.parameter_match import EMBEDDINGS, ParameterMatch, refuse_unmatched

Named = Iterable[tuple[str, Tensor]]
Recipe = Callable[[Named], Optimizer]
MOMENTUM, RMSPROP_ALPHA = 0.9, 0.9
SMALLEST_8BIT_TENSOR = 4096

QUANTISED_STATE = (OptimizerName.ADAMW_8BIT, OptimizerName.PAGED_ADAMW_8BIT)
PAGED = (OptimizerName.PAGED_ADAMW_32BIT, OptimizerName.PAGED_ADAMW_8BIT)
FROM_BITSANDBYTES = {*QUANTISED_STATE, *PAGED}


def optimizer_recipe(model: nn.Module, training: Training, peak: float) -> Recipe:
    """Return what builds the optimizer on (name, tensor) pairs of `model`'s trained parameters.

    The engine calls it with what it has wrapped: parameters, or this rank's shards of them under
    the same names. `peak` is the rate of everything without a group of its own. Raises
    ConfigurationError (NoMatchingParameters) for a group that nothing falls into.
    """
    match = ParameterMatch(model)

    def build(named: Named) -> Optimizer:
        trained = [(name, one) for name, one in named if one.requires_grad]
        groups = parameter_groups(trained, training, match, peak)
        optimizer = _optimizer(groups, training)
        embeddings = {id(one) for name, one in trained if match.kind(name) == EMBEDDINGS}
        _lay_out_state(optimizer, embeddings)
        return optimizer

    return build


def parameter_groups(
    trained: Sequence[tuple[str, Tensor]], training: Training, match: ParameterMatch, peak: float
) -> list[dict[str, Any]]:
    """Return {listed groups, rest} x {decayed, undecayed}, each with the `peak` of its rate.

    The first matching group takes a parameter. Tensors of one dimension (biases, norms, DoRA
    magnitudes) never decay.
    """
    rest = ParameterGroup(match=["rest"], learning_rate=peak, weight_decay=training.weight_decay)
    left, groups = list(trained), []
    for group in training.parameter_groups or ():
        for pattern in group.match:
            if not any(match.matches(pattern, name) for name, _ in left):
                raise refuse_unmatched("parameterGroups", pattern)
        own = {name for name, _ in left if any(match.matches(one, name) for one in group.match)}
        groups += _decayed_apart([pair for pair in left if pair[0] in own], group, rest)
        left = [pair for pair in left if pair[0] not in own]
    return groups + _decayed_apart(left, rest, rest)


def _decayed_apart(
    pairs: Sequence[tuple[str, Tensor]], group: ParameterGroup, rest: ParameterGroup
) -> list[dict[str, Any]]:
    peak = rest.learning_rate if group.learning_rate is None else group.learning_rate
    decay = rest.weight_decay if group.weight_decay is None else group.weight_decay
    halves: list[dict[str, Any]] = [
        {"params": [one for _, one in pairs if one.ndim > 1], "weight_decay": decay},
        {"params": [one for _, one in pairs if one.ndim <= 1], "weight_decay": 0.0},
    ]
    return [half | {"peak": peak} for half in halves if half["params"]]


def _optimizer(groups: list[dict[str, Any]], training: Training) -> Optimizer:
    """Return the optimizer in a fused form where there is one: it takes a flag on the device."""
    adam: dict[str, Any] = {
        "lr": 0.0,
        "betas": (training.adam_beta1, training.adam_beta2),
        "eps": training.adam_epsilon,
    }
    momentum = MOMENTUM if training.momentum is None else training.momentum
    match training.optimizer:
        case OptimizerName.ADAMW:
            return AdamW(groups, **adam, fused=True)
        case OptimizerName.ADAM:
            return Adam(groups, **adam, fused=True)
        case OptimizerName.SGD:
            return SGD(groups, lr=0.0, momentum=momentum, nesterov=momentum > 0, fused=True)
        case OptimizerName.RMSPROP:
            return RMSprop(groups, lr=0.0, alpha=RMSPROP_ALPHA, momentum=momentum, foreach=True)
        case OptimizerName.ADADELTA:
            return Adadelta(groups, lr=0.0, foreach=True)
    return _from_bitsandbytes(groups, training.optimizer, adam)


def _from_bitsandbytes(
    groups: list[dict[str, Any]], name: OptimizerName, adam: dict[str, Any]
) -> Optimizer:
    # Imported only where asked for: it loads a CUDA library.
    from bitsandbytes import optim  # noqa: PLC0415

    library: Any = optim  # untyped
    # Its base takes every variant; the decay of its AdamW is decoupled.
    optimizer: Optimizer = library.AdamW(
        groups,
        **adam,
        optim_bits=8 if name in QUANTISED_STATE else 32,
        min_8bit_size=SMALLEST_8BIT_TENSOR,
        is_paged=name in PAGED,
    )
    return optimizer


STATE: dict[type[Optimizer], tuple[str, ...]] = {
    AdamW: ("exp_avg", "exp_avg_sq"),
    Adam: ("exp_avg", "exp_avg_sq"),
    SGD: ("momentum_buffer",),
    RMSprop: ("square_avg", "momentum_buffer"),
    Adadelta: ("square_avg", "acc_delta"),
}


def _lay_out_state(optimizer: Optimizer, embeddings: set[int]) -> None:
    """Fill the state with zeros: after an inert first update fused SGD would keep a buffer that
    was never written, and a checkpoint of step 0 would have no state.
    """
    for number, group in enumerate(optimizer.param_groups):
        for place, one in enumerate(group["params"]):
            if type(optimizer) in STATE:
                optimizer.state[one] = _zeros(optimizer, group, one)
            else:
                _lay_out_quantised(optimizer, (number, place), one, whole=id(one) in embeddings)


def _zeros(optimizer: Optimizer, group: dict[str, Any], one: Tensor) -> dict[str, Tensor]:
    state = {name: torch.zeros_like(one) for name in STATE[type(optimizer)]}
    if isinstance(optimizer, SGD):
        return state if group["momentum"] else {}
    # Optimizers that are not fused count on the host.
    device = one.device if group.get("fused") else torch.device("cpu")
    return {"step": torch.zeros((), device=device), **state}


def _lay_out_quantised(optimizer: Any, place: tuple[int, int], one: Tensor, *, whole: bool) -> None:
    """Let bitsandbytes make its state; embeddings keep 32 bits, their rows being updated unevenly
    (arXiv:2110.02861, section 2.3).
    """
    optimizer.args.min_8bit_size = one.numel() + 1 if whole else SMALLEST_8BIT_TENSOR
    with warnings.catch_warnings():
        # On CPU, pages are plain memory, which the library finds worth a warning.
        warnings.simplefilter("ignore", UserWarning)
        optimizer.init_state(optimizer.param_groups[place[0]], one, *place)
    optimizer.args.min_8bit_size = SMALLEST_8BIT_TENSOR
