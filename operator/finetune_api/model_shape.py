"""The shape of a model as its config.json tells it: what memory, speed and batching depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

HIDDEN = ("hidden_size", "n_embd", "d_model", "dim")
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv")
FEED_FORWARD = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
ACTIVE_EXPERTS = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k")

WITHOUT_GATE = frozenset(
    ("gpt2", "gpt_neox", "gptj", "gpt_neo", "gpt_bigcode", "opt", "bloom", "phi", "falcon", "mpt")
) | {"starcoder2", "nemotron"}
LINEAR_POSITIONS = frozenset(("bloom", "mpt"))
SINKS = frozenset(("gpt_oss",))
_OWN_ATTENTION = """
bailing_hybrid bamba bart big_bird bigbird_pegasus biogpt blenderbot blenderbot-small bloom blt
codegen cpmant falcon falcon_h1 falcon_mamba git gpt_neo gpt_neox_japanese gptj inkling2_text
inkling_text jamba kimi_linear mamba mamba2 marian mbart megatron-bert mpt musicgen
musicgen_melody mvp nemotron_h olmo_hybrid openai-gpt pegasus plbart prophetnet qwen3_5
qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen3_next qwen4_exp qwen4_exp_text reformer rembert
roformer rwkv stablelm trocr whisper xglm xlm xlnet xlstm zamba zamba2
"""
OWN_ATTENTION = frozenset(_OWN_ATTENTION.split())
"""Families that do not take attention from outside (`_supports_attention_backend` in transformers
5.23): recurrent and hybrid ones, and old ones with attention of their own."""
STATE = (
    "state_size",
    "mamba_d_state",
    "ssm_state_size",
    "mamba_d_conv",
    "conv_kernel",
    "linear_num_key_heads",
    "conv_L_cache",
    "rescale_every",
    "lru_width",
)
"""Settings that only models with state along the row have: Mamba, linear attention, RWKV, LFM2."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes of one decoder; widths in elements."""

    layers: int
    hidden: int
    heads: int
    query_width: int
    """query_width is query heads x head size."""
    key_value_width: int
    """key_value_width is key-value heads x head size."""
    feed_forward: int
    """feed_forward of one expert, or of the layer."""
    vocabulary: int
    gated: bool = True
    tied: bool = False
    experts: int = 1
    active_experts: int = 1
    balanced_experts: int = 0
    """balanced_experts of a layer whose router has a balancing loss, 0 where none is asked for."""
    known_parameters: int | None = None
    """known_parameters is the number in the model's files, where they lie here."""
    unpackable: str = ""
    """unpackable says what keeps samples from sharing a row; empty = nothing known."""

    @property
    def head_size(self) -> int:
        """Elements of one attention head."""
        return self.query_width // self.heads

    @property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """Input and output width of the linear layers of one block."""
        out = ((self.hidden, self.feed_forward),) * (2 if self.gated else 1)
        return (
            (self.hidden, self.query_width),
            (self.hidden, self.key_value_width),
            (self.hidden, self.key_value_width),
            (self.query_width, self.hidden),
            *((*out, (self.feed_forward, self.hidden)) * self.experts),
        )

    @property
    def embedding_parameters(self) -> int:
        """Weights of the embedding and of a head of its own."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def linear_parameters(self) -> int:
        """Weights of everything else."""
        if self.known_parameters:
            return max(0, self.known_parameters - self.embedding_parameters)
        return self.layers * sum(into * out for into, out in self.matrices)

    def adapter_parameters(self, rank: int) -> int:
        """Weights of low-rank adapters on all linear layers."""
        return self.layers * sum(rank * (into + out) for into, out in self.matrices)


def model_shape(config: Mapping[str, Any], parameters: int | None = None) -> ModelShape | None:
    """Return the shape that a config.json tells, or None where width or depth are not named."""
    text = config.get("text_config") or config
    hidden, layers = _first(text, HIDDEN), _first(text, LAYERS)
    if not hidden or not layers:
        return None
    heads = _first(text, HEADS) or 1
    size = text.get("head_dim") or hidden // heads
    shared = 1 if text.get("multi_query") else _first(text, KEY_VALUE_HEADS) or heads
    experts = _first(text, EXPERTS) or 1
    own = _first(text, FEED_FORWARD) or 4 * hidden
    return ModelShape(
        layers=layers,
        hidden=hidden,
        heads=heads,
        query_width=heads * size,
        key_value_width=shared * size,
        feed_forward=(text.get("moe_intermediate_size") or own) if experts > 1 else own,
        vocabulary=int(text.get("vocab_size") or 0),
        gated=text.get("model_type") not in WITHOUT_GATE,
        tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", True))),
        experts=experts,
        active_experts=(_first(text, ACTIVE_EXPERTS) or 1) if experts > 1 else 1,
        balanced_experts=experts if text.get("output_router_logits") else 0,
        known_parameters=parameters,
        unpackable=_unpackable(text),
    )


def _unpackable(text: Mapping[str, Any]) -> str:
    kind = str(text.get("model_type", ""))
    if text.get("attn_logit_softcapping"):
        return "its attention caps scores"
    if kind in SINKS:
        return "its attention has sinks"
    if kind in LINEAR_POSITIONS or text.get("alibi"):
        return "its attention is biased by distance"
    kinds = {str(one) for one in text.get("layer_types") or ()}
    if any(name in text for name in STATE) or kinds - {"full_attention", "sliding_attention"}:
        return "its layers carry state along the row"
    if kind in OWN_ATTENTION:
        return "its layers do not take attention from outside"
    return ""


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return next((int(config[one]) for one in names if isinstance(config.get(one), int)), None)
