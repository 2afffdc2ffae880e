"""What the chart's admission policies ask about each field of our kinds, from the schemas.

CEL in a CRD knows neither the user nor other objects; a ValidatingAdmissionPolicy does. Every
field that names something is found here by its path, so a new field is covered as it appears.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import get_args

from finetune_api.crds import schema_of
from finetune_api.finetune_experiment import ExperimentSpec
from finetune_api.meta import DnsName
from finetune_api.names import GROUP, PLURALS
from finetune_api.presets import preset_of
from finetune_api.structural_schema import RULES, Schema
from finetune_api.training_settings import Preset

Rule = dict[str, str]


@dataclass(frozen=True)
class Right:
    """What a user needs to name something: a verb on that very object."""

    group: str
    resource: str
    verb: str

    def question(self, name: str) -> str:
        """Return the CEL that asks whether the requesting user has it."""
        return (
            f"authorizer.group('{self.group}').resource('{self.resource}')"
            f".namespace(request.namespace).name({name}).check('{self.verb}').allowed()"
        )


SECRET = Right("", "secrets", "get")
RIGHTS = {
    r"([a-z]\w*S|s)ecretRef\.name|imagePullSecrets\[\]": SECRET,
    r"\w*(?<!secret)(?<!Secret)Ref\.name": Right("", "configmaps", "get"),
    r"claimName|\w+CacheClaim": Right("", "persistentvolumeclaims", "get"),
    r"serviceAccountName": Right("", "serviceaccounts", "impersonate"),
    r"dataset\.(n|\w+N)ame": Right(GROUP, "datasets", "get"),
    r"(fromE|e)xperiment\.name": Right(GROUP, "finetuneexperiments", "get"),
    r"exportRef": Right(GROUP, "modelexports", "get"),
}
"""By the end of a field's path."""
NOTHING_PRIVATE = re.compile(
    r".*\.(runtimeClassName|\w*[pP]riorityClassName|\w*StorageClassName|schedulerName|queueName)"
)
"""Names that reach for nothing a user of the namespace must not have."""
OVERRIDES = "spec.podOverrides"
OWN_POD_FIELDS = ("spec.compute.image", "spec.compute.env", OVERRIDES)
"""What makes a pod the user's own: code that may do as it likes with what is mounted."""
_REDIRECTING = "^(AWS_.*|HF_ENDPOINT|(?i:.*_PROXY))$"
"""Variables by which a library connects elsewhere than the spec says."""
_DNS_PATTERN = get_args(DnsName)[1].pattern


def admission_rules() -> dict[str, dict[str, list[Rule]]]:
    """Return the rules of each policy by the plural of the kind they speak about."""
    return {
        policy: {plural: list(rules_of(kind)) for kind, plural in PLURALS.items()}
        for policy, rules_of in _POLICIES.items()
    }


def preset_values() -> dict[str, str]:
    """Return what presets give to the fields with a ceiling, as CEL maps."""
    minimal = {"model": {"name": "owner/model"}, "dataset": {"name": "data"}}
    values = {
        preset: preset_of(ExperimentSpec.model_validate({**minimal, "preset": preset}))
        for preset in Preset
    }
    return {
        field: "{" + ", ".join(f"'{p}': {getattr(v, field)}" for p, v in values.items()) + "}"
        for field in ("epochs", "rank")
    }


def right_of(path: str, node: Schema) -> Right | None:
    """Return what naming something in this field needs; None for a field that names nothing.

    Pod overrides may name anything: they need the right to create pods. Raises ValueError for a
    name that nobody has said anything about.
    """
    if path.startswith(f"{OVERRIDES}."):
        return None
    for end, right in RIGHTS.items():
        if re.fullmatch(rf".*\.({end})", path):
            return right
    if node.get("pattern") == _DNS_PATTERN and not NOTHING_PRIVATE.fullmatch(path):
        raise ValueError(f"{path}: say in admission_rules.RIGHTS what this field names")
    return None


def holds(path: str, test: str) -> str:
    """Return the CEL that says of every value at `path` what `test` says of VALUE.

    `[]` in a path is every item of a list, `[3]` the fourth if there is one.
    """
    return _holds("object", path.split("[]"), test, 0)


