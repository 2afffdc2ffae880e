"""A checkpoint names the base it was trained on, and is refused on another."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune_trainer.errors import ConfigurationError
from finetune_trainer.model_record import MODEL, ModelRecord, recorded_model, weights_digest
from toy_llama import toy_llama_folder

RECORD = ModelRecord("lab/toy@c0ffee", "sha256:1", "NF4", held="BFloat16", whole=("norm",))


def test_a_record_survives_its_file_and_fits_itself(tmp_path):
    (tmp_path / MODEL).write_bytes(RECORD.as_file())
    assert recorded_model(tmp_path) == RECORD
    RECORD.refuse_another(RECORD.as_file())
    RECORD.refuse_another(None)


@pytest.mark.parametrize(
    "change",
    [{"digest": "sha256:2"}, {"quantization": "FP4"}, {"double": False}, {"held": "Float16"}],
    ids=str,
)
def test_a_checkpoint_of_another_base_or_type_is_refused_by_name(change):
    with pytest.raises(ConfigurationError, match=next(iter(change))) as refused:
        RECORD.refuse_another(replace(RECORD, **change).as_file())
    assert refused.value.reason == "WeightsMismatch"


def test_the_digest_changes_with_any_trained_tensor_and_with_nothing_else(tmp_path):
    folder = toy_llama_folder(tmp_path / "toy")
    path, before = folder / "model.safetensors", weights_digest(folder)
    tensors = load_file(path)
    save_file(tensors, path, metadata={"format": "pt"})
    assert weights_digest(folder) == before
    name = "model.layers.1.mlp.up_proj.weight"
    save_file(tensors | {name: tensors[name] + 1e-3 * torch.rand(48, 32)}, path)
    assert weights_digest(folder) != before
