"""The gate before an export exists: the written files, loaded afresh, answer as the model did."""

from __future__ import annotations

import gc
import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from finetune_api.model_export import VerificationStatus
from finetune_trainer.errors import ConfigurationError, ResourcesExhaustedError
from finetune_trainer.export_artifact import export_dtype, exports_adapter, torch_dtype
from finetune_trainer.export_probe import (
    ProbeRequest,
    ProbeSample,
    last_logits,
    loaded_model,
    read_answers,
)
from finetune_trainer.merge import SafetensorsFolder, tied_names, trained_weights
from finetune_trainer.merged_model import tied_weights
from finetune_trainer.model_record import MODEL, recorded_model
from finetune_trainer.store import DamagedError, FileEntry, Manifest, Store, download_verified

if TYPE_CHECKING:
    from finetune_api.run_config import ExportJobConfig
    from finetune_trainer.export_sources import ExportSources

log = logging.getLogger("finetune_trainer")

KILLED = -9
FLOAT32_TOLERANCE, SIXTEEN_BIT_TOLERANCE = 1e-4, 0.15


class VerificationFailedError(ConfigurationError):
    """The written artifact does not load, or does not compute what the trained model does."""

    reason = "VerificationFailed"


@dataclass(frozen=True)
class Questions:
    """What trained model and artifact are both asked, as token ids."""

    prompts: Sequence[Sequence[int]]
    samples: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Written:
    """An artifact whose manifest is not written yet."""

    store: Store
    files: list[FileEntry]


def tolerance(config: ExportJobConfig) -> float:
    """Return the largest logit difference that is accepted."""
    if config.spec.verification.max_logit_difference is not None:
        return config.spec.verification.max_logit_difference
    exact = {export_dtype(config), config.plan.compute_dtype} == {"Float32"}
    return FLOAT32_TOLERANCE if exact else SIXTEEN_BIT_TOLERANCE


def verify_artifact(
    config: ExportJobConfig,
    sources: ExportSources,
    written: Written,
    questions: Questions,
    scratch: Path,
) -> tuple[VerificationStatus, list[ProbeSample]]:
    """Compare the artifact with the trained model; raise VerificationFailedError if it differs."""
    folder = scratch / "artifact"
    try:
        download_verified(written.store, Manifest("export/v1", tuple(written.files)), folder)
    except DamagedError as error:
        raise VerificationFailedError(f"{error.message}; nothing was published") from error
    expected = last_logits(_trained_model(config, sources, scratch), questions.prompts)
    # PEFT's modules refer to each other: without this two models would be in memory at once.
    gc.collect()
    found, samples = _fresh_process(config, sources, folder, questions)
    largest, mean = _differences(expected, found)
    if not largest <= tolerance(config):
        raise VerificationFailedError(
            f"the written artifact's logits differ from the trained model's by {largest:.3g}, "
            f"tolerated are {tolerance(config):.3g}; nothing was published"
        )
    return VerificationStatus(
        max_logit_difference=largest,
        mean_logit_difference=mean,
        samples=len(samples),
        ended=sum(sample.ended for sample in samples),
    ), samples


def _trained_model(config: ExportJobConfig, sources: ExportSources, scratch: Path) -> object:
    """Return the model as training saw it: base and adapter, or base with the trained tensors."""
    dtype = str(torch_dtype(config.plan.compute_dtype)).removeprefix("torch.")
    rows = recorded_model(sources.checkpoint).vocabulary
    if config.checkpoint_kind == "Adapter":
        return loaded_model(str(sources.base), str(_peft_folder(sources, scratch)), dtype, rows)
    model = loaded_model(str(sources.base), None, dtype, rows)
    missing = model.load_state_dict(trained_weights(sources.checkpoint).tensors, strict=False)
    if missing.unexpected_keys:
        raise VerificationFailedError(
            f"{missing.unexpected_keys[0]} was trained, but the model has no such tensor"
        )
    model.tie_weights()
    return model


def _peft_folder(sources: ExportSources, scratch: Path) -> Path:
    """Return the checkpoint's adapter under the names that PEFT looks for."""
    folder = scratch / "trained-adapter"
    folder.mkdir(parents=True, exist_ok=True)
    trained = SafetensorsFolder(sources.checkpoint)
    tensors = dict(trained.items())
    for name, source in tied_names(trained, tied_weights(sources.base)).items():
        tensors[name] = trained[source].clone()
    save_file(tensors, folder / "adapter_model.safetensors")
    for name in ("adapter_config.json", MODEL):
        if (sources.checkpoint / name).exists():
            (folder / name).write_bytes((sources.checkpoint / name).read_bytes())
    return folder


def _fresh_process(
    config: ExportJobConfig, sources: ExportSources, folder: Path, questions: Questions
) -> tuple[list[torch.Tensor], list[ProbeSample]]:
    adapter = exports_adapter(config)
    dtype = config.plan.compute_dtype if adapter else export_dtype(config)
    request = ProbeRequest(
        model=str(sources.base if adapter else folder),
        adapter=str(folder) if adapter else None,
        dtype=str(torch_dtype(dtype)).removeprefix("torch."),
        prompts=[list(prompt) for prompt in questions.prompts],
        samples=[list(prompt) for prompt in questions.samples],
        max_new_tokens=config.spec.verification.max_new_tokens,
        answers=str(folder.parent),
        rows=recorded_model(sources.checkpoint).vocabulary,
    )
    path = folder.parent / "request.json"
    path.write_text(json.dumps(asdict(request)))
    ask_fresh_process(path)
    return read_answers(folder.parent)


def ask_fresh_process(request: Path) -> None:
    """Have another interpreter answer a request; raise when it is killed or cannot load."""
    ended = subprocess.run(  # noqa: S603 - our own module, no user text on the command line
        [sys.executable, "-m", "finetune_trainer.export_probe", str(request)],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=False,
    )
    if ended.returncode == KILLED:
        raise ResourcesExhaustedError(
            "the process that loads the artifact was killed; raise compute.resources memory",
            reason="OutOfHostMemory",
        )
    if ended.returncode != 0:
        log.error("%s", ended.stderr.decode(errors="replace"))
        raise VerificationFailedError(
            "the written artifact cannot be loaded by plain transformers; see the pod's log"
        )


def _differences(
    expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]
) -> tuple[float, float]:
    """Return the largest and the mean absolute difference; infinite for another shape."""
    pairs = list(zip(expected, found, strict=True))
    if any(one.shape != other.shape for one, other in pairs):
        return float("inf"), float("inf")
    gaps = torch.cat([(one - other).abs().flatten() for one, other in pairs])
    return gaps.max().item(), gaps.mean().item()
