"""Raw JSON over the Kubernetes client's connection; the only importer of `kubernetes`.

The client supplies TLS, credentials and token refresh. Its generated classes are never touched:
they cost memory, hide content types and put bodies into exception texts. The table of rights
stands beside the calls it permits; the chart's roles are generated from it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import aiohttp
from kubernetes.aio import client as api_client
from kubernetes.aio import config as api_config

from finetune_api.names import GROUP
from finetune_operator import metrics
from finetune_operator.cluster.answers import Answer, cluster_error
from finetune_operator.errors import ClusterError, CredentialsError, SettingsError, UnavailableError
from finetune_operator.observed import Manifest

CALL_TIMEOUT = aiohttp.ClientTimeout(total=30, connect=5)
WATCH_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=5, sock_read=90)
JSON = "application/json"
APPLY = "application/apply-patch+yaml"
JSON_PATCH = "application/json-patch+json"
METADATA_LIST = f"{JSON};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,{JSON}"
Body = Manifest | list[Manifest]


@dataclass(frozen=True)
class Right:
    """Verbs the operator needs on some resources, and what for."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    why: str
    scope: Literal["watched", "own"] = "watched"
    """watched: every watched namespace, or the cluster; own: the operator's namespace."""
    setting: str = ""
    """setting switches the feature on that needs it; empty = always needed."""


_OUR_PLURALS = ("datasets", "finetuneexperiments", "modelexports")
RIGHTS = (
    Right(GROUP, _OUR_PLURALS, ("get", "list", "watch"), "our kinds"),
    Right(GROUP, tuple(f"{p}/status" for p in _OUR_PLURALS), ("patch",), "report"),
    Right("batch", ("jobs",), ("get", "list", "watch", "create", "delete"), "attempts"),
    Right("", ("pods",), ("list", "watch"), "evidence: why an attempt waits or ended"),
    Right("", ("services",), ("get", "create", "patch"), "rendezvous of ranks"),
    Right("", ("configmaps",), ("get", "create"), "the configuration of a run"),
    Right(
        "networking.k8s.io", ("networkpolicies",), ("get", "create"),
        "who reaches the pods of an attempt",
    ),
    Right(
        "jobset.x-k8s.io", ("jobsets",), ("get", "list", "watch", "create", "delete"),
        "attempts with engine JobSet", setting="jobSets",
    ),
    Right(
        "scheduling.volcano.sh", ("podgroups",), ("get", "create", "delete"),
        "attempts with gang Volcano", setting="volcano",
    ),
    Right("kueue.x-k8s.io", ("workloads",), ("list",), "why a queue lets a Job wait"),
    Right("", ("events",), ("list", "create"), "tell of transitions; why a pod is refused"),
    Right("coordination.k8s.io", ("leases",), ("get", "create", "patch"), "one leader", "own"),
)  # fmt: skip


@dataclass(frozen=True)
class Connection:
    """Where the API server is and how to prove who we are, for kopf's own connection."""

    server: str
    authorization: str | None
    ca_file: str | None
    certificate_file: str | None
    key_file: str | None
    insecure: bool


