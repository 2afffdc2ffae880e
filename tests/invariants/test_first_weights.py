"""A sharded model begins as a loaded one, though one rank reads and no host holds the model."""

from __future__ import annotations

import gc
import json
import shutil

import peft  # noqa: F401 - loaded once, then inherited by every forked rank
import pytest
import torch

from finetune_api.run_config import TrainingConfig
from finetune_api.run_outcome import TrainingSummary
from finetune_trainer import engine_deepspeed, engine_fsdp
from finetune_trainer.assembled_model import assembled_engine
from finetune_trainer.checkpoint import TRAINABLE
from finetune_trainer.data import micro_batch
from finetune_trainer.distributed import World
from finetune_trainer.rank_folder import RankFolder
from finetune_trainer.run_record import RunRecord
from finetune_trainer.run_report import ReportFacts, report_files
from one_rank import FULL
from strategy_ground import CACHE, leave_pieces, ranks, read_pieces, together
from tiny_models import tiny_model
from toy_llama import VOCABULARY, toy_llama_folder
from training_ground import TrainingGround

pytestmark = pytest.mark.filterwarnings("ignore")
sweep = pytest.mark.sweep

NF4 = {"plan": {"quantization": "NF4"}}
DORA = {"adapter": {"type": "DoRA"}}
TOKENS = [{"id": VOCABULARY + n, "token": f"<{n}>", "pieces": [4 + n, 7]} for n in range(2)]
BFLOAT16 = {"plan": {"computeDtype": "BFloat16"}}


