"""The values of the Helm chart: their schema is generated from here, unknown ones are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from finetune_api.storage import Location
from finetune_cli.admission_values import Admission
from finetune_cli.chart_block import ChartBlock
from finetune_operator.settings import Settings

Texts = dict[str, str]
Blocks = list[dict[str, Any]]
PullPolicy = Literal["Always", "IfNotPresent", "Never"]
SET_BY_THE_CHART = frozenset(
    {
        "namespaces",
        "trainerImage",
        "imagePullPolicy",
        "leaseName",
        "leaseNamespace",
        "identity",
        "healthAddress",
        "healthPort",
    }
)
"""Settings that follow from other values, or from where the release is installed."""


class Image(ChartBlock):
    """A container image."""

    repository: str = Field(min_length=1)
    """repository with or without a registry."""
    tag: str = ""
    """tag; empty = the chart's appVersion."""
    digest: Annotated[str, StringConstraints(pattern=r"^(sha256:[0-9a-f]{64})?$")] = ""
    """digest wins over the tag."""
    pull_policy: PullPolicy = "IfNotPresent"
    """pullPolicy of the image."""


class Trainer(ChartBlock):
    """What job pods run."""

    image: Image
    """image of all job pods, unless an object names its own."""


class CustomResourceDefinitions(ChartBlock):
    """What happens to the CRDs."""

    install: bool = True
    """install and upgrade them with the release."""
    keep: bool = True
    """keep them when the release is uninstalled."""


class Rbac(ChartBlock):
    """Roles of operator and users."""

    create: bool = True
    """create the operator's roles and bindings."""
    aggregate: bool = True
    """aggregate the kinds to the cluster's own roles view, edit and admin."""


class ServiceAccount(ChartBlock):
    """The operator's account."""

    create: bool = True
    """create the account."""
    name: str = ""
    """name; empty = the release's."""
    annotations: Texts = Field(default_factory=dict)
    """annotations of the account."""


class Monitor(ChartBlock):
    """A monitor of the Prometheus operator."""

    enabled: bool = False
    """enabled renders it where the CRDs of the Prometheus operator exist."""
    interval: str = Field(default="30s", pattern=r"^[0-9]+(ms|s|m|h)$")
    """interval between scrapes."""
    labels: Texts = Field(default_factory=dict)
    """labels by which a Prometheus selects it."""


class Alerts(ChartBlock):
    """The rules of alerts."""

    enabled: bool = False
    """enabled renders them where the CRDs of the Prometheus operator exist."""
    labels: Texts = Field(default_factory=dict)
    """labels by which a Prometheus selects them."""
    runbook: str = "docs/runbook.md"
    """runbook is the address under which docs/runbook.md is read."""


class Metrics(ChartBlock):
    """How Prometheus finds operator and job pods."""

    service_monitor: Monitor
    """serviceMonitor is for the operator."""
    pod_monitor: Monitor
    """podMonitor is for job pods."""
    alerts: Alerts
    """alerts are rules with links into the runbook."""


class Dashboards(ChartBlock):
    """Grafana dashboards as ConfigMaps."""

    enabled: bool = True
    """enabled renders them."""
    labels: Texts = Field(default_factory=dict)
    """labels that the dashboard sidecar looks for."""
    annotations: Texts = Field(default_factory=dict)
    """annotations, for example of the folder."""


class Prune(ChartBlock):
    """A CronJob that looks for what deleted objects left in storage."""

    enabled: bool = False
    """enabled renders the CronJob, its account and its right to list objects of all namespaces."""
    schedule: str = Field(default="0 3 * * *", min_length=1)
    """schedule in the form of cron."""
    delete: bool = False
    """delete removes what is found; false only tells of it in the log."""
    stale_hours: int = Field(default=24, ge=1)
    """staleHours is the least age of uploads and checkpoints that nobody finished."""
    storage: Location = Location()
    """storage to look at; its claim or Secret is in the release's namespace."""
    service_account_annotations: Texts = Field(default_factory=dict)
    """serviceAccountAnnotations, for example of a cloud identity that may read the bucket."""
    resources: dict[str, Any]
    """resources of its container."""


class ChartValues(ChartBlock):
    """Values of the chart finetune-operator."""

    global_: dict[str, Any] = Field(default_factory=dict, alias="global")
    """global values of a parent chart; not used."""
    scope: Literal["Cluster", "Namespaced"]
    """scope: Cluster watches every namespace, Namespaced those of watchNamespaces."""
    watch_namespaces: list[str] = Field(default_factory=list)
    """watchNamespaces with scope Namespaced; empty = the release's own."""
    image: Image
    """image of the operator."""
    image_pull_secrets: list[str] = Field(default_factory=list)
    """imagePullSecrets are names of Secrets for the operator image."""
    trainer: Trainer
    """trainer is what job pods run."""
    settings: Settings
    """settings of the operator."""
    crds: CustomResourceDefinitions
    """crds are the CustomResourceDefinitions."""
    rbac: Rbac
    """rbac is who may do what."""
    admission: Admission
    """admission are policies of the API server about objects of ours."""
    service_account: ServiceAccount
    """serviceAccount of the operator."""
    resources: dict[str, Any]
    """resources of the operator's container."""
    pod_annotations: Texts = Field(default_factory=dict)
    """podAnnotations of the operator."""
    pod_labels: Texts = Field(default_factory=dict)
    """podLabels of the operator."""
    node_selector: Texts = Field(default_factory=dict)
    """nodeSelector of the operator."""
    tolerations: Blocks = Field(default_factory=list)
    """tolerations of the operator."""
    affinity: dict[str, Any] = Field(default_factory=dict)
    """affinity of the operator."""
    topology_spread_constraints: Blocks = Field(default_factory=list)
    """topologySpreadConstraints of the operator."""
    priority_class_name: str = ""
    """priorityClassName of the operator."""
    extra_env: Blocks = Field(default_factory=list)
    """extraEnv of the operator's container."""
    extra_volumes: Blocks = Field(default_factory=list)
    """extraVolumes of the operator."""
    extra_volume_mounts: Blocks = Field(default_factory=list)
    """extraVolumeMounts of the operator's container."""
    metrics: Metrics
    """metrics is how Prometheus finds us."""
    dashboards: Dashboards
    """dashboards for Grafana."""
    prune: Prune
    """prune is a CronJob that removes from storage what nobody needs."""


def values_schema() -> dict[str, Any]:
    """Return the JSON schema of the values; what the chart itself sets is not accepted."""
    schema = ChartValues.model_json_schema()
    settings = schema["$defs"]["Settings"]
    settings["properties"] = {
        name: value
        for name, value in settings["properties"].items()
        if name not in SET_BY_THE_CHART
    }
    settings.pop("required", None)
    strict: dict[str, Any] = _strict(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **strict}


def _strict(node: Any) -> Any:
    """Return a schema without foreign keywords, whose objects refuse unknown properties."""
    if isinstance(node, list):
        return [_strict(one) for one in node]
    if not isinstance(node, dict):
        return node
    kept = {
        key: _strict(value)
        for key, value in node.items()
        if not key.startswith("x-kubernetes-") and not (key == "title" and isinstance(value, str))
    }
    if isinstance(kept.get("properties"), dict) and kept.get("type") == "object":
        kept["additionalProperties"] = False
    return kept