class ApiTransport:
    """Sends requests to one API server and turns refusals into `finetune_operator.errors`."""

    def __init__(self, *, use_proxies: bool = False) -> None:
        self._configuration = api_client.Configuration(
            client_session_kwargs={"trust_env": use_proxies}
        )
        self._client: Any = None
        self._server_clock: tuple[float, float] | None = None

    @classmethod
    async def connect(cls, *, use_proxies: bool = False) -> ApiTransport:
        """Load the credentials of the pod, or of the kubeconfig outside a cluster."""
        logging.getLogger("kubernetes").setLevel(logging.WARNING)  # its debug logs print bodies
        transport = cls(use_proxies=use_proxies)
        await transport._load()
        transport._client = api_client.ApiClient(transport._configuration)
        transport._client.user_agent = "finetune-operator"
        return transport

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def server_time(self) -> float:
        """Return seconds since 1970 by the API server's clock, ours before its first answer."""
        if self._server_clock is None:
            return time.time()
        told, at = self._server_clock
        return told + time.monotonic() - at

    async def connection(self) -> Connection:
        """Return freshly loaded connection facts."""
        await self._load()
        c = self._configuration
        key = await c.get_api_key_with_prefix("BearerToken")
        return Connection(
            c.host, key, c.ssl_ca_cert, c.cert_file, c.key_file, insecure=not c.verify_ssl
        )

    async def send(
        self, method: str, path: str, *, query: dict[str, str] | None = None,
        body: Body | None = None, content_type: str = JSON, accept: str = JSON,
    ) -> Manifest:  # fmt: skip
        """Make one call and return the answer's JSON; raises `ClusterError`s."""
        headers = {"Accept": accept, "Content-Type": content_type}
        try:
            return await self._once(method, path, query or {}, body, headers)
        except CredentialsError:
            await self._load()
        return await self._once(method, path, query or {}, body, headers)

    async def lines(self, path: str, query: dict[str, str]) -> AsyncIterator[Manifest]:
        """Yield the JSON lines of a watch until the server ends it or falls silent for 90 s."""
        with _answers_expected():
            response = await self._request(
                "GET", path, query, None, {"Accept": JSON}, WATCH_TIMEOUT
            )
            try:
                if response.status >= 400:
                    raise cluster_error(await _answer(response))
                async for line in response.content:
                    yield json.loads(line)
            finally:
                response.close()

    async def _once(
        self, method: str, path: str, query: dict[str, str], body: Body | None,
        headers: dict[str, str],
    ) -> Manifest:  # fmt: skip
        resource, started, code = _resource(path), time.perf_counter(), "none"
        try:
            with _answers_expected():
                response = await self._request(method, path, query, body, headers, CALL_TIMEOUT)
                async with response:
                    code = str(response.status)
                    self._note_time(response.headers.get("Date"))
                    if response.status >= 400:
                        raise cluster_error(await _answer(response))
                    answer: Manifest = json.loads(await response.read())
                    return answer
        finally:
            metrics.API_REQUESTS.labels(method, resource, code).inc()
            metrics.API_REQUEST_SECONDS.labels(method, resource).observe(
                time.perf_counter() - started
            )

    async def _request(
        self, method: str, path: str, query: dict[str, str], body: Body | None,
        headers: dict[str, str], limits: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:  # fmt: skip
        verb, url, sent_headers, _, _ = await self._client.param_serialize(
            method, path, query_params=list(query.items()), header_params=dict(headers),
            auth_settings=["BearerToken"],
        )  # fmt: skip
        answered = await self._client.call_api(  # the body is JSON: the client need not walk it
            verb, url, sent_headers, body, _request_timeout=limits
        )
        response: aiohttp.ClientResponse = answered.response
        return response

    async def _load(self) -> None:
        try:
            if "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
                api_config.load_incluster_config(client_configuration=self._configuration)
            else:
                file = os.environ.get("KUBECONFIG") or api_config.KUBE_CONFIG_DEFAULT_LOCATION
                await api_config.load_kube_config(
                    config_file=file, client_configuration=self._configuration, persist_config=False
                )
        except (api_config.ConfigException, OSError) as error:
            raise SettingsError(
                f"no way to reach an API server: {error}; set KUBECONFIG, or run in a pod with a "
                "service account token"
            ) from error

    def _note_time(self, date: str | None) -> None:
        if date is None:
            return
        told = parsedate_to_datetime(date).timestamp()
        if abs(told - self.server_time()) > 2 or self._server_clock is None:
            self._server_clock = (told, time.monotonic())


@contextlib.contextmanager
def _answers_expected() -> Any:
    """Turn everything that is not an answer into `UnavailableError`."""
    try:
        yield
    except ClusterError:
        raise
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise UnavailableError(f"no answer from the API server ({type(error).__name__})") from error


async def _answer(response: aiohttp.ClientResponse) -> Answer:
    return Answer(response.status, await response.read(), response.headers.get("Retry-After", ""))


def _resource(path: str) -> str:
    """Return the plural in a path, for metrics: bounded by the kinds we call."""
    parts = path.strip("/").split("/")
    rest = parts[2:] if parts[0] == "api" else parts[3:]
    if rest[:1] == ["namespaces"]:
        rest = rest[2:]
    return rest[0] if rest else "discovery"
