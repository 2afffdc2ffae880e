"""Namespaces of tests: Pod Security `restricted` is enforced in every one of them."""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from harness.kubectl import KubectlError, apply, fetch, kubectl, wait_until
from harness.volumes import release_volumes

_RESTRICTED = {
    f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")
}


def create_namespace(name: str, labels: Mapping[str, str] | None = None) -> None:
    """Create a namespace, or find it, and return when pods may be created in it.

    The controllers make its default ServiceAccount a moment later; until then pods are refused.
    """
    metadata = {"name": name, "labels": {**_RESTRICTED, **(labels or {})}}
    apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})

    def has_service_account() -> bool:
        try:
            return bool(fetch("serviceaccount", "default", namespace=name))
        except KubectlError:
            return False

    wait_until(f"the default ServiceAccount of {name}", has_service_account, timeout=60)


def delete_namespace(name: str, timeout: float = 120) -> None:
    """Delete the namespace with all that is in it, its volumes too, and wait for the end."""
    limit = f"--timeout={timeout:g}s"
    kubectl("delete", "namespace", name, "--ignore-not-found", limit, timeout=timeout + 10)
    release_volumes(name)


@contextmanager
def namespace(prefix: str) -> Iterator[str]:
    """Lend a namespace of its own to a test: its name is the prefix and four random letters."""
    name = f"{prefix}-{secrets.token_hex(2)}"
    create_namespace(name)
    try:
        yield name
    finally:
        delete_namespace(name)
