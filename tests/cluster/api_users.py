"""Requests to a real API server as users of different rights."""

from __future__ import annotations

import json
import ssl
import subprocess
from pathlib import Path
from typing import Any

import httpx
from harness.bare_api import ADMIN, BareApi
from harness.binaries import program

from finetune_api.names import PLURALS

CHART = Path(__file__).parents[2] / "helm" / "finetune-operator"
SYSTEM, TEAM = "finetune-system", "team"
OPERATOR = f"system:serviceaccount:{SYSTEM}:ft-finetune-operator"
ROLES = {"alice": "edit", "vera": "view", "bob": "writer"}
"""Users of the namespace `team`: bob may write our kinds, and read only what is called `open`."""
WRITER = """
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: writer}
rules:
  - apiGroups: [finetune.dev]
    resources: [datasets, finetuneexperiments, modelexports]
    verbs: [create, update, patch]
  - apiGroups: ["", finetune.dev]
    resources: [secrets, configmaps, persistentvolumeclaims, datasets, finetuneexperiments]
    resourceNames: [open]
    verbs: [get]
"""


class Users:
    """Requests to one API server as one of its users, or as whom its administrator plays."""

    def __init__(self, api: BareApi) -> None:
        self._api = api
        trusted = ssl.create_default_context(cafile=str(api.authority))
        self._client = httpx.Client(verify=trusted, timeout=30, trust_env=False)

    def ask(
        self, user: str, method: str, path: str, body: Any = None, media: str = "json", **query: str
    ) -> httpx.Response:
        """Make one request; `media` is the body's type below application/."""
        token, played = self._api.token(user), {}
        if user not in ROLES and user != ADMIN:
            token, played = self._api.token(), {"Impersonate-User": user}
        headers = {"Authorization": f"Bearer {token}", "Content-Type": f"application/{media}"}
        content = None if body is None else json.dumps(body)
        url = self._api.address + path
        return self._client.request(
            method, url, content=content, headers=headers | played, params=query
        )

    def create(
        self, user: str, manifest: dict[str, Any], *, namespace: str = TEAM, **query: str
    ) -> httpx.Response:
        """Create an object."""
        return self.ask(user, "POST", path_of(manifest, namespace, name=""), manifest, **query)

    def try_out(
        self, user: str, manifest: dict[str, Any], *, namespace: str = TEAM
    ) -> httpx.Response:
        """Create an object as a dry run."""
        return self.create(user, manifest, namespace=namespace, dryRun="All")

    def patch(self, user: str, manifest: dict[str, Any], change: Any) -> httpx.Response:
        """Merge a change into an object of the team."""
        return self.ask(user, "PATCH", path_of(manifest), change, "merge-patch+json")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def path_of(manifest: dict[str, Any], namespace: str = TEAM, *, name: str | None = None) -> str:
    """Return the path of an object, or with name '' that of its siblings."""
    version, kind = manifest["apiVersion"], manifest["kind"]
    plurals = PLURALS | {"NetworkPolicy": "networkpolicies"}
    root = "/apis" if "/" in version else "/api"
    own = manifest["metadata"].get("name", "") if name is None else name
    siblings = f"{root}/{version}/namespaces/{namespace}/{plurals.get(kind, f'{kind.lower()}s')}"
    return siblings + (f"/{own}" if own else "")


def rendered_chart(*settings: str, release: str = "ft") -> str:
    """Render the chart."""
    words = [program("helm"), "template", release, str(CHART), "-n", SYSTEM]
    command = [*words, "--set", "dashboards.enabled=false", *settings]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
