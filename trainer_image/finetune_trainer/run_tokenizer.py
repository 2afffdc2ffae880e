"""The tokenizer of a run: the model's or another one, loaded with options, grown, and kept."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_trainer.artifact_files import tokenizer_files
from finetune_trainer.base_model import hub_tokenizer_folder
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.inherited_tokens import InheritedTokens
from finetune_trainer.new_tokens import NewToken, grown, rows_needed, with_tokens
from finetune_trainer.template_choice import json_or_text
from finetune_trainer.text_tokenizer import TextTokenizer, text_tokenizer

if TYPE_CHECKING:
    from finetune_api.finetune_experiment import ExperimentSpec

REFUSED = (
    *("*_file", "*_path", "*_dir", "*_name_or_path", "trust_*", "code_*", "*token_id*"),
    *("token", "use_auth_token", "revision", "subfolder", "config", "proxies", "chat_template"),
    *("force_download", "resume_download", "local_files_only", "tokenizer_type", "from_slow"),
    *("_*", "backend", "tokenizer_object", "gguf_file", "auto_map", "name_or_path"),
)
"""Options that could load code, reach other places, or have a field of their own."""

NOTHING_INHERITED = InheritedTokens()


@dataclass(frozen=True)
class RunTokenizer:
    """A tokenizer, the folder of its files, and the tokens that the run adds."""

    tokenizer: TextTokenizer
    folder: Path
    new: list[NewToken] = field(default_factory=list)
    """new tokens get a row each; those of merged ancestors have theirs."""
    inherited: InheritedTokens = field(default_factory=InheritedTokens)

    def vocabulary(self, rows: int | None) -> int | None:
        """Return the rows of the model once it has grown; `rows` are those of the base."""
        return rows_needed((*self.inherited, *self.new), rows)

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Yield the files of the tokenizer as the run uses it, its own template included."""
        found = dict(tokenizer_files(self.folder, None))
        settings = json.loads(found.get("tokenizer_config.json", b"{}"))
        if not settings.get("eos_token") and self.tokenizer.special.end:
            # An end token that only the model's configuration names must not get lost.
            settings["eos_token"] = self.tokenizer.special.end
        found["tokenizer_config.json"] = json.dumps(settings, ensure_ascii=False).encode()
        found["tokenizer.json"] = self.tokenizer.backend.to_str().encode()
        yield from sorted(found.items())


def run_tokenizer(
    spec: ExperimentSpec,
    model: Path,
    scratch: Path,
    inherited: InheritedTokens = NOTHING_INHERITED,
) -> RunTokenizer:
    """Return the tokenizer of a run; `model` is the folder of the base model.

    Raises ConfigurationError (InvalidSpec, DeadSetting, UnsupportedModel) and AccessError.
    """
    wanted = spec.tokenizer
    folder = model
    if wanted.name is not None:
        folder = hub_tokenizer_folder(wanted.name, wanted.revision, spec.hub)
    if wanted.options:
        folder = _loaded_with_options(folder, wanted.options, scratch)
    own = with_tokens(text_tokenizer(folder), [(one.token, one.special) for one in inherited])
    moved = [one.token for one in inherited if own.backend.token_to_id(one.token) != one.id]
    if moved:
        raise ConfigurationError(
            f"spec.model.fromExperiment: its tokens {', '.join(moved)} get other ids in this "
            "tokenizer; use the tokenizer of that experiment",
            reason="WeightsMismatch",
        )
    tokenizer, new = grown(own, spec)
    return RunTokenizer(tokenizer, folder, [*inherited.continued, *new], inherited)


def _loaded_with_options(folder: Path, options: dict[str, str], scratch: Path) -> Path:
    """Return a folder of the tokenizer as the library loads it with the options.

    An option that changes neither ids nor special tokens is refused: it would be without effect.
    """
    refused = [name for name in options if any(fnmatch(name, one) for one in REFUSED)]
    if refused:
        raise ConfigurationError(
            f"spec.tokenizer.options: {', '.join(sorted(refused))} cannot be set here: it could "
            "load code or files, or has a field of its own; remove it",
            reason="InvalidSpec",
        )
    values = {name: json_or_text(text) for name, text in options.items()}
    whole = _saved(folder, values, scratch)
    for name in values:
        others = {other: values[other] for other in values if other != name}
        if _same(text_tokenizer(_saved(folder, others, scratch)), text_tokenizer(whole)):
            raise ConfigurationError(
                f"spec.tokenizer.options: {name} changes nothing in this tokenizer; remove it",
                reason="DeadSetting",
            )
    return whole


def _saved(folder: Path, options: dict[str, Any], scratch: Path) -> Path:
    # Importing the library takes seconds; only runs with options pay for it.
    from transformers import AutoTokenizer  # noqa: PLC0415

    target = Path(tempfile.mkdtemp(prefix="tokenizer-", dir=scratch))
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **options
        )
        tokenizer.save_pretrained(target)
        if (folder / "config.json").exists():
            shutil.copy(folder / "config.json", target)
    except Exception as error:  # options reach deep into the library, which raises anything
        raise ConfigurationError(
            f"spec.tokenizer.options: the tokenizer cannot be loaded with them "
            f"({type(error).__name__}: {str(error)[:160]}); correct them",
            reason="InvalidSpec",
        ) from error
    return target


def _same(one: TextTokenizer, other: TextTokenizer) -> bool:
    return one.special == other.special and one.backend.to_str() == other.backend.to_str()
