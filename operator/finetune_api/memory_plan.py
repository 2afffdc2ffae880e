"""Memory of one GPU in training, by terms, as a pure function of shapes and settings.

It stands in the contract package because preparation, trainer and command line must give the same
number. Sizes are bytes. A layer's saved activations are those of segment attention, fused
low-rank layers and norms and gates that save only their inputs; measured on a layer of
Llama-3-8B's proportions: 17.2 hidden units by this formula, 18.5 saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from finetune_api.model_shape import ModelShape

USABLE_SHARE = 0.92
"""Share of a device that a plan may fill."""
SLACK, CONTEXT_BYTES = 0.06, 1_500_000_000
"""Fragmentation as a share of the sum; context and libraries."""
LOGIT_BYTES = 500_000_000
"""Budget of one chunk's float32 logits."""
WITHOUT_LEAN_LAYERS = 24.0 / 18.5
"""Saved by fused low-rank layers alone against those with lean norms and gates, measured."""
ROUTER_BYTES = 8
"""What a router's balancing loss keeps per expert: its logit and its share, at most float32."""
QUANTISED_BYTES = {"NF4": 0.516, "FP4": 0.516, "Int8": 1.0}
PLAIN_CONSTANTS = 0.5625 - 0.516
"""What 4-bit weights take more where their constants are not quantised too."""
FLASH, EAGER = "Flash", "Eager"


@dataclass(frozen=True)
class MemorySettings:
    """What memory depends on besides the model's shape."""

    tokens: int
    """tokens of the largest micro-batch."""
    longest: int
    """longest sample in tokens."""
    trained: int
    """trained parameters: all, or those of the adapter."""
    rank: int = 0
    """rank of the adapter; 0 = all weights are trained."""
    value_bytes: int = 2
    """value_bytes of an activation."""
    weight_bytes: int = 2
    """weight_bytes of a frozen weight that is not quantised."""
    quantization: str = "None"
    double_quantization: bool = True
    moment_bytes: float = 8.0
    """moment_bytes of optimizer state per trained parameter on the device."""
    strategy: str = "SingleProcess"
    shards: int = 1
    """shards are the ranks that share one copy of the state."""
    reshard: bool = True
    """reshard: weights are gathered layer by layer and let go after use."""
    optimizer_offloaded: bool = False
    parameters_offloaded: bool = False
    eager: bool = False
    lean: bool = True
    checkpointed: int = 0
    """checkpointed layers."""


@dataclass(frozen=True)
class MemoryEstimate:
    """The predicted peak of one GPU."""

    terms: Mapping[str, int]
    settings: MemorySettings

    @property
    def allocated(self) -> int:
        """Sum of the terms: what the allocator hands out at the peak."""
        return sum(self.terms.values())

    @property
    def total(self) -> int:
        """Bytes of the device in use: allocated, fragmentation and context."""
        return round(self.allocated * (1 + SLACK)) + CONTEXT_BYTES

    def fits(self, available: int) -> bool:
        """Tell whether the peak stays within the usable share of a device."""
        return self.total <= USABLE_SHARE * available


def memory_estimate(shape: ModelShape, settings: MemorySettings) -> MemoryEstimate:
    """Return the peak of a step by terms.

    With U elements saved per token and layer, k of L layers checkpointed and n tokens, activations
    are `bytes x n ((L - k) U + k hidden + U if k)`: the last summand is the layer being recomputed.
    """
    terms = {
        "weights": _frozen(shape, settings),
        "trained": _trained(settings),
        "gathered": _gathered(shape, settings),
        "activations": _activations(shape, settings),
        "router": ROUTER_BYTES * settings.tokens * shape.layers * shape.balanced_experts,
        "attention": _scores(shape, settings),
        "head": _head(shape, settings),
        "dequantisation": _dequantised(shape, settings),
    }
    return MemoryEstimate({name: round(size) for name, size in terms.items() if size}, settings)


