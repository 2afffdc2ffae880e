"""What all plans share: an API server with the Job controller, the operator's rights, watches."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from harness.bare_api import BareApi, bare_api
from harness.binaries import program
from harness.fault_proxy import upstream_session

from faults.admin_api import AdminApi, Json, RefusedByServerError
from faults.namespace_view import SEEN_KINDS, NamespaceView
from faults.operator_forks import OperatorForks, operator_forks
from faults.played_kubelet import PlayedKubelet

ROOT = Path(__file__).parents[2]
OPERATORS, RELEASE, PLACE = "operators", "finetune-operator", "place-of-a-plan"
EVERYWHERE = "finetune-operator-everywhere"
CANARY = "canary-9f31c07be2"
CONTROLLERS = "job-controller,garbage-collector-controller,namespace-controller"
CONTROLLER_WORDS = (
    f"--controllers={CONTROLLERS}", "--kube-api-qps=400", "--kube-api-burst=800",
    "--concurrent-job-syncs=20", "--concurrent-namespace-syncs=20",
)  # fmt: skip


@dataclass
class Ground:
    """One API server for many plans."""

    api: BareApi
    admin: AdminApi
    session: Any
    forks: OperatorForks
    kubelet: PlayedKubelet
    folder: Path
    tokens: dict[bool, str]
    """tokens of the operator's account: rights in its namespaces only (False), everywhere."""
    views: dict[str, NamespaceView]
    roles: list[Json]
    watched: set[str] = field(default_factory=set)

    async def namespace(self, name: str, *, everywhere: bool) -> NamespaceView:
        """Create a namespace in which the operator has its rights."""
        view = self.views[name] = NamespaceView(name)
        await self.admin.ask("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        for role in () if everywhere else self.roles:
            await self.admin.create(_placed(role, name), name)
        secret = {"token": base64.b64encode(CANARY.encode()).decode()}
        named = {"name": "hub"}
        await self.admin.create(
            {"apiVersion": "v1", "kind": "Secret", "metadata": named, "data": secret}, name
        )
        return view

    async def watch(self, kind: str) -> None:
        """Bring what happens to a kind to the views and the kubelet, until cancelled."""
        while True:
            with suppress(RefusedByServerError, aiohttp.ClientError):
                async for event in self.admin.changes(kind):
                    self._told(kind, event)
            await asyncio.sleep(0.2)

    def _told(self, kind: str, event: Json) -> None:
        if event["type"] == "LISTED":
            self.watched.add(kind)
            return
        if kind == "Pod":
            self.kubelet.seen(event)
        view = self.views.get(event["object"]["metadata"]["namespace"])
        if view is not None:
            view.seen(event)


@asynccontextmanager
async def fault_ground() -> AsyncIterator[Ground]:
    """Start everything in a folder of its own; end all of it."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="finetune-faults-")))
        api = await asyncio.to_thread(
            stack.enter_context,
            bare_api(folder / "api", controllers=True, controller_words=CONTROLLER_WORDS),
        )
        tokens, roles = await asyncio.to_thread(_install, api)
        await asyncio.to_thread(_restart, api)
        session = await stack.enter_async_context(upstream_session(str(api.authority)))
        admin = AdminApi(api.address, api.token(), session)
        kubelet = PlayedKubelet(admin)
        await kubelet.serve()
        stack.push_async_callback(kubelet.close)
        forks = await stack.enter_async_context(operator_forks())
        ground = Ground(api, admin, session, forks, kubelet, folder, tokens, {}, roles)
        watches = [asyncio.create_task(ground.watch(kind)) for kind in SEEN_KINDS]
        while ground.watched < set(SEEN_KINDS):  # noqa: ASYNC110 - other processes start
            await asyncio.sleep(0.1)
        try:
            yield ground
        finally:
            for watch in watches:
                watch.cancel()


def _install(api: BareApi) -> tuple[dict[bool, str], list[Json]]:
    """Install CRDs, the operator's account and its roles; return its tokens and the roles."""
    for _ in range(20):
        try:
            api.kubectl("create", "namespace", OPERATORS)
            break
        except subprocess.CalledProcessError:
            continue
    api.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
    roles = _rendered("scope=Namespaced", f"watchNamespaces={{{PLACE}}}")
    here = [part for part in roles if part["metadata"].get("namespace") != PLACE]
    api.kubectl("apply", "-f", "-", text=yaml.safe_dump_all(here))
    cluster = _rendered("scope=Cluster", f"serviceAccount.name={EVERYWHERE}")
    wider = [part for part in cluster if part["metadata"].get("namespace") is None]
    lease = [part for part in cluster if part["kind"] in ("ServiceAccount", "RoleBinding")]
    for part in lease:
        part["metadata"]["name"] += "-everywhere" if part["kind"] == "RoleBinding" else ""
    api.kubectl("apply", "-f", "-", text=yaml.safe_dump_all([*wider, *lease]))
    api.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    words = ("create", "token", "--duration=24h", f"--namespace={OPERATORS}")
    tokens = {
        False: api.kubectl(*words, RELEASE).strip(),
        True: api.kubectl(*words, EVERYWHERE).strip(),
    }
    return tokens, [part for part in roles if part["metadata"].get("namespace") == PLACE]


def _restart(api: BareApi) -> None:
    """Start the API server anew: watches of a CRD just installed were seen to stay silent."""
    api.stop_server()
    api.start_server()


def _rendered(*values: str) -> list[Json]:
    """Render the part of the chart that says who may do what."""
    command = [
        str(program("helm")), "template", RELEASE, str(ROOT / "helm" / RELEASE),
        f"--namespace={OPERATORS}", "--show-only=templates/rbac.yaml",
        "--show-only=templates/serviceaccount.yaml",
        *(word for value in values for word in ("--set", value)),
    ]  # fmt: skip
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [part for part in yaml.load_all(text, yaml.CSafeLoader) if part]


def _placed(role: Json, namespace: str) -> Json:
    """Return a role or binding for another namespace."""
    return role | {"metadata": role["metadata"] | {"namespace": namespace}}
