"""What every API type is built from: the model class, CEL rules, references and conditions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel


@dataclass(frozen=True)
class Rule:
    """One CEL rule of a schema node and the sentence its violation is answered with."""

    cel: str
    message: str


class ApiModel(BaseModel):
    """Base of all API types: strict as the API server is, frozen, camelCase in JSON.

    Unknown fields are ignored, because an object stored by a newer release must stay readable;
    the API server and local admission refuse them before an object is stored.
    """

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="ignore",
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
        ser_json_inf_nan="null",
    )

    rules: ClassVar[tuple[Rule, ...]] = ()


class ConfigModel(ApiModel):
    """An `ApiModel` that both ends of one release write and read: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


def cel_rule(cel: str, message: str) -> dict[str, list[dict[str, str]]]:
    """Return the schema extension that attaches a CEL rule to a plain string type."""
    return {"x-kubernetes-validations": [{"rule": cel, "message": message}]}


DnsName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"),
]
RelativePath = Annotated[
    str,
    StringConstraints(max_length=1024),
    Field(
        json_schema_extra=cel_rule(
            "!self.startsWith('/') && !self.matches('(^|/)[.][.](/|$)')",
            "paths are relative and stay inside the volume or bucket",
        )
    ),
]
Url = Annotated[
    str,
    StringConstraints(max_length=2048),
    Field(
        json_schema_extra=cel_rule(
            "self.matches('^https?://[^/@?#]+([/?#].*)?$')",
            "addresses begin with http:// or https:// and carry no user name or password",
        )
    ),
]
Repository = Annotated[
    str,
    StringConstraints(
        min_length=1,
        max_length=200,
        pattern=r"^[A-Za-z0-9][-A-Za-z0-9_.]*(/[A-Za-z0-9][-A-Za-z0-9_.]*)?$",
    ),
]
Digest = Annotated[str, StringConstraints(max_length=71, pattern=r"^sha256:[0-9a-f]{64}$")]
Column = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Text = Annotated[str, StringConstraints(max_length=16384)]
Quantity = Annotated[
    str,
    StringConstraints(
        min_length=1, max_length=32, pattern=r"^[0-9]+([.][0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi)?$"
    ),
]
Name = Annotated[str, StringConstraints(min_length=1, max_length=63)]


class SecretRef(ApiModel):
    """A Secret of the same namespace."""

    name: DnsName
    """name is the Secret's name."""

    key: str | None = Field(default=None, min_length=1, max_length=253)
    """key is used instead of the standard keys of its purpose."""


class ConfigMapRef(ApiModel):
    """A key of a ConfigMap of the same namespace."""

    name: DnsName
    """name is the ConfigMap's name."""

    key: str = Field(min_length=1, max_length=253)
    """key inside it."""


ConditionStatus = Literal["True", "False", "Unknown"]


class Condition(ApiModel):
    """One judgement over the object, as in the Kubernetes API conventions."""

    type: str = Field(max_length=63)
    """type names what is judged."""
    status: ConditionStatus
    """status is True, False or Unknown."""
    reason: str = Field(max_length=63)
    """reason is one word for programs and columns."""
    message: str = Field(default="", max_length=1024)
    """message is a sentence for people."""
    observed_generation: int = 0
    """observedGeneration is the generation that was judged."""
    last_transition_time: datetime | None = None
    """lastTransitionTime is when status last changed."""


class ObjectMeta(ApiModel):
    """The part of metadata that decisions need."""

    name: str
    namespace: str
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