def _holds(root: str, parts: list[str], test: str, depth: int) -> str:
    first, *rest = parts
    names = [name for name in first.split(".") if name]
    chosen = root + "".join(f".?{name.replace('[', '[?')}" for name in names)
    item = f"v{depth}"
    if not rest:
        if not names:
            return test.replace("VALUE", root)
        return f"{chosen}.optMap({item}, {test.replace('VALUE', item)}).orValue(true)"
    return f"{chosen}.orValue([]).all({item}, {_holds(item, rest, test, depth + 1)})"


def fields(kind: str) -> dict[str, Schema]:
    """Return every field of a kind's spec that is no block; `[]` in a path stands for items."""
    return dict(_leaves(schema_of(kind)["properties"]["spec"], "spec"))


def _leaves(node: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    if "properties" in node:
        for name, child in node["properties"].items():
            yield from _leaves(child, f"{path}.{name}")
    elif "items" in node:
        for below, child in _leaves(node["items"], f"{path}[]"):
            yield below, {"maxItems": node["maxItems"], **child}
    else:
        yield path, node


def _secrets(kind: str) -> Iterator[Rule]:
    return _references(kind, {SECRET})


def _objects(kind: str) -> Iterator[Rule]:
    return _references(kind, set(RIGHTS.values()) - {SECRET})


def _references(kind: str, rights: set[Right]) -> Iterator[Rule]:
    for path, node in fields(kind).items():
        right = right_of(path, node)
        if right in rights:
            yield from (_reference(one, right) for one in _each_item(path, node))


def _each_item(path: str, node: Schema) -> list[str]:
    """Return the path once per possible item: one expression may ask only two questions."""
    before, inside, behind = path.partition("[]")
    return [f"{before}[{n}]{behind}" for n in range(node["maxItems"])] if inside else [path]


def _reference(path: str, right: Right) -> Rule:
    return {
        "expression": holds(path, right.question("VALUE")),
        "message": f"{path}: you lack the right to {right.verb} this {right.resource[:-1]}",
    }


def _own_pods(kind: str) -> Iterator[Rule]:
    blocks = schema_of(kind)["properties"]["spec"]["properties"]
    for path in OWN_POD_FIELDS:
        _, block, *field = path.split(".")
        if block in blocks and all(name in blocks[block]["properties"] for name in field):
            message = f"{path}: changes what a pod runs, which needs the right to create pods"
            yield {"expression": holds(path, "variables.mayCreatePods"), "message": message}


def _addresses(kind: str) -> Iterator[Rule]:
    allowed = "variables.allowed.exists(a, (VALUE + '/').startsWith(a))"
    for path, node in fields(kind).items():
        if any("^https?://" in rule["rule"] for rule in node.get(RULES, ())):
            message = f"{path}: not an address that the administrator allows"
            yield {"expression": holds(path, allowed), "message": message}
        if path.endswith(".env[].name"):
            message = f"{path}: AWS_*, HF_ENDPOINT and *_PROXY lead past the allowed addresses"
            yield {
                "expression": holds(path, f"!VALUE.matches('{_REDIRECTING}')"),
                "message": message,
            }


def _plain_resources(kind: str) -> Iterator[Rule]:
    for path in fields(kind):
        if path.endswith((".resources.limits", ".resources.requests")):
            message = f"{path}: GPUs are asked for with spec.compute.gpusPerNode only"
            plain = "!VALUE.exists(name, name.contains('/'))"
            yield {"expression": holds(path, plain), "message": message}


def _images(kind: str) -> Iterator[Rule]:
    for path in fields(kind):
        if path.endswith(".image"):
            message = f"{path}: not from a registry that the administrator allows"
            allowed = "variables.allowed.exists(a, VALUE.startsWith(a))"
            yield {"expression": holds(path, allowed), "message": message}


_POLICIES: dict[str, Callable[[str], Iterator[Rule]]] = {
    "secrets": _secrets,
    "objects": _objects,
    "podOverrides": _own_pods,
    "endpoints": _addresses,
    "podSettings": _images,
    "ceilings": _plain_resources,
}
