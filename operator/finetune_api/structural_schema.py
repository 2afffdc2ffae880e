"""Turn a model into a structural schema, the dialect of OpenAPI v3 that a CRD speaks.

What the dialect cannot say, and what would make a CRD uninstallable, is refused when the CRDs are
generated, not by somebody's API server.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from finetune_api.meta import ApiModel, Rule

Schema = dict[str, Any]
RULES = "x-kubernetes-validations"

_DROPPED = ("title", "discriminator", "examples", "deprecated", "readOnly", "$defs")
_KNOWN = {
    *("type", "format", "description", "default", "enum", "pattern"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    *("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
    *("properties", "required", "items", "additionalProperties"),
}
_CONTENT = {"properties", "additionalProperties", "x-kubernetes-preserve-unknown-fields"}
_FORMATS = {"integer": "int64", "number": "double"}
_BOUND_OF = {"string": "maxLength", "array": "maxItems"}
_PROPERTY_NAME = re.compile(r"[a-z][A-Za-z0-9]*")
_CEL_WORDS = {
    *("as", "break", "const", "continue", "else", "false", "for", "function", "if", "import"),
    *("in", "let", "loop", "namespace", "null", "package", "return", "self", "true", "var"),
    *("void", "while"),
}
_RE2_LACKS = re.compile(r"\(\?(?:[=!>]|<[=!]|P=|\()|\\[1-9]|[*+?}]\+")
_SELF = re.compile(r"'[^']*'|\b(?:self|oldSelf)\b")


class SchemaError(ValueError):
    """A model says something that no structural schema can say."""


class _SchemaWithRules(GenerateJsonSchema):
    """Pydantic's own generator, with the CEL rules of each model."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        json_schema = super().model_schema(schema)
        rules = _rules(schema["cls"])
        if rules:
            json_schema[RULES] = [{"rule": rule.cel, "message": rule.message} for rule in rules]
        return json_schema


def structural_schema(model: type[ApiModel]) -> Schema:
    """Return the schema of a model; raises `SchemaError` naming the field that has none."""
    source = model.model_json_schema(by_alias=True, schema_generator=_SchemaWithRules)
    return _Translation(source.get("$defs", {})).node(source, model.__name__, ())


def without_defaults(schema: Schema) -> Schema:
    """Return the schema of a status: the server must not invent observations."""
    return _mapped_children({k: v for k, v in schema.items() if k != "default"}, without_defaults)


class _Translation:
    """One walk over pydantic's schema with its definitions."""

    def __init__(self, definitions: dict[str, Schema]) -> None:
        self._definitions = definitions

    def node(self, source: Schema, path: str, open_refs: tuple[str, ...]) -> Schema:
        """Translate one node and all below it."""
        schema, open_refs = self._resolved(source, path, open_refs)
        for key in _DROPPED:
            schema.pop(key, None)
        _settle_keywords(schema)
        _settle_map_keys(schema, path)
        if "properties" in schema:
            _settle_property_names(schema, path)
            schema["properties"] = {
                name: self.node(child, f"{path}.{name}", open_refs)
                for name, child in schema["properties"].items()
            }
            _settle_default(schema, path)
            _lift_rules(schema)
        for key in ("items", "additionalProperties"):
            if isinstance(schema.get(key), dict):
                schema[key] = self.node(schema[key], f"{path}[]", open_refs)
        _refuse_what_has_no_place(schema, path)
        return schema

    def _resolved(
        self, source: Schema, path: str, open_refs: tuple[str, ...]
    ) -> tuple[Schema, tuple[str, ...]]:
        """Follow references and optional wrappers; keys beside a reference win over its own."""
        schema = dict(source)
        while "$ref" in schema or "anyOf" in schema:
            if "$ref" in schema:
                name = schema.pop("$ref").rpartition("/")[2]
                if name in open_refs:
                    raise SchemaError(f"{path}: {name} contains itself; a schema is finite")
                open_refs = (*open_refs, name)
                inner = self._definitions[name]
            else:
                members = [m for m in schema.pop("anyOf") if m.get("type") != "null"]
                if len(members) != 1:
                    raise SchemaError(
                        f"{path}: a union; use optional members and an exactly-one rule"
                    )
                inner = members[0]
            schema = {**inner, **schema}
        return schema, open_refs


def _rules(model: type[ApiModel]) -> list[Rule]:
    """Return the rules of a model and of those it extends, base first."""
    own = [vars(parent).get("rules", ()) for parent in reversed(model.__mro__)]
    return list(dict.fromkeys(rule for rules in own for rule in rules))


