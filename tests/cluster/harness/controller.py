"""A controller beside those of Kubernetes, as a process here with its webhooks in force."""

import base64
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from harness.binaries import program
from harness.commands import output
from harness.errors import CommandError, NotReadyError
from harness.ports import free_ports
from harness.processes import answers, wait_until

JOBSET_SETTINGS = {"apiVersion": "config.jobset.x-k8s.io/v1alpha1"}
KUEUE_SETTINGS = {
    "apiVersion": "config.kueue.x-k8s.io/v1beta2",
    "integrations": {"frameworks": ["batch/job", "jobset.x-k8s.io/jobset"]},
    "featureGates": {"VisibilityOnDemand": False},
}
"""Without VisibilityOnDemand: that API needs a Service that the API server reaches."""
_PATIENCE_SECONDS = 120
_IN_OWN_ETC = (
    "mount -t tmpfs tmpfs /etc && mkdir -p /etc/kueue/metrics/certs "
    '&& cp "$0"/tls.* /etc/kueue/metrics/certs && exec "$@"'
)
"""Kueue takes the certificate of its metrics from there alone, also where it serves none."""


@contextmanager
def controller(
    sources: Path, settings: Mapping[str, Any], kubeconfig: Path, folder: Path
) -> Iterator[None]:
    """Run the controller of a folder with `settings` added to how it is reached.

    At the end its webhooks and definitions go before it does: it finishes its objects.
    Raises NotReadyError when it does not become ready.
    """
    folder.mkdir()
    kubectl = partial(output, program("kubectl"), f"--kubeconfig={kubeconfig}")
    webhook_port, health_port = free_ports(2)
    authority = _certificate(folder)
    reached = _reached(folder, webhook_port, health_port)
    configuration = folder / "configuration.json"
    configuration.write_text(json.dumps(reached | dict(settings)))
    crds, webhooks = (
        _pointed_here((sources / file).read_text(encoding="utf-8"), webhook_port, authority)
        for file in ("crds.yaml", "webhooks.yaml")
    )
    kubectl("apply", "--server-side", "-f", "-", stdin=crds)
    wait_until("its definitions", lambda: _established(kubectl, crds))
    command = [str(sources / "manager"), f"--config={configuration}"]
    with (folder / "controller.log").open("ab") as log:
        process = subprocess.Popen(
            ["unshare", "--map-root-user", "--mount", "sh", "-c", _IN_OWN_ETC, folder, *command],
            env={"KUBECONFIG": str(kubeconfig), "HOME": str(folder), "USER": "controller",
                 "PATH": os.environ["PATH"]}, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        ready = f"http://127.0.0.1:{health_port}/readyz"
        wait_until(sources.name, lambda: _answers(process, ready, folder), _PATIENCE_SECONDS)
        kubectl("apply", "--server-side", "-f", "-", stdin=webhooks)
        yield
    finally:
        try:
            for text in (webhooks, crds):
                kubectl("delete", "--ignore-not-found", "-f", "-", stdin=text, timeout=60)
        finally:
            process.kill()
            process.wait()


def _established(kubectl: Callable[..., str], crds: str) -> bool:
    """Tell whether definitions are; before there is a first condition `kubectl wait` fails."""
    with suppress(CommandError):
        return bool(kubectl("wait", "--for=condition=Established", "-f", "-", stdin=crds))
    return False


def _answers(process: "subprocess.Popen[bytes]", address: str, folder: Path) -> bool:
    if process.poll() is not None:
        raise NotReadyError(f"the controller ended; see {folder}/controller.log")
    return answers(address)


def _reached(folder: Path, webhook_port: int, health_port: int) -> dict[str, Any]:
    return {
        "kind": "Configuration",
        "internalCertManagement": {"enable": False},
        "leaderElection": {"leaderElect": False},
        "webhook": {"host": "127.0.0.1", "port": webhook_port, "certDir": str(folder)},
        "metrics": {"bindAddress": "0"},
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health_port}"},
    }


def _certificate(folder: Path) -> str:
    """Make the certificate of the webhooks, which is its own authority; return it in base64."""
    words = "openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=127.0.0.1"
    made = [*words.split(), "-addext", "subjectAltName=IP:127.0.0.1"]
    output(*made, "-keyout", folder / "tls.key", "-out", folder / "tls.crt")
    return base64.b64encode((folder / "tls.crt").read_bytes()).decode()


def _pointed_here(text: str, port: int, authority: str) -> str:
    """Return definitions or webhooks with the address of a process instead of a Service."""
    found = [part for part in yaml.safe_load_all(text) if part["kind"] != "Service"]
    conversions = (part["spec"].get("conversion") for part in found if "spec" in part)
    callers = [each["webhook"] for each in conversions if each]
    callers += [webhook for part in found for webhook in part.get("webhooks", ())]
    for caller in callers:
        path = caller["clientConfig"]["service"]["path"]
        caller["clientConfig"] = {"url": f"https://127.0.0.1:{port}{path}", "caBundle": authority}
    return yaml.safe_dump_all(found)
