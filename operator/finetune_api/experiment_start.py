"""The pinned origin of a run's first weights: a base model and checkpoints put onto it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finetune_api.meta import ApiModel
from finetune_api.model_settings import AdapterHandover, Model
from finetune_api.storage import Location


class Ancestor(ApiModel):
    """A checkpoint of another experiment whose weights a run starts from."""

    experiment: str = Field(max_length=253)
    """experiment is its name."""
    uid: str = Field(max_length=63)
    """uid of that experiment."""
    step: int
    """step the checkpoint holds."""
    uri: str = Field(max_length=256)
    """uri of the checkpoint."""
    digest: str = Field(max_length=71)
    """digest of its manifest."""
    kind: Literal["Adapter", "Model"]
    """kind of its weights."""
    handover: AdapterHandover
    """handover of an adapter."""
    location: Location
    """location it is read from."""


class Start(ApiModel):
    """Where the first weights come from: a base model, then checkpoints, the eldest first."""

    base: Model
    """base is the model below all checkpoints."""
    ancestors: list[Ancestor] = Field(default_factory=list, max_length=8)
    """ancestors are the checkpoints put onto it."""
