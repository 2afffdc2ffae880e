"""The template of an object's pods: what all of them carry, and what users add to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from finetune_api.names import OWNER_UID_ANNOTATION
from finetune_api.pod_overrides import PodOverrides
from finetune_operator.manifests.owned import Owner
from finetune_operator.observed import Manifest

RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
"""What the restricted Pod Security Standard asks of every container."""
_IDENTITIES: tuple[Literal["mountPath", "name"], ...] = ("mountPath", "name")


def pod_template(
    of: Owner,
    spec: Manifest,
    overrides: PodOverrides | None,
    annotations: Mapping[str, str] | None = None,
) -> Manifest:
    """Return the template; overrides come last, and what they may not touch has no field there."""
    own = {OWNER_UID_ANNOTATION: of.object.metadata.uid}
    template = {
        "metadata": {"labels": of.labels(), "annotations": {**(annotations or {}), **own}},
        "spec": spec,
    }
    if overrides is None:
        return template
    added = overrides.model_dump(mode="json", by_alias=True, exclude_none=True)
    for container in added.get("spec", {}).get("initContainers", ()):
        container["securityContext"] = RESTRICTED
    together: Manifest = merged(template, added)
    return together


def merged(under: Any, over: Any) -> Any:
    """Return `over` laid over `under`: maps merge, lists of named things by name, the rest wins."""
    if isinstance(under, dict) and isinstance(over, dict):
        both = {name: merged(under[name], over[name]) for name in under.keys() & over.keys()}
        return {**under, **over, **both}
    if isinstance(under, list) and isinstance(over, list):
        identity = next((key for key in _IDENTITIES if _all_have(key, [*under, *over])), None)
        if identity:
            return list(merged(_by(identity, under), _by(identity, over)).values())
    return over


def _all_have(key: str, items: list[Any]) -> bool:
    return all(isinstance(item, dict) and key in item for item in items)


def _by(key: str, items: list[Manifest]) -> dict[str, Manifest]:
    return {item[key]: item for item in items}
