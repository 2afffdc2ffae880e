"""etcd, API server, controller-manager and scheduler as host processes."""

import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from harness.binaries import program
from harness.certificates import CA, certificate, issue_all, key, kubeconfig
from harness.errors import NotReadyError
from harness.locations import (
    API_SERVER,
    BRIDGE_ADDRESS,
    ETCD,
    ETCD_PEER,
    LOGS,
    SERVICE_NETWORK,
    STATE,
)
from harness.processes import pid_of, start, stop, wait_for_answer, wait_until

PROCESSES = ("scheduler", "controller-manager", "apiserver", "etcd")
"""In the order in which they stop."""
WRITES = LOGS / "writes.log"
"""Every write that the API server answered, one JSON object each: who, what, when."""


def start_control_plane() -> None:
    """Start all four and return when the API server is ready.

    Controllers start only then: started earlier, the controller-manager ends because the RBAC
    role it needs does not exist yet.
    """
    issue_all()
    start_api()
    start("controller-manager", _controller_manager())
    start("scheduler", _scheduler())


def start_api() -> None:
    """Start etcd and the API server, and return when it is ready."""
    start("etcd", _etcd())
    wait_for_answer("etcd", f"{ETCD}/health")
    start("apiserver", _apiserver())
    wait_until(f"the API server (see {LOGS}/apiserver.log)", _started_api_is_ready, timeout=90)


def stop_api() -> None:
    """End the API server and etcd as a crash would; `start_api` brings both back, and all data."""
    stop("apiserver", grace_seconds=0)
    stop("etcd", grace_seconds=0)


def api_is_ready() -> bool:
    """Whether the API server answers /readyz under this cluster's authority."""
    if not CA.exists():
        return False
    context = ssl.create_default_context(cafile=str(CA))
    context.load_cert_chain(certificate("admin"), key("admin"))
    try:
        with urllib.request.urlopen(f"{API_SERVER}/readyz", timeout=3, context=context) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _started_api_is_ready() -> bool:
    if pid_of("apiserver") is None:
        raise NotReadyError(f"the API server ended during its start; see {LOGS}/apiserver.log")
    return api_is_ready()


def _etcd() -> list[str | Path]:
    return [
        program("etcd"),
        f"--data-dir={STATE / 'etcd'}",
        f"--listen-client-urls={ETCD}",
        f"--advertise-client-urls={ETCD}",
        f"--listen-peer-urls={ETCD_PEER}",
        f"--initial-advertise-peer-urls={ETCD_PEER}",
        f"--initial-cluster=default={ETCD_PEER}",
        # The data live as long as the cluster; waiting for the disk would slow every write.
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def _apiserver() -> list[str | Path]:
    return [
        program("kube-apiserver"),
        f"--etcd-servers={ETCD}",
        f"--bind-address={BRIDGE_ADDRESS}",
        f"--advertise-address={BRIDGE_ADDRESS}",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        f"--tls-cert-file={certificate('apiserver')}",
        f"--tls-private-key-file={key('apiserver')}",
        f"--client-ca-file={CA}",
        f"--kubelet-client-certificate={certificate('apiserver-kubelet')}",
        f"--kubelet-client-key={key('apiserver-kubelet')}",
        # By name the API server would have to resolve the node for `kubectl logs`.
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-key-file={key('service-accounts')}",
        f"--service-account-signing-key-file={key('service-accounts')}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--audit-policy-file={_audit_policy()}",
        f"--audit-log-path={WRITES}",
    ]


def _audit_policy() -> Path:
    """Have every write to an object noted, and nothing else: what a test may ask about."""
    writes = {"level": "Metadata", "verbs": ["create", "update", "patch", "delete"]}
    content = {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [writes, {"level": "None"}],
    }
    target = STATE / "audit.json"
    target.write_text(json.dumps(content), encoding="utf-8")
    return target


def _controller_manager() -> list[str | Path]:
    return [
        program("kube-controller-manager"),
        f"--kubeconfig={kubeconfig('controller-manager')}",
        "--bind-address=127.0.0.1",
        "--use-service-account-credentials",
        f"--service-account-private-key-file={key('service-accounts')}",
        f"--root-ca-file={CA}",
        f"--cluster-signing-cert-file={CA}",
        f"--cluster-signing-key-file={key('ca')}",
        "--leader-elect=false",
    ]


def _scheduler() -> list[str | Path]:
    return [
        program("kube-scheduler"),
        f"--kubeconfig={kubeconfig('scheduler')}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
    ]
