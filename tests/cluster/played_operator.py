"""The operator as a process under its chart's account; pods are played by the administrator."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from api_users import SYSTEM, Users, path_of
from harness.bare_api import BareApi

from finetune_api.names import CONTAINER
from finetune_api.run_outcome import EXIT_CODES, Outcome
from operator_process import operator_process


@asynccontextmanager
async def played_operator(
    api: BareApi, folder: Path, monkeypatch: Any, *, release: str = "ft", **settings: str
) -> AsyncIterator[Any]:
    """Run the operator with exactly the rights that a release of the chart grants."""
    account = ("create", "token", f"{release}-finetune-operator", f"--namespace={SYSTEM}")
    token = (await asyncio.to_thread(api.kubectl, *account)).strip()
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig("operator", token=token)))
    lease = f"test-{secrets.token_hex(4)}"
    own = {"lease_namespace": SYSTEM, "lease_name": lease, "log_level": "debug"}
    async with operator_process(folder, **own, **settings) as operator:
        await operator.working()
        operator.token = token
        yield operator


async def until_so(question: Callable[[], Any], seconds: float = 60) -> None:
    """Wait until the answer is yes, without blocking; TimeoutError otherwise."""
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(question):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.2)


class Play:
    """What the administrator sees and does in the team's namespace."""

    def __init__(self, users: Users) -> None:
        self.users = users

    def found(self, version: str, kind: str, name: str) -> dict[str, Any] | None:
        """Return an object, or None."""
        manifest = {"apiVersion": version, "kind": kind, "metadata": {"name": name}}
        answer = self.users.ask("admin", "GET", path_of(manifest))
        return answer.json() if answer.status_code == 200 else None

    def listed(self, version: str, kind: str, labels: str = "") -> list[dict[str, Any]]:
        """Return the objects of a kind."""
        path = path_of({"apiVersion": version, "kind": kind, "metadata": {}})
        items = self.users.ask("admin", "GET", path, labelSelector=labels).json()["items"]
        return [{"apiVersion": version, "kind": kind, **item} for item in items]

    def made(self, manifest: dict[str, Any], user: str = "admin") -> dict[str, Any]:
        """Create an object."""
        answer = self.users.create(user, manifest)
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def removed(self, manifest: dict[str, Any]) -> None:
        """Delete an object at once."""
        self.users.ask("admin", "DELETE", path_of(manifest), gracePeriodSeconds="0")

    def ended(self, pod: dict[str, Any], outcome: Outcome) -> None:
        """Play the end of a pod, as its kubelet would tell it."""
        code = EXIT_CODES[outcome.failure_class]
        word = {"exitCode": code, "message": outcome.encoded().decode(), "reason": "Completed"}
        container = {
            "name": CONTAINER, "ready": False, "restartCount": 0, "image": "x", "imageID": "",
            "state": {"terminated": word},
        }  # fmt: skip
        status = {"phase": "Failed" if code else "Succeeded", "containerStatuses": [container]}
        where = path_of(pod) + "/status"
        merge = "strategic-merge-patch+json"
        answer = self.users.ask("admin", "PATCH", where, {"status": status}, merge)
        assert answer.status_code == 200, answer.text

    def condition(self, manifest: dict[str, Any], name: str = "Ready") -> dict[str, Any]:
        """Return a condition of an object of ours, {} before it is told."""
        live = self.found(manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"])
        conditions = ((live or {}).get("status") or {}).get("conditions") or ()
        return next((c for c in conditions if c["type"] == name), {})
