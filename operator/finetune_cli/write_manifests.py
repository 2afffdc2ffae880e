"""Manifests as YAML that every reader understands alike."""

from __future__ import annotations

import re
from typing import Any

import yaml

_WORDS = (
    "y|yes|n|no|on|off|true|false|null|~|[-+]?[.](?:inf|nan)|<<|=",
    r"[-+]?[.]?\d.*",
)
_AMBIGUOUS = re.compile("|".join(_WORDS), re.IGNORECASE | re.DOTALL)


class _Dumper(yaml.SafeDumper):
    """Quotes text that some YAML version reads as something else."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the signature is PyYAML's
        """Write repeated blocks in full: a manifest has no anchors."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    if "\n" in text:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|")
    quote = '"' if _AMBIGUOUS.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=quote)


_Dumper.add_representer(str, _text)


def manifest_yaml(manifest: dict[str, Any]) -> str:
    """Return a manifest as YAML with its fields in the order given."""
    return yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, width=96, allow_unicode=True)
