"""What the exported model is compared with: the base below the trained rows, as training had it."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from finetune_trainer.export_probe import loaded_model
from unit.trainer.export_ground import ExportGround


# PEFT itself asks for the old name.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
def test_an_adapter_that_trained_new_tokens_finds_rows_for_them(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_CLAIMS_DIR", str(tmp_path / "claims"))
    ground = ExportGround(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(ground.base)
    rows = base.get_input_embeddings().weight.shape[0]
    base.resize_token_embeddings(rows + 2, mean_resizing=False)
    settings = LoraConfig(
        r=2,
        target_modules=["q_proj"],
        trainable_token_indices={"embed_tokens": [rows, rows + 1], "lm_head": [rows, rows + 1]},
    )
    trained = get_peft_model(base, settings).eval()
    with torch.no_grad():
        for name, one in trained.named_parameters():
            if "delta" in name:
                one.add_(torch.arange(one.numel()).view_as(one) / one.numel())
    trained.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    found = loaded_model(str(ground.base), str(tmp_path / "adapter"), "float32", rows + 2)
    prompt = torch.tensor([[1, rows, 5, rows + 1]])
    with torch.inference_mode():
        expected, logits = trained(input_ids=prompt).logits, found(input_ids=prompt).logits
    assert logits.shape[-1] == rows + 2
    torch.testing.assert_close(logits, expected)
