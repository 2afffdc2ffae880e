"""The cluster's own authority, the certificates it signs, and the kubeconfig of each component.

openssl does it: a Python package for it would be the harness's only dependency.
"""

import base64
import json
import os
from pathlib import Path

from harness.commands import output
from harness.locations import API_SERVER, BRIDGE_ADDRESS, KUBECONFIG, NODE_NAME, STATE

PKI = STATE / "pki"
CA = PKI / "ca.crt"
_DAYS = "30"

_IDENTITIES = {
    "admin": "/O=system:masters/CN=admin",
    "controller-manager": "/CN=system:kube-controller-manager",
    "scheduler": "/CN=system:kube-scheduler",
    "kubelet": f"/O=system:nodes/CN=system:node:{NODE_NAME}",
    "kube-proxy": "/CN=system:kube-proxy",
    "apiserver-kubelet": "/O=system:masters/CN=apiserver-kubelet",
    "observer": "/O=system:masters/CN=observer",
}
"""Name → subject; the API server reads groups from O and the user from CN. DNS and Prometheus,
which stand outside of the cluster, share `observer`."""

_SERVER_NAMES = ",".join(
    [f"IP:{BRIDGE_ADDRESS}", "IP:127.0.0.1", "IP:10.96.0.1", "DNS:localhost"]
    + [f"DNS:kubernetes{suffix}" for suffix in ("", ".default", ".default.svc")]
    + ["DNS:kubernetes.default.svc.cluster.local"]
)


def certificate(name: str) -> Path:
    """Path of a certificate; its key lies beside it."""
    return PKI / f"{name}.crt"


def key(name: str) -> Path:
    """Path of a private key."""
    return PKI / f"{name}.key"


def kubeconfig(name: str) -> Path:
    """Path of the kubeconfig of a component."""
    return KUBECONFIG if name == "admin" else STATE / f"{name}.kubeconfig"


def issue_all() -> None:
    """Write authority, server and client certificates and kubeconfigs, unless they are there."""
    if KUBECONFIG.exists():
        return
    PKI.mkdir(parents=True, exist_ok=True)
    PKI.chmod(0o700)
    _make_key("ca")
    output(
        *("openssl", "req", "-x509", "-new", "-key", key("ca"), "-days", _DAYS),
        *("-subj", "/CN=finetune-test-cluster", "-out", CA),
    )
    _make_key("service-accounts")
    _sign("apiserver", "/CN=kube-apiserver", f"subjectAltName={_SERVER_NAMES}")
    for name, subject in _IDENTITIES.items():
        _sign(name, subject, "extendedKeyUsage=clientAuth")
    for name in sorted(_IDENTITIES, key=lambda each: each == "admin"):
        _write_kubeconfig(name)


def _make_key(name: str) -> None:
    output("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key(name))


def _sign(name: str, subject: str, extension: str) -> None:
    _make_key(name)
    request = output("openssl", "req", "-new", "-key", key(name), "-subj", subject)
    extensions = PKI / f"{name}.ext"
    extensions.write_text(extension, encoding="utf-8")
    output(
        *("openssl", "x509", "-req", "-CA", CA, "-CAkey", key("ca"), "-days", _DAYS),
        *("-set_serial", f"0x{os.urandom(8).hex()}", "-extfile", extensions),
        *("-out", certificate(name)),
        stdin=request,
    )


def _write_kubeconfig(name: str) -> None:
    """Write it as JSON, which is YAML, with everything embedded: it may be copied elsewhere."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "finetune",
        "clusters": [
            {
                "name": "finetune",
                "cluster": {"server": API_SERVER, "certificate-authority-data": _base64(CA)},
            }
        ],
        "users": [
            {
                "name": name,
                "user": {
                    "client-certificate-data": _base64(certificate(name)),
                    "client-key-data": _base64(key(name)),
                },
            }
        ],
        "contexts": [{"name": "finetune", "context": {"cluster": "finetune", "user": name}}],
    }
    target = kubeconfig(name)
    target.touch(mode=0o600)
    target.write_text(json.dumps(config, indent=1), encoding="utf-8")


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
