"""The renderer and tokenizer of a run, checked against the roles that its data uses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api import names
from finetune_trainer.encode import Encoder
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.prepared_samples import CHUNK, batch_of
from finetune_trainer.record import TEXT
from finetune_trainer.supervision import Supervision
from finetune_trainer.template_choice import chosen_template

if TYPE_CHECKING:
    from finetune_api.finetune_experiment import ExperimentSpec
    from finetune_api.text_settings import Prompt
    from finetune_trainer.snapshot import Snapshot
    from finetune_trainer.text_tokenizer import TextTokenizer


def run_encoder(spec: ExperimentSpec, tokenizer: TextTokenizer, snapshot: Snapshot) -> Encoder:
    """Return the encoder of a run; raise TemplateUnsuitableError for roles it would drop."""
    prompt, documents = spec.prompt, snapshot.record_type == TEXT
    own = None if documents else tokenizer.chat_template
    template = chosen_template(prompt, own, tokenizer.special, _custom_template(prompt))
    roles = _roles(snapshot)
    if roles and prompt.system:
        roles.add("system")
    template.check_roles(sorted(roles))
    augmented = spec.augmentation
    return Encoder(
        tokenizer,
        template,
        supervision=Supervision.of(prompt),
        with_turns=augmented is not None
        and augmented.skip_parent_probability + augmented.random_parent_probability > 0,
    )


def _custom_template(prompt: Prompt) -> str | None:
    if prompt.template_ref is None:
        return None
    path = Path(os.environ.get(names.TEMPLATE_ENV, f"{names.TEMPLATE_DIR}/{names.TEMPLATE_KEY}"))
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"spec.prompt.templateRef: its template cannot be read ({type(error).__name__}); give "
            "the ConfigMap this key with UTF-8 text",
            reason="TemplateUnsuitable",
        ) from error


def _roles(snapshot: Snapshot) -> set[str]:
    """Return the roles that occur in the data; none in documents."""
    roles: set[str] = set()
    for rows in snapshot.splits.values():
        for start in range(0, len(rows), CHUNK):
            batch = batch_of(rows, start, start + CHUNK)
            roles |= {turn["role"] for turns in batch.turns for turn in turns or ()}
            if any(batch.systems):
                roles.add("system")
    return roles