def _settle_keywords(schema: Schema) -> None:
    for bound in ("minimum", "maximum"):
        exclusive = "exclusive" + bound.capitalize()
        if exclusive in schema:
            schema[bound] = schema.pop(exclusive)
            schema[exclusive] = True
    if "const" in schema:
        schema["enum"] = [schema.pop("const")]
    if schema.get("type") in _FORMATS and "enum" not in schema:
        schema.setdefault("format", _FORMATS[schema["type"]])
    if "default" in schema and schema["default"] is None:
        del schema["default"]
    if schema.get("additionalProperties") in (True, False):
        del schema["additionalProperties"]


def _settle_map_keys(schema: Schema, path: str) -> None:
    """State the bounds of a map's keys as a rule: a structural schema has no propertyNames."""
    keys = schema.pop("propertyNames", {})
    if "additionalProperties" not in schema:
        return
    if "maxLength" not in keys:
        raise SchemaError(f"{path}: keys of a map without a bound; give them max_length")
    shortest, longest = keys.get("minLength", 0), keys["maxLength"]
    at_least = f"key.size() >= {shortest} && " if shortest else ""
    rule = {
        "rule": f"self.all(key, {at_least}key.size() <= {longest})",
        "message": f"names in this map have {f'{shortest} to' if shortest else 'at most'} "
        f"{longest} characters",
    }
    schema[RULES] = [*schema.get(RULES, []), rule]


def _settle_property_names(schema: Schema, path: str) -> None:
    for name in schema["properties"]:
        if not _PROPERTY_NAME.fullmatch(name) or name in _CEL_WORDS:
            raise SchemaError(f"{path}.{name}: CEL cannot spell this name; rename the field")


def _settle_default(schema: Schema, path: str) -> None:
    """Give a block the default {}: its fields keep the only copy of their defaults."""
    if "default" not in schema:
        return
    if schema.get("required"):
        raise SchemaError(f"{path}: has a default, but {schema['required'][0]} is required")
    for name, value in schema["default"].items():
        child = schema["properties"][name]
        if "default" in child and "properties" not in child and child["default"] != value:
            raise SchemaError(f"{path}.{name}: the block's default differs from the field's")
        if "default" not in child and value is not None:
            raise SchemaError(f"{path}.{name}: only the block has a default; give it to the field")
    schema["default"] = {}


def _lift_rules(schema: Schema) -> None:
    """Move the rules of blocks with a default here.

    The API server evaluates a rule on the literal {} before the defaults inside it exist.
    """
    lifted = []
    for name, child in schema["properties"].items():
        if "default" in child:
            lifted += [_below(rule, name) for rule in child.pop(RULES, [])]
    if lifted:
        schema[RULES] = [*schema.get(RULES, []), *lifted]


def _below(rule: dict[str, str], name: str) -> dict[str, str]:
    def longer(match: re.Match[str]) -> str:
        text = match[0]
        return text if text.startswith("'") else f"{text}.{name}"

    field_path = f".{name}{rule.get('fieldPath', '')}"
    return {**rule, "rule": _SELF.sub(longer, rule["rule"]), "fieldPath": field_path}


def _refuse_what_has_no_place(schema: Schema, path: str) -> None:
    unknown = sorted(k for k in schema if k not in _KNOWN and not k.startswith("x-kubernetes-"))
    if unknown:
        raise SchemaError(f"{path}: a structural schema has no {', '.join(unknown)}")
    if "type" not in schema:
        raise SchemaError(f"{path}: no type; give the field one")
    bound = _BOUND_OF.get(schema["type"])
    if "additionalProperties" in schema:
        bound = "maxProperties"
    closed = "enum" in schema or schema.get("format") == "date-time"
    if bound and bound not in schema and not closed:
        raise SchemaError(f"{path}: no {bound}; CEL costs are estimated from it, give max_length")
    if schema["type"] == "object" and not _CONTENT & schema.keys():
        raise SchemaError(f"{path}: an object without fields; declare them")
    patterns = [schema.get("pattern", ""), *(rule["rule"] for rule in schema.get(RULES, []))]
    if any(_RE2_LACKS.search(pattern) for pattern in patterns):
        raise SchemaError(f"{path}: the API server's regular expressions cannot look around")


def _mapped_children(schema: Schema, change: Any) -> Schema:
    result = dict(schema)
    if "properties" in schema:
        result["properties"] = {k: change(v) for k, v in schema["properties"].items()}
    for key in ("items", "additionalProperties"):
        if key in schema:
            result[key] = change(schema[key])
    return result
