"""The JobSet controller beside a bare API server, its webhooks in force."""

import base64
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from harness.bare_api import BareApi, free_ports
from harness.commands import output
from harness.errors import NotReadyError
from harness.processes import answers, wait_until


@contextmanager
def jobset_controller(api: BareApi, sources: Path) -> Iterator[None]:
    """Run the controller of a folder with its webhooks in force.

    Raises NotReadyError when it does not become ready.
    """
    folder = api.folder / "jobset"
    folder.mkdir()
    webhook_port, health_port = free_ports(2)
    authority = _certificate(folder)
    configuration = folder / "configuration.json"
    configuration.write_text(json.dumps(_configuration(folder, webhook_port, health_port)))
    api.kubectl("apply", "--server-side", "-f", str(sources / "crds"))
    api.kubectl("wait", "--for=condition=Established", "-f", str(sources / "crds"))
    with (folder / "controller.log").open("ab") as log:
        process = subprocess.Popen(
            [str(sources / "manager"), f"--config={configuration}"],
            env={"KUBECONFIG": str(api.kubeconfig())}, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        ready = f"http://127.0.0.1:{health_port}/readyz"
        wait_until("the JobSet controller", lambda: _answers(process, ready, folder), timeout=60)
        text = (sources / "webhooks.yaml").read_text(encoding="utf-8")
        api.kubectl("apply", "-f", "-", text=_pointed_here(text, webhook_port, authority))
        yield
    finally:
        process.kill()
        process.wait()


def _answers(process: "subprocess.Popen[bytes]", address: str, folder: Path) -> bool:
    if process.poll() is not None:
        raise NotReadyError(f"the JobSet controller ended; see {folder}/controller.log")
    return answers(address)


def _configuration(folder: Path, webhook_port: int, health_port: int) -> dict[str, object]:
    return {
        "apiVersion": "config.jobset.x-k8s.io/v1alpha1",
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
    """Return the webhook configurations with the address of a process instead of a Service."""
    found = [part for part in yaml.safe_load_all(text) if "webhooks" in (part or {})]
    for each in (webhook for part in found for webhook in part["webhooks"]):
        path = each["clientConfig"]["service"]["path"]
        each["clientConfig"] = {"url": f"https://127.0.0.1:{port}{path}", "caBundle": authority}
    return yaml.safe_dump_all(found)
