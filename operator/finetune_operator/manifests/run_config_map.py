"""The ConfigMap with a job's configuration: immutable, one per Job, same name."""

from __future__ import annotations

from finetune_api.meta import ConfigModel
from finetune_api.names import CONFIG_KEY
from finetune_operator.manifests.owned import Owner, owned
from finetune_operator.observed import Manifest


def run_config_map(of: Owner, name: str, config: ConfigModel) -> Manifest:
    """Return the ConfigMap that hands `config` to the Job of the same name."""
    text = config.model_dump_json(by_alias=True, exclude_none=True)
    content = {"immutable": True, "data": {CONFIG_KEY: text}}
    return owned(of, api_version="v1", kind="ConfigMap", name=name) | content
