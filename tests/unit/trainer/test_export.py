"""The verb `export` on a tiny model: what lies in storage afterwards, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_trainer import export, export_gate, export_probe
from finetune_trainer.errors import ConfigurationError, DataError
from finetune_trainer.export_probe import ProbeRequest
from finetune_trainer.merge import MergeFailedError
from finetune_trainer.targets.publication import TargetConflictError
from unit.trainer.export_ground import ExportGround

# PEFT 0.21 still asks transformers 5 by the old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

PROMPT = torch.tensor([[5, 9, 20, 31]])


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FINETUNE_CLAIMS_DIR", str(tmp_path / "claims"))
    monkeypatch.setenv("FINETUNE_SCRATCH_DIR", str(tmp_path / "scratch"))
    return tmp_path


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer in this process what a fresh one would: it takes seconds to start."""
    monkeypatch.setattr(
        export_gate,
        "ask_fresh_process",
        lambda path: export_probe.answer(ProbeRequest(**json.loads(path.read_bytes()))),
    )


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the probe in a fork of this process, which has imported all it needs."""

    def run(command: list[str], **_: object) -> CompletedProcess[bytes]:
        process = os.fork()
        if not process:
            code = 1
            try:
                torch.set_num_threads(1)
                export_probe.answer(ProbeRequest(**json.loads(Path(command[-1]).read_bytes())))
                code = 0
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        return CompletedProcess(command, code, b"", b"")

    monkeypatch.setattr(export_gate, "subprocess", SimpleNamespace(run=run))


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=PROMPT).logits


def names_in(path: Path) -> set[str]:
    with safe_open(path, "pt") as file:
        return set(file.keys())


def test_a_merged_export_computes_what_base_and_adapter_compute(folders: Path):
    ground = ExportGround(folders)
    summary = export.run(ground.config({"maxShardSize": "20Ki"}), ground.reporter())
    merged = AutoModelForCausalLM.from_pretrained(ground.artifact())
    base = AutoModelForCausalLM.from_pretrained(ground.base)
    before = logits(base)
    tuned = PeftModel.from_pretrained(base, folders / "scratch/export/trained-adapter")
    torch.testing.assert_close(logits(merged), logits(tuned), rtol=0, atol=1e-4)
    assert not torch.allclose(logits(merged), before, atol=1e-2)
    assert 0 <= summary.verification.max_logit_difference <= 1e-4
    assert summary.verification.samples == 3
    assert summary.artifact.dtype == "Float32"
    assert (ground.artifact() / "model.safetensors.index.json").exists()
    assert merged.get_input_embeddings().weight.shape[0] == 320


@pytest.mark.usefixtures("one_process")
def test_a_merged_folder_holds_tokenizer_licence_card_and_a_manifest_of_every_file(folders: Path):
    ground = ExportGround(folders)
    spec = {"card": {"license": "mit", "text": "For sums.", "languages": ["en"]}}
    summary = export.run(ground.config(spec), ground.reporter())
    manifest = json.loads((ground.artifact() / "manifest.json").read_bytes())
    listed = {file["name"] for file in manifest["files"]}
    assert listed | {"manifest.json"} == {path.name for path in ground.artifact().iterdir()}
    assert {"README.md", "LICENSE", "tokenizer.json", "config.json"} <= listed
    assert all(file["bytes"] > 0 for file in manifest["files"])
    assert AutoTokenizer.from_pretrained(ground.artifact()).eos_token == "<|end|>"
    assert summary.artifact.files == len(listed)


@pytest.mark.usefixtures("one_process")
def test_tied_embeddings_stay_tied(folders: Path):
    ground = ExportGround(folders, tied=True)
    export.run(ground.config(), ground.reporter())
    assert "lm_head.weight" not in names_in(ground.artifact() / "model.safetensors")
    merged = AutoModelForCausalLM.from_pretrained(ground.artifact())
    assert merged.lm_head.weight is merged.model.embed_tokens.weight


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied head"])
def test_full_fine_tuning_is_exported_with_its_trained_weights(folders: Path, tied: bool):
    ground = ExportGround(folders, method="Model", tied=tied)
    export.run(ground.config(), ground.reporter())
    with safe_open(folders / "trained.safetensors", "pt") as trained:
        norm = trained.get_tensor("model.norm.weight")
    merged = AutoModelForCausalLM.from_pretrained(ground.artifact())
    torch.testing.assert_close(merged.model.norm.weight.detach(), norm, rtol=0, atol=0)


@pytest.mark.usefixtures("one_process")
def test_the_type_of_the_result_is_the_one_asked_for(folders: Path):
    ground = ExportGround(folders)
    spec = {"merge": {"dtype": "BFloat16"}, "verification": {"maxLogitDifference": 1}}
    summary = export.run(ground.config(spec), ground.reporter())
    assert summary.artifact.dtype == "BFloat16"
    merged = AutoModelForCausalLM.from_pretrained(ground.artifact())
    assert merged.dtype == torch.bfloat16
    assert json.loads((ground.artifact() / "config.json").read_bytes())["dtype"] == "bfloat16"


@pytest.mark.usefixtures("forked")
def test_an_adapter_export_holds_the_adapter_and_names_its_base(folders: Path):
    ground = ExportGround(folders)
    export.run(ground.config({"format": "Adapter"}), ground.reporter())
    adapter = ground.artifact()
    assert (
        json.loads((adapter / "adapter_config.json").read_bytes())["base_model_name_or_path"]
        == "pvc://models/base"
    )
    assert names_in(adapter / "adapter_model.safetensors") == names_in(
        folders / "trained.safetensors"
    )
    assert not (adapter / "config.json").exists()


def test_an_adapter_export_of_full_fine_tuning_is_refused_before_anything_is_written(folders: Path):
    ground = ExportGround(folders, method="Model")
    with pytest.raises(ConfigurationError, match=r"spec\.format"):
        export.run(ground.config({"format": "Adapter"}), ground.reporter())
    assert not ground.artifact().exists()


@pytest.mark.usefixtures("one_process")
def test_a_model_that_differs_from_the_trained_one_is_not_published(
    folders: Path, monkeypatch: pytest.MonkeyPatch
):
    ground = ExportGround(folders)
    monkeypatch.setattr(export_gate, "last_logits", lambda _, prompts: [torch.zeros(3, 320)] * 10)
    monkeypatch.setattr(
        export_gate, "_fresh_process", lambda *_: ([torch.full((3, 320), 0.1)] * 10, [])
    )
    spec = {"targets": [{"name": "copy", "volumeClaim": {"claimName": "out"}}]}
    with pytest.raises(export_gate.VerificationFailedError, match="differ"):
        export.run(ground.config(spec), ground.reporter())
    assert not (ground.artifact() / "manifest.json").exists()
    assert not (ground.claims / "out").exists()


@pytest.mark.usefixtures("one_process")
def test_a_shard_damaged_on_the_way_fails_the_gate(folders: Path, monkeypatch: pytest.MonkeyPatch):
    ground = ExportGround(folders)
    verify = export.verify_artifact

    def damaged(config, sources, written, *rest):
        path = ground.artifact() / "model.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        return verify(config, sources, written, *rest)

    monkeypatch.setattr(export, "verify_artifact", damaged)
    with pytest.raises(export_gate.VerificationFailedError, match=r"model\.safetensors"):
        export.run(ground.config(), ground.reporter())


@pytest.mark.usefixtures("one_process")
def test_a_checkpoint_with_another_digest_is_refused(folders: Path):
    ground = ExportGround(folders)
    config = ground.config()
    other = config.checkpoint.model_copy(update={"digest": f"sha256:{'0' * 64}"})
    with pytest.raises(DataError) as raised:
        export.run(config.model_copy(update={"checkpoint": other}), ground.reporter())
    assert raised.value.reason == "DigestMismatch"


@pytest.mark.usefixtures("one_process")
def test_an_adapter_of_another_base_is_refused(folders: Path):
    ground = ExportGround(folders)
    config = json.loads((ground.base / "config.json").read_bytes())
    path = ground.base / "model.safetensors"
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(65, 32)
    save_file(tensors, path)
    assert config["intermediate_size"] == 64
    with pytest.raises(MergeFailedError, match="base it was trained on"):
        export.run(ground.config(), ground.reporter())
    assert not (ground.artifact() / "manifest.json").exists()


@pytest.mark.usefixtures("one_process")
def test_a_later_attempt_takes_over_a_finished_artifact(
    folders: Path, monkeypatch: pytest.MonkeyPatch
):
    ground = ExportGround(folders)
    first = export.run(ground.config(), ground.reporter())
    config = ground.config()
    later = config.model_copy(
        update={"identity": config.identity.model_copy(update={"attempt": 2})}
    )
    monkeypatch.setattr(export, "new_artifact", None)
    second = export.run(later, ground.reporter())
    assert (second.artifact, second.verification) == (first.artifact, first.verification)


@pytest.mark.usefixtures("one_process")
def test_leftovers_of_a_killed_pod_are_written_again(folders: Path):
    ground = ExportGround(folders)
    ground.artifact().mkdir(parents=True)
    (ground.artifact() / "model.safetensors").write_bytes(b"half")
    export.run(ground.config(), ground.reporter())
    assert names_in(ground.artifact() / "model.safetensors")


@pytest.mark.usefixtures("one_process")
def test_a_target_gets_the_same_tree_and_other_content_there_is_a_conflict(folders: Path):
    ground = ExportGround(folders)
    target = {"name": "copy", "volumeClaim": {"claimName": "out", "path": "model"}}
    summary = export.run(ground.config({"targets": [target]}), ground.reporter())
    copied = ground.claims / "out" / "model"
    assert {p.name: p.read_bytes() for p in copied.iterdir()} == {
        p.name: p.read_bytes() for p in ground.artifact().iterdir()
    }
    assert [(one.name, one.state, one.uri) for one in summary.targets] == [
        ("copy", "Pushed", "pvc://out/model")
    ]
    (copied / "README.md").write_text("mine")
    (copied / "manifest.json").unlink()
    with pytest.raises(TargetConflictError, match=r"README\.md"):
        export.run(ground.config({"targets": [target]}), ground.reporter())
    assert (copied / "README.md").read_text() == "mine"


@pytest.mark.usefixtures("forked")
def test_an_artifact_that_plain_transformers_cannot_load_fails_the_gate(
    folders: Path, monkeypatch: pytest.MonkeyPatch
):
    ground = ExportGround(folders)
    monkeypatch.setattr(export_gate, "last_logits", lambda *_: [])
    monkeypatch.setattr("finetune_trainer.export_artifact.model_config", lambda *_: b"{}")
    with pytest.raises(export_gate.VerificationFailedError, match="cannot be loaded"):
        export.run(ground.config(), ground.reporter())
    assert not (ground.artifact() / "manifest.json").exists()
