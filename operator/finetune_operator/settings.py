"""The operator's settings: one JSON file, overridden by environment variables.

A field `leaseName` is read from the file's `leaseName` and from FINETUNE_OPERATOR_LEASE_NAME;
lists and blocks are JSON in the environment. The chart's values schema comes from this model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from finetune_api.network_profile import NetworkProfile
from finetune_api.storage import Location
from finetune_operator.errors import SettingsError

PREFIX = "FINETUNE_OPERATOR_"
FILE_VARIABLE = f"{PREFIX}CONFIG"


class Settings(BaseModel):
    """Everything an administrator settles for the operator."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True,
        use_attribute_docstrings=True,
    )  # fmt: skip

    namespaces: tuple[str, ...] = ()
    """namespaces that are watched; empty = the whole cluster."""
    trainer_image: str = Field(min_length=1)
    """trainerImage runs in all job pods."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """imagePullPolicy of the trainer image."""
    default_storage: Location | None = None
    """defaultStorage is used by objects that name no storage of their own."""
    models_allowed: tuple[str, ...] = ()
    """modelsAllowed are shell patterns of base models; empty = every model."""
    addresses_allowed: tuple[str, ...] = ()
    """addressesAllowed are host patterns for downloads of data; empty = every public host."""
    hub_endpoint: str | None = None
    """hubEndpoint is the hub of objects that name none; absent = the public one."""
    job_sets: bool = False
    """jobSets lets experiments choose scheduling.engine JobSet; its controller is installed."""
    volcano: bool = False
    """volcano lets experiments choose scheduling.gang Volcano; its scheduler is installed."""
    network_profiles: dict[str, NetworkProfile] = Field(default_factory=dict)
    """networkProfiles by the name that spec.compute.networkProfile gives."""
    monitoring_namespaces: tuple[str, ...] = ("monitoring",)
    """monitoringNamespaces may scrape job pods through their NetworkPolicies."""
    gpu_hour_prices: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """gpuHourPrices by GPU product (node label nvidia.com/gpu.product) or resource name;
    `*` = all others."""
    currency: Annotated[str, Field(pattern="^([A-Z]{3})?$")] = ""
    """currency of gpuHourPrices, for display."""
    node_lost_seconds: int = Field(default=300, ge=30, le=3600)
    """nodeLostSeconds after which a pod whose deletion is overdue no longer blocks a restart."""
    progress_interval_seconds: float = Field(default=10.0, ge=1.0, le=300.0)
    """progressIntervalSeconds between two questions to an active run."""
    workers: int = Field(default=16, ge=1, le=64)
    """workers that make steps at the same time."""
    writes_per_second: float = Field(default=200.0, gt=0, le=1000)
    """writesPerSecond of the whole process to the API server."""
    reads_per_second: float = Field(default=300.0, gt=0, le=1000)
    """readsPerSecond of single objects, lists left out."""
    lease_name: str = Field(default="finetune-operator", min_length=1, max_length=63)
    """leaseName is the Lease that the one active operator holds."""
    lease_namespace: str = Field(default="default", min_length=1, max_length=63)
    """leaseNamespace is the operator's own namespace."""
    identity: str = Field(default="", max_length=128)
    """identity in the Lease, the pod's name: a process takes over at once from an earlier one of
    the same identity, so no two may run; empty = the host name. A random suffix is added."""
    health_address: str = ""
    """healthAddress to listen on; empty = all."""
    health_port: int = Field(default=8080, ge=1, le=65535)
    """healthPort serves /livez, /readyz and /metrics."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """logLevel of the operator's own messages."""
    use_proxies: bool = False
    """useProxies makes API calls honour the proxy environment variables."""


def load_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the file and the environment; raises SettingsError that names every wrong field."""
    try:
        return Settings.model_validate({**_from_file(environment), **_from_variables(environment)})
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise SettingsError("; ".join(problems)) from error


def _from_file(environment: Mapping[str, str]) -> dict[str, Any]:
    path = environment.get(FILE_VARIABLE)
    if not path:
        return {}
    try:
        found = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(found, dict):
        raise SettingsError(f"{path}: a JSON object is expected")
    return found


def _from_variables(environment: Mapping[str, str]) -> dict[str, Any]:
    """Read FINETUNE_OPERATOR_*: as JSON where the field is a list or block, else as it stands."""
    found: dict[str, Any] = {}
    for name in Settings.model_fields:
        variable = PREFIX + name.upper()
        if (text := environment.get(variable)) is None:
            continue
        try:
            found[to_camel(name)] = json.loads(text) if text[:1] in ("[", "{") else text
        except ValueError as error:
            raise SettingsError(f"{variable}: not JSON ({error})") from error
    return found
