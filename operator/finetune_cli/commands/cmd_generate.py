"""`finetune generate`: write every generated file of the repository."""

from __future__ import annotations

from pathlib import Path

from finetune_api.crds import crds
from finetune_api.names import PLURALS
from finetune_cli.chart_files import chart_files
from finetune_cli.dashboard_files import dashboard_files
from finetune_cli.reference_pages import reference_files
from finetune_cli.write_manifests import manifest_yaml


def generated_files() -> dict[str, str]:
    """Return the text of each generated file by its path below the repository."""
    definitions = {f"crds/{PLURALS[kind]}.yaml": manifest_yaml(crd) for kind, crd in crds().items()}
    return {**definitions, **chart_files(), **dashboard_files(), **reference_files()}


def generate(target_dir: Path) -> list[Path]:
    """Write the generated files that differ below `target_dir`; return their paths."""
    changed = []
    for name, text in generated_files().items():
        path = target_dir / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed
