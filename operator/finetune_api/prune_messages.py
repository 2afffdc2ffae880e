"""What the command line and the trainer's verb `prune` tell each other, on stdin and stdout."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finetune_api.meta import ConfigModel
from finetune_api.storage import DeletionPolicy, Location


class DeletionNote(ConfigModel):
    """Written beside an object's results: what may happen to them once it is deleted."""

    version: Literal[1] = 1
    policy: DeletionPolicy
    kind: str
    namespace: str
    name: str
    uid: str


class MarkedFolder(ConfigModel):
    """The folder of an object that was marked Delete."""

    prefix: str
    uri: str
    uid: str
    files: int


class Leftover(ConfigModel):
    """What a killed writer left, or a pointer to encodings that are gone."""

    name: str
    """name is a file, an open upload, or, with a slash at its end, a folder without manifest."""
    upload: str = ""
    """upload is the identity of an open multipart upload."""


class PruneRequest(ConfigModel):
    """Without folders and leftovers it only looks."""

    location: Location
    stale_seconds: float = Field(gt=0)
    """stale_seconds is the least age of a leftover; a writer may still be at work on younger."""
    folders: list[str] = Field(default_factory=list)
    """folders are prefixes of marked folders to remove."""
    leftovers: list[Leftover] = Field(default_factory=list)
    """leftovers to remove."""


class PruneAnswer(ConfigModel):
    """What was found, or removed."""

    folders: list[MarkedFolder]
    leftovers: list[Leftover]
