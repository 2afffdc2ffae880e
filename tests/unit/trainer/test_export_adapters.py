"""Exports of what an adapter run may train: quantised bases, magnitudes, modules, new rows."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from finetune_api import names
from finetune_api.model_settings import AdapterType
from finetune_trainer import export, export_gate, export_probe
from finetune_trainer.export_probe import ProbeRequest, loaded_model
from unit.trainer.export_ground import ExportGround
from unit.trainer.trained_toy import NEW, trained_toy

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings=True.:UserWarning"),
]
PROMPT = torch.arange(2, 20)[None]


class Ground(ExportGround):
    """An export of a checkpoint that `settings` describe, on the toy base of the adapter tests."""

    def __init__(self, folder, *, tied, **settings) -> None:
        self._settings = settings
        super().__init__(folder, tied=tied)

    def _trained(self):
        work = self.folder / "work"
        work.mkdir()
        (work / "base").symlink_to(self.base)
        self.trained, _, checkpoint = trained_toy(work, tied=False, **self._settings)
        return {path.name: path.read_bytes() for path in checkpoint.iterdir()}


@pytest.fixture
def here(monkeypatch, tmp_path):
    """Answer the gate's fresh process in this one: transformers and PEFT are loaded already."""
    monkeypatch.setenv(names.CLAIMS_DIR_ENV, str(tmp_path / "claims"))
    monkeypatch.setenv(names.SCRATCH_DIR_ENV, str(tmp_path / "scratch"))
    monkeypatch.setattr(
        export_gate,
        "ask_fresh_process",
        lambda path: export_probe.answer(ProbeRequest(**json.loads(path.read_bytes()))),
    )


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("form", ["Merged", "Adapter"])
@pytest.mark.parametrize(
    ("settings", "tied"),
    [
        pytest.param({"kind": "NF4"}, False, id="NF4"),
        pytest.param({"type": AdapterType.DORA}, False, id="DoRA"),
        pytest.param({"modules_to_save": ["lm_head"]}, True, id="a tied head in full"),
        pytest.param({"rows": NEW}, True, id="new rows, tied"),
        pytest.param({"rows": NEW, "kind": "NF4"}, False, id="new rows on NF4"),
    ],
)
def test_an_export_passes_its_gate_and_computes_what_was_trained(tmp_path, settings, tied, form):
    ground = Ground(tmp_path, tied=tied, **settings)
    config = ground.config({"format": form, "verification": {"maxNewTokens": 2}})
    export.run(config, ground.reporter())
    artifact = ground.artifact()
    with torch.no_grad():
        expected = ground.trained(input_ids=PROMPT).logits
        if form == "Merged":
            found = AutoModelForCausalLM.from_pretrained(artifact, dtype=torch.float32)
        else:
            rows = ground.trained.config.vocab_size
            found = loaded_model(str(ground.base), str(artifact), "float32", rows)
        logits = found.eval()(input_ids=PROMPT).logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
