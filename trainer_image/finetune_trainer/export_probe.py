"""Loads a model folder with plain transformers and says what it computes.

`python -m finetune_trainer.export_probe REQUEST` is the fresh process of an export's gate: it
knows nothing but the written files. The trained model answers through the same function.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from finetune_trainer.merged_model import hold_as_recorded
from finetune_trainer.model_record import recorded_model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

POSITIONS = 16
"""Logits of the last positions of a prompt are compared: a large vocabulary stays small on disk."""


@dataclass(frozen=True)
class ProbeRequest:
    """What the fresh process is asked."""

    model: str
    adapter: str | None
    dtype: str
    prompts: list[list[int]]
    """prompts as token ids, whose logits are compared."""
    samples: list[list[int]]
    """samples are prompts that are answered."""
    max_new_tokens: int
    answers: str
    """answers is the folder for logits.safetensors and samples.json."""
    rows: int = 0
    """rows of the embeddings below an adapter that brings rows of its own; 0 = the base's."""


@dataclass(frozen=True)
class ProbeSample:
    """One generated answer."""

    text: str
    ended: bool


def loaded_model(model: str, adapter: str | None, dtype: str, rows: int = 0) -> Any:
    """Return the model of a folder, with an adapter's folder on top if one is given.

    Embeddings get `rows` rows if they have fewer: trained weights that are put on fill them. A base
    that was quantised below the adapter is quantised here too, as the model.json beside it says.
    """
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - seconds to import

    loaded = AutoModelForCausalLM.from_pretrained(
        model, dtype=getattr(torch, dtype), local_files_only=True, trust_remote_code=False
    )
    if rows > loaded.get_input_embeddings().weight.shape[0]:
        loaded.resize_token_embeddings(rows, mean_resizing=False)
    if adapter is not None:
        from peft import PeftModel  # noqa: PLC0415 - seconds to import

        hold_as_recorded(loaded, recorded_model(Path(adapter)))
        loaded = PeftModel.from_pretrained(loaded, adapter, local_files_only=True)
    return loaded.eval()


@torch.inference_mode()
def last_logits(model: Any, prompts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Return float32[min(T, POSITIONS), V] of each prompt, one prompt at a time."""
    return [
        model(input_ids=torch.tensor([list(prompt)])).logits[0, -POSITIONS:].float().contiguous()
        for prompt in prompts
    ]


@torch.inference_mode()
def sample_answers(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> list[ProbeSample]:
    """Return greedy answers; one has ended when the model stopped by itself."""
    answers = []
    for prompt in prompts:
        ids = torch.tensor([list(prompt)])
        # A neutral pad token: with one prompt nothing is padded, and transformers would warn.
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id or 0,
        )[0, ids.shape[1] :]
        ends = _end_tokens(model.generation_config.eos_token_id)
        ended = bool(len(output)) and int(output[-1]) in ends
        answers.append(ProbeSample(tokenizer.decode(output, skip_special_tokens=True), ended))
    return answers


def read_answers(folder: Path) -> tuple[list[torch.Tensor], list[ProbeSample]]:
    """Return what the fresh process wrote."""
    logits: Mapping[str, torch.Tensor] = load_file(folder / "logits.safetensors")
    samples = json.loads((folder / "samples.json").read_bytes())
    return [logits[str(number)] for number in range(len(logits))], [
        ProbeSample(**sample) for sample in samples
    ]


def answer(request: ProbeRequest) -> None:
    """Load the folder, compute, and write logits and samples."""
    from transformers import AutoTokenizer  # noqa: PLC0415 - seconds to import

    model = loaded_model(request.model, request.adapter, request.dtype, request.rows)
    tokenizer = AutoTokenizer.from_pretrained(
        request.adapter or request.model, local_files_only=True, trust_remote_code=False
    )
    logits = last_logits(model, request.prompts)
    samples = sample_answers(model, tokenizer, request.samples, request.max_new_tokens)
    folder = Path(request.answers)
    save_file(
        {str(number): value for number, value in enumerate(logits)}, folder / "logits.safetensors"
    )
    (folder / "samples.json").write_text(json.dumps([asdict(sample) for sample in samples]))


def _end_tokens(value: int | list[int] | None) -> set[int]:
    if value is None:
        return set()
    return {value} if isinstance(value, int) else set(value)


if __name__ == "__main__":
    answer(ProbeRequest(**json.loads(Path(sys.argv[1]).read_bytes())))