def least_recomputed(
    shape: ModelShape, settings: MemorySettings, available: int
) -> MemoryEstimate | None:
    """Return the estimate with the fewest checkpointed layers that fits; None if none does."""
    estimates = (
        memory_estimate(shape, replace(settings, checkpointed=layers))
        for layers in range(shape.layers + 1)
    )
    return next((one for one in estimates if one.fits(available)), None)


def saved_per_token(shape: ModelShape, settings: MemorySettings) -> int:
    """Return U: elements that one layer saves per token for backward.

    Two norms, attention's input and output projections (4 hidden + 2 query), keys and values,
    gate, up and their product, and seven low-rank intermediates.
    """
    inner = (3 if shape.gated else 2) * shape.feed_forward * shape.active_experts
    width = 4 * shape.hidden + 2 * shape.query_width + 2 * shape.key_value_width
    return round(
        (width + inner + 7 * settings.rank) * (1 if settings.lean else WITHOUT_LEAN_LAYERS)
    )


def chunk_rows(vocabulary: int) -> int:
    """Return how many rows' float32 logits fit `LOGIT_BYTES`: a multiple of 128, at most 8,192."""
    return max(128, min(8192, LOGIT_BYTES // (4 * vocabulary) // 128 * 128))


def _frozen(shape: ModelShape, settings: MemorySettings) -> float:
    if not settings.rank or settings.parameters_offloaded:
        return 0.0
    linear: float = settings.weight_bytes
    if settings.quantization in QUANTISED_BYTES:
        linear = QUANTISED_BYTES[settings.quantization]
        if not settings.double_quantization and settings.quantization != "Int8":
            linear += PLAIN_CONSTANTS
    size = linear * shape.linear_parameters + settings.weight_bytes * shape.embedding_parameters
    return size / (settings.shards if settings.strategy in ("FSDP", "ZeRO3") else 1)


def _trained(settings: MemorySettings) -> float:
    """Master, gradient and moments, sharded where the strategy shards them."""
    per = 4.0 if settings.optimizer_offloaded else 8.0 + settings.moment_bytes
    if settings.parameters_offloaded:
        per = 0.0
    if settings.strategy == "DDP":
        # The reducer's buckets are a second copy of the gradients.
        return (per + 4.0) * settings.trained
    return per * settings.trained / settings.shards


def _gathered(shape: ModelShape, settings: MemorySettings) -> float:
    """Weights in the compute type beside the shards or masters."""
    each = settings.value_bytes
    sharded = settings.strategy in ("FSDP", "ZeRO3")
    if not settings.rank and not (sharded and settings.reshard):
        # Arithmetic in float32 uses the masters themselves where nothing is sharded.
        return 0.0 if each == 4 and settings.shards == 1 else each * float(settings.trained)
    if not sharded:
        return 0.0
    if not settings.reshard:
        return _frozen(shape, settings) * (settings.shards - 1)
    layer = shape.linear_parameters / shape.layers
    return 2 * each * layer + each * shape.embedding_parameters


def _activations(shape: ModelShape, settings: MemorySettings) -> float:
    k, saved = settings.checkpointed, saved_per_token(shape, settings)
    per_token = (shape.layers - k) * saved + k * shape.hidden + (saved if k else 0)
    return float(settings.value_bytes * settings.tokens * per_token)


def _scores(shape: ModelShape, settings: MemorySettings) -> float:
    """Scores of attention without a fused kernel: rows x longest² = tokens x longest."""
    if not settings.eager:
        return 0.0
    k = settings.checkpointed
    layers = shape.layers - k + (1 if k else 0)
    return 8.0 * shape.heads * settings.tokens * settings.longest * layers


def _head(shape: ModelShape, settings: MemorySettings) -> float:
    chunk = 10.0 * min(chunk_rows(max(1, shape.vocabulary)), settings.tokens) * shape.vocabulary
    return chunk if settings.rank else chunk + 4.0 * shape.vocabulary * shape.hidden


def _dequantised(shape: ModelShape, settings: MemorySettings) -> float:
    if settings.quantization not in ("NF4", "FP4"):
        return 0.0
    return 2.0 * max(into * out for into, out in shape.matrices)
