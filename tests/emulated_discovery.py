"""What the emulated API server says it serves, as `kubectl api-resources` would read it."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from finetune_operator.cluster.cluster_protocol import Resource
from finetune_operator.cluster.resources import (
    CONFIG_MAPS,
    EVENTS,
    JOBS,
    LEASES,
    NETWORK_POLICIES,
    OURS,
    PODS,
    SERVICES,
)

DISCOVERED_ONLY = (  # kopf waits until it has heard of them, and then asks for neither
    Resource("", "v1", "namespaces", "Namespace"),
    Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition"),
)
RESOURCES = (
    *OURS.values(), JOBS, PODS, SERVICES, CONFIG_MAPS, NETWORK_POLICIES, EVENTS, LEASES,
    *DISCOVERED_ONLY,
)  # fmt: skip
VERBS = ["get", "list", "watch", "create", "patch", "delete"]


def add_discovery(app: web.Application) -> None:
    """Add the discovery documents."""
    app.router.add_get("/version", _answering({"major": "1", "minor": "36"}))
    app.router.add_get("/api", _answering({"kind": "APIVersions", "versions": ["v1"]}))
    app.router.add_get("/apis", _answering({"kind": "APIGroupList", "groups": _groups()}))
    for group, version in {(r.group, r.version) for r in RESOURCES}:
        path = f"/apis/{group}/{version}" if group else f"/api/{version}"
        body = {"kind": "APIResourceList", "resources": _served(group, version)}
        app.router.add_get(path, _answering(body))


def _groups() -> list[dict[str, Any]]:
    found = []
    for group, version in {r.group: r.version for r in RESOURCES if r.group}.items():
        entry = {"groupVersion": f"{group}/{version}", "version": version}
        found.append({"name": group, "versions": [entry], "preferredVersion": entry})
    return found


def _served(group: str, version: str) -> list[dict[str, Any]]:
    return [
        {
            "name": r.plural,
            "kind": r.kind,
            "singularName": r.kind.lower(),
            "namespaced": True,
            "verbs": VERBS,
        }
        for r in RESOURCES
        if (r.group, r.version) == (group, version)
    ]


def _answering(body: dict[str, Any]) -> Any:
    async def answer(_request: web.Request) -> web.Response:
        return web.json_response(body)

    return answer
