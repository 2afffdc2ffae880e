"""Manifests from files, folders and standard input, read as kubectl reads them.

PyYAML's own loader reads 1e-4 as text, 1:30 as a number and the last of two equal keys.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from finetune_api.crds import SERVED_KINDS
from finetune_api.names import API_VERSION

_SUFFIXES = (".yaml", ".yml", ".json")
_KUSTOMIZATION = ("kustomization.yaml", "kustomization.yml")
CONFIG_MAP = ("v1", "ConfigMap")
"""What a spec may refer to and a cluster would hold: a prompt's own template."""
_LARGEST_EXACT = 1e21
"""From here on a number without fraction stays a double, as in kubectl."""


class ManifestError(ValueError):
    """Something cannot be read; `problems` are sentences that begin with file and document."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True)
class Document:
    """One manifest and where it stands."""

    manifest: dict[str, Any]
    origin: str

    @property
    def title(self) -> str:
        """Return `Kind/name`."""
        return f"{self.manifest['kind']}/{self.manifest['metadata']['name']}"

    @property
    def is_config_map(self) -> bool:
        """Tell whether this is no object of ours, but text that one of them refers to."""
        return bool(self.manifest["kind"] == CONFIG_MAP[1])


def read_manifests(paths: Iterable[str | Path]) -> list[Document]:
    """Return all objects of our kinds, and ConfigMaps, in files, folders and `-`.

    Raises `ManifestError` with the problems of all files.
    """
    documents: list[Document] = []
    problems: list[str] = []
    for origin, text in _texts(paths, problems):
        for document in _documents(origin, text, problems):
            problem = _identity_problem(document, documents)
            if problem:
                problems.append(f"{document.origin}: {problem}")
            else:
                documents.append(document)
    if problems:
        raise ManifestError(problems)
    return documents


def read_block(path: Path) -> object:
    """Return the one value in a file, read as manifests are; raises ManifestError."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a safe one
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise ManifestError([f"{path}: {_reading_problem(error)}"]) from error


def _texts(paths: Iterable[str | Path], problems: list[str]) -> Iterator[tuple[str, str]]:
    for path in paths:
        if str(path) == "-":
            yield "standard input", sys.stdin.read()
            continue
        files = _files(Path(path))
        if not files:
            problems.append(f"{path}: no manifest is here; give a file or folder with .yaml files")
        for file in files:
            try:
                yield str(file), file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                problems.append(f"{file}: cannot be read: {error}")


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path] if path.exists() else []
    return sorted(
        file
        for file in path.iterdir()
        if file.suffix in _SUFFIXES and file.name not in _KUSTOMIZATION and file.is_file()
    )


def _documents(origin: str, text: str, problems: list[str]) -> Iterator[Document]:
    try:
        values = list(yaml.load_all(text, Loader=_Loader))
    except (yaml.YAMLError, ValueError) as error:
        problems.append(f"{origin}: {_reading_problem(error)}")
        return
    for number, value in enumerate(values, start=1):
        place = origin if len(values) == 1 else f"{origin}, document {number}"
        items = value["items"] if isinstance(value, dict) and _is_list(value) else [value]
        for item in items:
            if isinstance(item, dict):
                yield Document(item, place)
            elif item is not None:
                problems.append(f"{place}: a manifest is a block of fields; this is not one")


def _is_list(value: dict[str, Any]) -> bool:
    return value.get("kind") == "List" and isinstance(value.get("items"), list)


def _identity_problem(document: Document, earlier: list[Document]) -> str | None:
    manifest = document.manifest
    kind, version, metadata = (manifest.get(key) for key in ("kind", "apiVersion", "metadata"))
    named = isinstance(metadata, dict) and isinstance(metadata.get("name"), str)
    if kind not in SERVED_KINDS and not ((version, kind) == CONFIG_MAP and named):
        kinds = ", ".join(SERVED_KINDS)
        return f"kind {kind} is not read here; use {kinds}, and kubectl for other kinds"
    if version != API_VERSION and kind in SERVED_KINDS:
        return f"apiVersion of {kind} is {version}; use {API_VERSION}"
    if not named:
        return f"metadata.name of {kind} is missing; give the object a name"
    for other in earlier:
        namespaces = (each.manifest["metadata"].get("namespace") for each in (document, other))
        if other.title == document.title and len(set(namespaces)) == 1:
            return f"{document.title} stands in {other.origin} already; rename one"
    return None


def _reading_problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    line = f"line {mark.line + 1}: " if mark else ""
    return f"{line}{getattr(error, 'problem', None) or error}"


class _Loader(yaml.SafeLoader):
    """YAML as kubectl reads it; duplicate keys are refused."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    """Build a mapping with text keys, as JSON has them."""
    seen: set[str] = set()
    for key, _ in node.value:
        if key.value in seen:
            raise yaml.constructor.ConstructorError(
                problem=f"field {key.value} is given twice; remove one",
                problem_mark=key.start_mark,
            )
        if key.tag != "tag:yaml.org,2002:merge":
            seen.add(key.value)
    loader.flatten_mapping(node)
    return {key.value: loader.construct_object(value, deep=True) for key, value in node.value}


def _boolean(_: _Loader, node: yaml.ScalarNode) -> bool:
    return node.value.lower() in ("y", "yes", "true", "on")


def _integer(_: _Loader, node: yaml.ScalarNode) -> int:
    text = node.value.replace("_", "").lower()
    sign, digits = (text[0], text[1:]) if text[0] in "+-" else ("", text)
    if digits.startswith("0") and digits.isdigit():
        return int(f"{sign}0o{digits}", 8)
    return int(f"{sign}{digits}", 0)


def _number(_: _Loader, node: yaml.ScalarNode) -> int | float:
    text = node.value.replace("_", "").lower()
    value = math.nan if text.endswith(("inf", "nan")) else float(text)
    if not math.isfinite(value):
        raise yaml.constructor.ConstructorError(
            problem=f"{node.value} is no number that JSON has; write a finite one",
            problem_mark=node.start_mark,
        )
    return int(value) if value.is_integer() and abs(value) < _LARGEST_EXACT else value


_RESOLVED = {
    "bool": r"y|Y|yes|Yes|YES|n|N|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF",
    "null": r"~|null|Null|NULL|",
    "int": r"[-+]?(?:0|[1-9][0-9_]*|0[0-7_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|0b[01_]+)",
    "float": r"[-+]?(?:[.][0-9]+|[0-9][0-9_]*(?:[.][0-9_]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?[.](?:inf|Inf|INF)|[.](?:nan|NaN|NAN)",
    "merge": r"<<",
}
for _name, _form in _RESOLVED.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"(?:{_form})\Z"), None)
_Loader.add_constructor("tag:yaml.org,2002:bool", _boolean)
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _number)
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
