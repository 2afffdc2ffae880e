"""Sample answers: prompts as training renders them, their ends, as many as the spec says."""

from __future__ import annotations

import json

import pytest

from data_ground import Ground, jsonl, questions, results
from finetune_api.run_config import TrainingConfig
from finetune_trainer.path_store import PathStore
from finetune_trainer.rank_folder import RankFolder
from finetune_trainer.run_record import RunRecord
from finetune_trainer.sample_answers import SampleAnswers, model_stop_tokens
from finetune_trainer.token_cache import fetch_prepared, open_cache, open_prompts
from preparation_bench import HOME, Bench
from toy_llama import write_preparation
from toy_task import toy_engine
from training_ground import TrainingGround


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return toy_engine(tmp_path_factory.mktemp("engine"))


@pytest.fixture
def ground(tmp_path):
    return TrainingGround(tmp_path)


def answers(ground, engine, *, stops=(), **blocks):
    """Return the sample answers of a config with changed blocks, on a fresh folder."""
    folder = RankFolder(ground.folder / "rank")
    prepared = folder.path / "prepared"
    if not prepared.exists():
        prepared.mkdir(parents=True)
        write_preparation(PathStore(prepared, "pvc://results//prepared"))
        folder.set_inputs(model=ground.model, prepared=prepared)
    (prepared / "template.json").write_text(json.dumps({"stops": list(stops)}))
    config = TrainingConfig.model_validate_json(json.dumps(ground.config(**blocks)))
    return SampleAnswers(config, folder, engine, lambda: None)


@pytest.mark.parametrize("count", [0, 1, 3], ids="{} samples".format)
def test_as_many_prompts_are_answered_as_the_spec_says(ground, engine, count):
    found = answers(ground, engine, evaluation={"generateSamples": count}).of_tuned()
    assert [one["prompt"] for one in found] == [f"count {i}" for i in range(count)]


@pytest.mark.parametrize(("rows", "batches"), [(1, [1, 1, 1]), (2, [2, 1])], ids=["1", "2"])
def test_the_batch_size_of_the_spec_is_how_many_are_answered_at_once(ground, engine, rows, batches):
    sizes = []
    hook = engine.task.model.register_forward_pre_hook(
        lambda _, __, inputs: sizes.append(inputs["input_ids"].shape), with_kwargs=True
    )
    asked = {"generateSamples": 3, "perDeviceBatchSize": rows}
    answers(ground, engine, evaluation=asked).of_tuned()
    hook.remove()
    assert [shape[0] for shape in sizes if shape[1] > 1] == batches


def test_answers_before_and_after_stand_side_by_side_with_what_ended_them(ground, engine):
    record = RunRecord()
    samples = answers(ground, engine, generation={"maxNewTokens": 4})
    samples.of_base(record)
    (first, _) = samples.of_tuned(record)
    assert first["base"] == first["tuned"] != ""
    assert first["finish"] == "length"
    assert samples.tokens == 16


def test_texts_of_the_template_end_an_answer_too(ground, engine):
    free = answers(ground, engine, generation={"maxNewTokens": 12}).of_tuned()[0]
    word = free["tuned"].split()[4]
    place = free["tuned"].split().index(word)
    asked = {"maxNewTokens": 12}
    (found, _) = answers(ground, engine, generation=asked, stops=[f" {word}"]).of_tuned()
    assert found["finish"] == "stop"
    assert found["tuned"].split() == free["tuned"].split()[:place]


def test_the_models_own_list_of_end_tokens_counts_in_full(engine):
    own = engine.task.model.generation_config
    for listed, expected in (([7, 8, 9], {7, 8, 9}), (5, {5}), (None, set())):
        own.eos_token_id = listed
        assert model_stop_tokens(engine.task.model) == expected
    own.eos_token_id = 1


def test_prompts_have_the_ids_that_training_sees_before_the_answer(tmp_path, monkeypatch):
    bench = Bench(Ground(tmp_path, monkeypatch))
    bench.model()
    bench.dataset(jsonl(questions(60)), split={"validation": 0.2})
    _, report = bench.prepared(evaluation={"generateSamples": 12})
    store = results().child(f"{HOME}/prepared-1-1")
    folder = fetch_prepared(store, report.artifacts[0].digest, tmp_path / "copy")
    cache, prompts = open_cache(folder / "tokens/validation"), open_prompts(folder)
    found = {
        tuple(tokens[: list(flags & 1).index(1)].tolist())
        for tokens, flags in map(cache.sample, range(len(cache)))
    }
    assert {tuple(one["tokens"]) for one in prompts} == found
    assert len(found) == 12