@pytest.fixture(autouse=True)
def _deepspeed_on_cpu(monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")


def begun(ground, world, strategy, *, files=None, parent=None, **blocks):
    """Return what a rank trains; only rank 0 finds weights beside the configuration."""
    folder = ground.folder / f"rank-{world.rank}-{strategy}"
    inputs = RankFolder(folder)
    folder.mkdir()
    files = files or ground.model
    if world.rank:
        files = shutil.copytree(files, folder / "m", ignore=lambda *_: ["model.safetensors"])
    (folder / "prepared").mkdir()
    if (ground.folder / "new_tokens.json").exists():
        shutil.copy(ground.folder / "new_tokens.json", folder / "prepared")
    inputs.set_inputs(model=files, prepared=folder / "prepared", adapter=parent)
    blocks["plan"] = {"strategy": strategy, "totalSteps": 2} | blocks.get("plan", {})
    values = ground.config(ranks=world.size, **blocks)
    config = TrainingConfig.model_validate_json(json.dumps(values))
    return assembled_engine(config, inputs, world, lambda: None)


def start(ground, strategy, size, **blocks):
    """Return trained tensors and the loss of one micro-batch, before any step."""
    folder = ground.folder / f"left-{strategy}"
    folder.mkdir()

    def work(world):
        engine = begun(ground, world, strategy, **blocks).engine
        loss = engine.loss_sum(micro_batch(CACHE, range(4), 1.0), last=True)
        engine.backward(loss)
        engine.discard()
        leave_pieces(folder, engine)
        (folder / f"loss-{world.rank}").write_text(str(float(loss.detach())))

    ranks(folder, size, work)
    losses = [float((folder / f"loss-{rank}").read_text()) for rank in range(size)]
    return together(read_pieces(folder)), losses


CASES = {
    "full": FULL,
    "LoRA": {},
    "DoRA": DORA,
    "DoRA held in bfloat16": DORA | BFLOAT16,
    "frozen embeddings": FULL | {"training": {"freeze": ["embeddings"]}},
    "a head trained beside": {"adapter": {"modulesToSave": ["lm_head"]}},
    "NF4": NF4,
    "NF4 without double quantisation": NF4 | {"model": {"doubleQuantization": False}},
    "NF4 under DoRA": NF4 | DORA,
    "drawn": FULL | {"model": {"initialWeights": "Random"}},
}
OFTEN = ("full", "DoRA", "a head trained beside", "NF4", "NF4 under DoRA", "drawn")


@pytest.mark.parametrize(
    ("strategy", "size", "blocks"),
    [
        pytest.param(*how, blocks, id=f"{how[0]}, {name}", marks=() if often else sweep)
        for name, blocks in CASES.items()
        for how in (("FSDP", 3), ("ZeRO3", 2), ("ZeRO2", 2))
        if how[0] == "FSDP" or "NF4" not in name
        for often in [name in OFTEN and (how[0] == "FSDP" or (how[0], name) == ("ZeRO3", "DoRA"))]
    ],
)
@pytest.mark.parametrize("tied", [False, pytest.param(True, marks=sweep)], ids=["", "tied"])
def test_shards_begin_as_the_loaded_model_does(tmp_path, strategy, size, blocks, tied):
    ground = TrainingGround(tmp_path, tied=tied)
    expected, [loss] = start(ground, "SingleProcess", 1, **blocks)
    found, losses = start(ground, strategy, size, **blocks)
    assert same_weights(expected, found)
    assert losses == pytest.approx([loss] * size, rel=2e-2 if "plan" in blocks else 1e-5)


def same_weights(expected, found):
    trained = {name for name in expected if not name.endswith(("exp_avg", "exp_avg_sq", "step"))}
    assert trained
    return all(torch.equal(expected[name], found[name]) for name in trained)


@pytest.mark.parametrize("strategy", ["FSDP", "ZeRO3", pytest.param("ZeRO2", marks=sweep)])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_rows_of_new_tokens_begin_alike(tmp_path, strategy, tied):
    ground = TrainingGround(tmp_path, tied=tied)
    content = {"version": 1, "vocabulary": VOCABULARY + 2, "tokens": TOKENS}
    (tmp_path / "new_tokens.json").write_text(json.dumps(content))
    expected, [loss] = start(ground, "SingleProcess", 1)
    found, losses = start(ground, strategy, 2)
    assert any("trainable_tokens" in name for name in expected)
    assert same_weights(expected, found)
    assert losses == pytest.approx([loss] * 2, rel=1e-5)


def test_an_adapter_of_another_experiment_is_trained_further_on_shards(tmp_path):
    ground = TrainingGround(tmp_path)
    plan = {"totalSteps": 2}
    ended = ground.forked(ground.config(plan=plan, evaluation={"generateSamples": 0})).completed()
    folder = ground.file(ended.result.uri, "")
    expected, [loss] = start(ground, "SingleProcess", 1, parent=folder)
    found, losses = start(ground, "FSDP", 2, parent=folder)
    assert any(tensor.any() for name, tensor in found.items() if "lora_B" in name)
    assert list(folder.glob(f"{TRAINABLE}-*"))
    assert same_weights(expected, found)
    assert losses == pytest.approx([loss] * 2, rel=1e-5)


def test_what_does_not_fit_of_a_parents_adapter_stands_in_the_report(tmp_path):
    ground = TrainingGround(tmp_path)
    asked = ground.config(plan={"totalSteps": 1}, evaluation={"generateSamples": 0})
    ended = ground.forked(asked).completed()
    folder = ground.file(ended.result.uri, "")
    blocks = {"adapter": {"targetModules": ["q_proj"]}, "model": {"strict": False}}
    made = begun(ground, World(), "SingleProcess", parent=folder, **blocks)
    assert any(one.endswith("is not trained here") for one in made.differing)
    record = RunRecord(differing=list(made.differing))
    config = TrainingConfig.model_validate_json(json.dumps(asked))
    files = report_files(ReportFacts(config, record, TrainingSummary(), [], 1))
    assert json.loads(files["report.json"])["startDiffers"] == list(made.differing)
    assert made.differing[0].encode() in files["report.html"]


def test_weights_that_the_library_converts_reach_the_shards_as_well(tmp_path):
    """The files of Mixtral hold experts one by one, its model holds them together."""
    ground = TrainingGround(tmp_path)
    model = tiny_model(tmp_path / "mixtral", "mixtral", num_local_experts=4, num_experts_per_tok=2)
    expected, [loss] = start(ground, "SingleProcess", 1, files=model, **FULL)
    found, losses = start(ground, "FSDP", 2, files=model, **FULL)
    assert same_weights(expected, found)
    assert losses == pytest.approx([loss] * 2, rel=1e-5)


def live_bytes():
    """Return the bytes of the tensors that came since `gc.freeze`, shared memory once."""
    found = {}
    for one in gc.get_objects():
        if isinstance(one, torch.Tensor) and not one.is_meta and one.device.type == "cpu":
            local = one.to_local() if hasattr(one, "to_local") else one
            found[local.data_ptr()] = max(found.get(local.data_ptr(), 0), local.nbytes)
    return sum(found.values())


@pytest.mark.parametrize("strategy", ["FSDP", "ZeRO3"])
def test_no_rank_ever_holds_more_than_its_shards_and_a_tensor(tmp_path, strategy, monkeypatch):
    layers, size = 8, 3
    ground = TrainingGround(tmp_path)
    model = toy_llama_folder(tmp_path / "deep", layers=layers)
    file = (model / "model.safetensors").stat().st_size
    largest = VOCABULARY * 32 * 4
    peaks = []

    def work(world):
        gc.freeze()

        def watched(place, name):
            real = getattr(place, name)

            def call(*arguments):
                answer = real(*arguments)
                peaks.append(live_bytes())
                return answer

            monkeypatch.setattr(place, name, call)

        watched(engine_fsdp, "scatter")
        watched(engine_deepspeed.ZeroEngine, "_received")
        begun(ground, world, strategy, files=model, **FULL)
        # Once per tensor: nothing was held before any of them.
        assert len(peaks) == 3 + 9 * layers
        whole = largest * (3 if world.rank == 0 else 1)
        assert max(peaks) <= file / size * 1.1 + whole
        assert max(peaks) < file / 2

    ranks(tmp_path, size, work)
