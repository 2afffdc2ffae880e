"""Deterministic runs use operations that repeat, and are refused where there is none."""

from __future__ import annotations

import os

import pytest
import torch

from finetune_trainer.determinism import refused_operation, repeat_exactly


@pytest.fixture
def restored(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    yield
    torch.use_deterministic_algorithms(mode=False)


@pytest.mark.usefixtures("restored")
def test_torch_is_told_to_repeat_itself():
    repeat_exactly()
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.usefixtures("restored")
def test_an_operation_without_a_deterministic_form_is_refused_by_the_field():
    repeat_exactly()
    with pytest.raises(RuntimeError) as failed:
        torch.nn.functional.max_unpool2d(
            torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1, dtype=torch.int64), 2
        )
    refused = refused_operation(failed.value)
    assert refused is not None
    assert refused.message.startswith("spec.training.deterministic: max_unpooling2d")
    assert refused.exit_code == 10


def test_other_errors_stay_what_they_are():
    assert refused_operation(RuntimeError("size mismatch")) is None
    assert refused_operation(ValueError("does not have a deterministic implementation")) is None
