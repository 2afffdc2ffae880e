"""Random objects of a kind, drawn from its schema; now and then a value is wrong."""

from __future__ import annotations

from random import Random
from typing import Any

from finetune_api.crds import schema_of
from finetune_api.names import API_VERSION

_FITTING = {
    r"^[A-Z]{3}$": "EUR",
    r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$": "some-name",
    r"^[A-Za-z0-9][-A-Za-z0-9_.]*(/[A-Za-z0-9][-A-Za-z0-9_.]*)?$": "owner/model",
    r"^sha256:[0-9a-f]{64}$": "sha256:" + "0" * 64,
    r"^[0-9]+([.][0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi)?$": "16Gi",
    r"^[A-Za-z_][A-Za-z0-9_]*$": "SOME_NAME",
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$": "some-name",
    r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$": "NVIDIA-H100-80GB-HBM3",
    r"^[A-Za-z0-9][-A-Za-z0-9_./]*$": "topology.kubernetes.io/zone",
    r"^/[^:]+$": "/mnt/own",
    r"^[0-9a-fA-F:.]+/[0-9]{1,3}$": "10.0.0.0/8",
}
_TEXTS = ("x", "https://host/a", "a/b", "a..b", "../a", "True", "1e-4", "ü", "a b")
_WRONG = (None, "text", 0, -1, 1.5, 2.0, True, [], {}, ["x"], {"unknown": 1}, 10**12, 2**63, "")
_CONNECTORS = ("inline", "volumeClaim", "s3", "http", "huggingFace")
_PRESENT_SHARE = 0.35
_ONE_CONNECTOR_SHARE = 0.95
_WRONG_SHARE = 0.01


def random_manifest(kind: str, seed: int) -> dict[str, Any]:
    """Return an object that may break any rule; the same seed gives the same object."""
    chance = Random(f"{kind} {seed}")
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": f"random-{seed}"},
        "spec": _block(schema_of(kind)["properties"]["spec"], chance),
    }


def _value(schema: dict[str, Any], chance: Random) -> Any:
    if chance.random() < _WRONG_SHARE:
        return chance.choice(_WRONG)
    if "enum" in schema:
        return chance.choice(schema["enum"])
    if "properties" in schema:
        return _block(schema, chance)
    if "items" in schema:
        return [_value(schema["items"], chance) for _ in range(chance.randint(1, 2))]
    draw = {
        "boolean": _boolean, "integer": _integer, "number": _number, "string": _text,
        "object": _map,
    }  # fmt: skip
    return draw[schema["type"]](schema, chance)


def _map(schema: dict[str, Any], chance: Random) -> dict[str, Any]:
    """Return a map, or an object whose content is open."""
    if "additionalProperties" in schema:
        return {"cpu": _value(schema["additionalProperties"], chance)}
    return {"own": chance.choice(_TEXTS)}


def _block(schema: dict[str, Any], chance: Random) -> dict[str, Any]:
    required, properties = schema.get("required", ()), schema["properties"]
    present = {name for name in properties if name in required}
    present |= {name for name in properties if chance.random() < _PRESENT_SHARE}
    connectors = [name for name in _CONNECTORS if name in properties]
    if len(connectors) > 1 and chance.random() < _ONE_CONNECTOR_SHARE:
        present = (present - set(connectors)) | {chance.choice(connectors)}
        present -= {"name", "revision"} if "revision" in properties else set()
    return {name: _value(child, chance) for name, child in properties.items() if name in present}


def _boolean(_: dict[str, Any], chance: Random) -> bool:
    return chance.random() < 0.5


def _integer(schema: dict[str, Any], chance: Random) -> int:
    low, high = schema.get("minimum", 0), schema.get("maximum", 10**6)
    return chance.choice((low, high, chance.randint(low, high)))


def _number(schema: dict[str, Any], chance: Random) -> float | int:
    low, high = schema.get("minimum", 0), schema.get("maximum", 10)
    return chance.choice((low, high, (low + high) / 4, chance.uniform(low, high)))


def _text(schema: dict[str, Any], chance: Random) -> str:
    if "pattern" in schema:
        return _FITTING[schema["pattern"]]
    text = chance.choice(_TEXTS)
    if len(text) > schema["maxLength"]:
        return text[: schema["maxLength"]]
    return text.ljust(schema.get("minLength", 0), "x")
