"""Which parameters a spec means by `backbone`, `embeddings`, `head` or a part of a name."""

from __future__ import annotations

from typing import Any

from torch import nn

from finetune_trainer.errors import ConfigurationError

BACKBONE, EMBEDDINGS, HEAD = "backbone", "embeddings", "head"


class ParameterMatch:
    """Knows where a causal model's embeddings and head lie; adapters on them belong to them."""

    def __init__(self, model: nn.Module) -> None:
        causal: Any = model
        causal = causal.get_base_model() if hasattr(causal, "peft_config") else causal
        places = {EMBEDDINGS: causal.get_input_embeddings(), HEAD: causal.get_output_embeddings()}
        named = {id(module): f"{name}." for name, module in model.named_modules()}
        self._prefixes = {kind: named[id(one)] for kind, one in places.items() if one is not None}

    def kind(self, name: str) -> str:
        """Return `embeddings`, `head` or, for everything else, `backbone`."""
        kinds = (kind for kind, prefix in self._prefixes.items() if name.startswith(prefix))
        return next(kinds, BACKBONE)

    def matches(self, pattern: str, name: str) -> bool:
        """Tell whether a keyword or a part of the name means the parameter `name`."""
        if pattern in (BACKBONE, EMBEDDINGS, HEAD):
            return self.kind(name) == pattern
        return pattern in name


def refuse_unmatched(field: str, pattern: str) -> ConfigurationError:
    """Return the error for a pattern that no parameter of the model answers to."""
    return ConfigurationError(
        f"spec.training.{field}: {pattern!r} matches no trained parameter that an earlier entry "
        "leaves over; correct it, or use backbone, embeddings, head or a part of a name",
        reason="NoMatchingParameters",
    )
