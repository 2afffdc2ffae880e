"""The values of the chart's admission policies."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from finetune_cli.chart_block import ChartBlock

Server = Annotated[str, StringConstraints(pattern=r"^https?://[^/@?#]+/$")]
Registry = Annotated[str, StringConstraints(pattern=r"^[^/\s]+(/[^\s]*)?/$")]
Mode = Literal["None", "Ingress", "Restricted"]
Plural = Literal["datasets", "finetuneexperiments", "modelexports"]


class AdmissionPolicy(ChartBlock):
    """A ValidatingAdmissionPolicy and its binding."""

    enabled: bool
    """enabled installs it."""
    namespace_selector: dict[str, Any] = Field(default_factory=dict)
    """namespaceSelector chooses namespaces by their labels; {} = all that are watched."""


class Endpoints(AdmissionPolicy):
    """Where data may go."""

    allowed: list[Server] = Field(default_factory=list)
    """allowed servers, each as scheme, host and port with a slash at the end."""


class Ceilings(AdmissionPolicy):
    """What one object may ask for; what is absent has no ceiling."""

    max_gpus: int | None = Field(default=None, ge=0)
    """maxGpus of one experiment, over all its nodes."""
    max_epochs: float | None = Field(default=None, gt=0)
    """maxEpochs of a run that counts epochs."""
    max_steps: int | None = Field(default=None, ge=1)
    """maxSteps of a run that counts steps."""
    max_length: int | None = Field(default=None, ge=16)
    """maxLength of a sample in tokens; an experiment must then say its own."""
    max_rank: int | None = Field(default=None, ge=1)
    """maxRank of an adapter."""
    budget_required: bool = False
    """budgetRequired asks experiments with GPUs for runPolicy.budget."""


class QueueRequired(AdmissionPolicy):
    """Whose Jobs must queue."""

    resources: list[Plural] = Field(min_length=1)
    """resources that must name a queue."""


class NetworkModes(AdmissionPolicy):
    """How closed pods must be."""

    modes: list[Mode] = Field(min_length=1)
    """modes of networkPolicy that are accepted."""


class PodSettings(AdmissionPolicy):
    """What pods may run."""

    images: list[Registry] = Field(default_factory=list)
    """images begin with one of these, each with a slash at the end; the operator's own is free."""


class Admission(ChartBlock):
    """ValidatingAdmissionPolicies: rules about users, and limits of the administrator."""

    validation_actions: list[Literal["Deny", "Warn", "Audit"]] = Field(min_length=1)
    """validationActions of all of them: Deny refuses; Warn and Audit let pass and tell."""
    references: AdmissionPolicy
    """references asks whether the user may read what an object names, Secrets above all."""
    pod_overrides: AdmissionPolicy
    """podOverrides asks for the right to create pods where an object changes what they run."""
    owners: AdmissionPolicy
    """owners refuses objects that claim to be children of ours, unless the operator makes them."""
    endpoints: Endpoints
    """endpoints limits the addresses in specs."""
    ceilings: Ceilings
    """ceilings limit what one object asks for."""
    queue_required: QueueRequired
    """queueRequired refuses objects without a queue."""
    network_policy: NetworkModes
    """networkPolicy refuses pods that are more open than this."""
    pod_settings: PodSettings
    """podSettings limits the images in specs."""
