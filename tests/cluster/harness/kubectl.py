"""kubectl as a function, and the few things tests do with it all the time."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from harness.binaries import program
from harness.commands import output
from harness.errors import CommandError
from harness.locations import KUBECONFIG
from harness.processes import wait_until as wait_for_processes

__all__ = ["KubectlError", "apply", "fetch", "kubectl", "wait_until"]

T = TypeVar("T")
KubectlError = CommandError
"""What kubectl refused: `stderr` holds the API server's words."""


def kubectl(
    *arguments: str,
    stdin: str | None = None,
    namespace: str | None = None,
    timeout: float = 60,
) -> str:
    """Run kubectl as the cluster's administrator and return its output.

    Raises KubectlError when it ends with an error.
    """
    scope = () if namespace is None else (f"--namespace={namespace}",)
    command = (program("kubectl"), f"--kubeconfig={KUBECONFIG}", *scope, *arguments)
    return output(*command, stdin=stdin, timeout=timeout)


def apply(
    manifest: str | Mapping[str, Any] | Sequence[Mapping[str, Any]], namespace: str | None = None
) -> None:
    """Apply one object, several, or YAML text by server-side apply."""
    if isinstance(manifest, str):
        text = manifest
    else:
        items = [manifest] if isinstance(manifest, Mapping) else list(manifest)
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    kubectl(
        "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text, namespace=namespace
    )


def fetch(
    kind: str, name: str | None = None, *, namespace: str | None = None, selector: str | None = None
) -> dict[str, Any]:
    """Return one object, or with no name the list of them under `items`."""
    words = [kind] if name is None else [kind, name]
    if selector is not None:
        words.append(f"--selector={selector}")
    answer: dict[str, Any] = json.loads(kubectl("get", *words, "-o", "json", namespace=namespace))
    return answer


def wait_until(what: str, probe: Callable[[], T], timeout: float = 60, interval: float = 0.5) -> T:
    """Repeat a probe that runs kubectl; more often it would take the time of what it waits for.

    Raises NotReadyError after `timeout` seconds.
    """
    return wait_for_processes(what, probe, timeout, interval)
