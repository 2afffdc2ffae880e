"""A run starts from a base with the checkpoints of other experiments put onto it."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from finetune_api import names
from finetune_api.experiment_start import Start
from finetune_api.finetune_experiment import ExperimentSpec
from finetune_api.model_settings import Adapter, AdapterType
from finetune_trainer.adapter import Trained, trainable_model
from finetune_trainer.continued_adapter import continue_adapter
from finetune_trainer.errors import AccessError, ConfigurationError, DataError
from finetune_trainer.path_store import PathStore
from finetune_trainer.start_weights import refuse_unfit_start, starting_model
from finetune_trainer.store import write_manifest
from finetune_trainer.vocabulary import NewRow
from toy_llama import VOCABULARY
from unit.trainer.trained_toy import NEW, trained_toy

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
TOKENS = torch.arange(2, 20)[None]
CLAIM = {"claimName": "results"}


class Family:
    """A base in a claim and the experiments that were trained on it, one upon the other."""

    def __init__(self, folder, monkeypatch) -> None:
        monkeypatch.setenv(names.CLAIMS_DIR_ENV, str(folder / "claims"))
        self.folder, self.ancestors = folder, []
        (folder / "claims" / "models").mkdir(parents=True)
        self.base = folder / "claims" / "models" / "toy"

    def train(self, *, handover="Continue", **settings):
        """Add an experiment trained on the base; return its model."""
        number = len(self.ancestors)
        work = self.folder / f"work-{number}"
        work.mkdir()
        if self.base.exists():
            (work / "base").symlink_to(self.base)
        model, base, checkpoint = trained_toy(work, **{"tied": False} | settings)
        if not self.base.exists():
            base.rename(self.base)
        uri = f"pvc://results//experiments/{number}/step-7"
        place = self.folder / "claims" / "results" / "experiments" / str(number) / "step-7"
        store = PathStore(place, uri)
        entries = [store.write(path.name, path.read_bytes()) for path in checkpoint.iterdir()]
        entries.append(store.write("optimizer-00000-of-00001.safetensors", b"moments"))
        digest = write_manifest(store, "checkpoint/v1", entries)
        kind = "Model" if settings.get("type") is AdapterType.NONE else "Adapter"
        self.ancestors.append(
            {"experiment": f"parent-{number}", "uid": "u", "step": 7, "uri": uri, "digest": digest}
            | {"kind": kind, "handover": handover, "location": {"volumeClaim": CLAIM}}
        )
        return model

    def start(self) -> Start:
        base = {"volumeClaim": {"claimName": "models", "path": "toy"}}
        content = {"base": base, "ancestors": self.ancestors}
        return Start.model_validate_json(json.dumps(content))

    def begun(self, **blocks):
        return starting_model(self.start(), spec(**blocks), None, self.folder / "scratch")


def spec(**blocks) -> ExperimentSpec:
    value = {"model": {"fromExperiment": {"name": "parent"}}, "dataset": {"name": "data"}}
    value |= {"adapter": {"rank": 4, "alpha": 8.0}} | blocks
    return ExperimentSpec.model_validate_json(json.dumps(value))


@pytest.fixture
def family(tmp_path, monkeypatch):
    return Family(tmp_path, monkeypatch)


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=TOKENS).logits


def loaded(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize("kind", ["None", "NF4"])
def test_a_merged_adapter_is_part_of_the_base_in_32_bit(family, kind):
    parent = family.train(handover="Merge", kind=kind)
    begun = family.begun()
    assert begun.adapter is None
    torch.testing.assert_close(logits(loaded(begun.model)), logits(parent), rtol=1e-4, atol=1e-4)
    fresh = trainable_model(loaded(begun.model), Trained(Adapter(), rank=4, seed=1))
    torch.testing.assert_close(logits(fresh), logits(parent), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_rows_of_new_tokens_are_merged_and_grow_again(family, tied):
    parent = family.train(handover="Merge", rows=NEW, tied=tied)
    begun = family.begun()
    known = torch.cat((TOKENS, torch.tensor([[one.id for one in NEW]])), dim=1)
    with torch.no_grad():
        expected = parent(input_ids=known).logits
        assert torch.allclose(loaded(begun.model)(known).logits, expected, rtol=1e-4, atol=1e-4)
        own = [NewRow(VOCABULARY + len(NEW), [3])]
        child = trainable_model(loaded(begun.model), Trained(Adapter(), rank=4, rows=own))
        found = child.eval()(known).logits
    assert found.shape[-1] == VOCABULARY + len(NEW) + 1
    assert torch.allclose(found[..., :-1], expected, rtol=1e-4, atol=1e-4)


def test_a_fully_trained_parent_replaces_the_weights(family):
    parent = family.train(type=AdapterType.NONE)
    begun = family.begun()
    assert torch.equal(logits(loaded(begun.model)), logits(parent))


@pytest.mark.parametrize("method", [AdapterType.LORA, AdapterType.DORA])
def test_a_continued_adapter_is_this_runs_adapter(family, method):
    parent = family.train(type=method)
    begun = family.begun()
    assert begun.model == family.base
    settings = Trained(Adapter(type=method), rank=4, alpha=8.0, seed=2)
    model = trainable_model(loaded(begun.model), settings)
    assert continue_adapter(model, begun.adapter, strict=True).differing == []
    assert torch.equal(logits(model), logits(parent))
    assert not (begun.adapter / "optimizer-00000-of-00001.safetensors").exists()


def test_generations_are_put_on_top_of_each_other(family):
    family.train(handover="Merge", target_modules=["q_proj"])
    family.train(handover="Merge", target_modules=["up_proj"])
    last = family.train(target_modules=["down_proj"])
    begun = family.begun()
    merged, base = loaded(begun.model).state_dict(), loaded(family.base).state_dict()
    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    assert {name.split(".")[-2] for name in changed} == {"q_proj", "up_proj"}
    assert len(changed) == 4
    settings = Adapter(target_modules=["down_proj"])
    model = trainable_model(loaded(begun.model), Trained(settings, rank=4, alpha=8.0))
    continue_adapter(model, begun.adapter, strict=True)
    assert not torch.equal(logits(model), logits(last))
    scratch = family.folder / "scratch"
    assert sorted(path.name for path in scratch.iterdir()) == ["ancestor-2", "merged-1"]


def test_evaluation_merges_what_training_would_continue(family):
    parent = family.train()
    begun = family.begun(mode="Evaluate", adapter={})
    assert begun.adapter is None
    torch.testing.assert_close(logits(loaded(begun.model)), logits(parent), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("adapter", "part"),
    [
        pytest.param({"rank": 8, "alpha": 8.0}, "rank is 8, was 4", id="rank"),
        pytest.param({"rank": 4}, "", id="alpha by default"),
        pytest.param({"rank": 4, "alpha": 9.0}, "alpha is 9.0, was 8.0", id="alpha"),
        pytest.param(
            {"type": "DoRA", "rank": 4, "alpha": 8.0}, "type is DoRA, was LoRA", id="type"
        ),
        pytest.param({"rank": 4, "alpha": 8.0, "rslora": True}, "rslora is True", id="scale"),
        pytest.param({"type": "None"}, "type is None, was LoRA", id="full training"),
    ],
)
def test_an_adapter_of_other_settings_is_not_continued(family, adapter, part):
    family.train()
    if not part:
        refuse_unfit_start(family.start(), spec(adapter=adapter))
        return
    with pytest.raises(ConfigurationError, match=part) as refused:
        refuse_unfit_start(family.start(), spec(adapter=adapter))
    assert refused.value.reason == "AdapterMismatch"
    family.ancestors[-1]["handover"] = "Merge"
    merging = {"fromExperiment": {"name": "parent"}, "adapterHandover": "Merge"}
    refuse_unfit_start(family.start(), spec(adapter=adapter, model=merging))


def test_merging_where_there_is_no_adapter_is_a_dead_setting(family):
    family.train(type=AdapterType.NONE, handover="Merge")
    merging = {"fromExperiment": {"name": "parent"}, "adapterHandover": "Merge"}
    with pytest.raises(ConfigurationError, match="adapterHandover") as refused:
        refuse_unfit_start(family.start(), spec(model=merging))
    assert refused.value.reason == "DeadSetting"


def test_other_targets_are_refused_and_listed_where_weights_need_not_match(family):
    family.train(target_modules=["q_proj", "v_proj"])
    begun = family.begun()
    settings = Adapter(target_modules=["q_proj", "o_proj"])
    model = trainable_model(loaded(begun.model), Trained(settings, rank=4, alpha=8.0))
    with pytest.raises(ConfigurationError, match="8 tensors differ") as refused:
        continue_adapter(model, begun.adapter, strict=True)
    assert refused.value.reason == "AdapterMismatch"
    differing = continue_adapter(model, begun.adapter, strict=False).differing
    assert sum("o_proj" in one and one.endswith("is new") for one in differing) == 4
    assert sum("v_proj" in one and one.endswith("is not trained here") for one in differing) == 4
    ups = {n: p for n, p in model.named_parameters() if "lora_B" in n}
    assert all(bool(one.any()) == ("q_proj" in name) for name, one in ups.items())


def test_a_checkpoint_that_is_gone_or_another_one_is_refused(family):
    family.train()
    family.ancestors[0]["digest"] = "sha256:" + "0" * 64
    with pytest.raises(DataError, match="its manifest is") as refused:
        family.begun()
    assert refused.value.reason == "DigestMismatch"
    family.ancestors[0]["uri"] = "pvc://results//experiments/9/step-1"
    with pytest.raises(AccessError, match="is gone") as gone:
        family.begun()
    assert gone.value.reason == "CheckpointNotFound"
