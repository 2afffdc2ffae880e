"""What an experiment says about samples and steps, from its spec to the plan of the trainer."""

from __future__ import annotations

import json

import numpy as np
import pytest

from data_ground import (
    RESULTS,
    Ground,
    dataset_config,
    dataset_spec,
    from_claim,
    jsonl,
    reporter,
    results,
)
from finetune_api.run_config import TrainingConfig
from finetune_trainer import dataset_job
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.run_plan import run_plan
from finetune_trainer.token_cache import fetch_prepared, open_cache
from preparation_bench import HOME, Bench

FOLDING = (
    "{% set told = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% for m in messages if m.role != 'system' %}"
    "{{ '<|' + m.role + '|>' + (told if loop.first else '') + m.content + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""A template that puts the system text into the first turn."""


def chats(count, turns=3):
    return jsonl(
        {
            "messages": [{"role": "system", "content": "be brief"}]
            + [
                {"role": role, "content": f"{text} {n} {turn}" + " why" * (n % 7)}
                for turn in range(turns)
                for role, text in (("user", "question"), ("assistant", "answer"))
            ]
        }
        for n in range(count)
    )


@pytest.fixture
def bench(tmp_path, monkeypatch):
    bench = Bench(Ground(tmp_path, monkeypatch))
    bench.model()
    bench.dataset(chats(40), split={"validation": 0.25})
    return bench


def trained(bench, summary, report, tmp_path, **spec):
    """Return the cache and the plan that a trainer makes of a preparation."""
    digest = report.artifacts[0].digest
    store = results().child(report.artifacts[0].uri.removeprefix("pvc://results/"))
    folder = fetch_prepared(store, digest, tmp_path / f"copy-{digest[-8:]}")
    cache = open_cache(folder / "tokens/train")
    config = bench.config(**spec)
    value = {
        "identity": config.identity.model_dump(),
        "spec": json.loads(config.spec.model_dump_json(by_alias=True, exclude_unset=True)),
        "dataset": {"name": "faq", "digest": "sha256:" + "a" * 64},
        "model": {"name": "tiny"},
        "plan": json.loads(summary.plan.model_dump_json(by_alias=True)),
        "prepared_uri": report.artifacts[0].uri,
        "prepared_digest": digest,
        "location": RESULTS,
        "prefix": HOME,
        "ranks": 1,
        "grain": 1,
    }
    config = TrainingConfig.model_validate_json(json.dumps(value))
    return cache, *run_plan(config, cache, (1, 0), padded=False)


def planned(bench, **training):
    return bench.prepared(training=training)[0].plan


def test_steps_may_be_counted_in_tokens(bench):
    plan = planned(bench, globalBatchTokens=300)
    assert (plan.global_batch_tokens, plan.global_batch_size) == (300, 0)
    assert plan.total_steps > planned(bench, globalBatchTokens=600).total_steps


def test_a_step_of_fewer_tokens_than_the_longest_sample_is_refused(bench):
    error = bench.refused(ConfigurationError, training={"globalBatchTokens": 64})
    assert "globalBatchTokens: 64 is below the longest sample" in str(error)


def test_the_last_batch_of_an_epoch_is_dropped_where_asked(bench):
    sizes = {"globalBatchSize": 8, "epochs": 3.0}
    assert planned(bench, **sizes).total_steps == 12
    assert planned(bench, **sizes, dropLastBatch=True).total_steps == 9


def test_epochs_may_be_fractions(bench):
    found = [planned(bench, globalBatchSize=8, epochs=e).total_steps for e in (0.1, 0.5, 1.25)]
    assert found == [1, 2, 5]


@pytest.mark.parametrize(
    "change",
    [
        {"training": {"lossAveraging": "Samples"}},
        {"training": {"dropLastBatch": True}},
        {"augmentation": {"skipParentProbability": 0.1}},
        {"augmentation": {"randomParentProbability": 0.1}},
        {"augmentation": {"neftuneNoiseAlpha": 5.0}},
    ],
    ids=str,
)
def test_whatever_moves_the_weights_changes_the_digest_of_the_plan(bench, change):
    plain = {"training": {"globalBatchSize": 4}}
    changed = {"training": plain["training"] | change.get("training", {})} | {
        name: block for name, block in change.items() if name != "training"
    }
    assert bench.prepared(**plain)[0].plan.digest != bench.prepared(**changed)[0].plan.digest


def test_training_on_validation_records_is_counted_and_marked(bench):
    dataset = {"name": "faq", "includeValidation": True}
    summary, _ = bench.prepared(dataset=dataset)
    assert (summary.dataset.train, summary.dataset.validation) == (40, 10)
    assert summary.plan.validation_seen
    assert not bench.prepared()[0].plan.validation_seen


def test_a_sample_of_the_records_is_prepared(bench):
    summary, _ = bench.prepared(dataset={"name": "faq", "sampleFraction": 0.5})
    assert (summary.dataset.train, summary.dataset.validation) == (15, 5)
    rows = bench.prepared(dataset={"name": "faq", "sampleRows": 4, "sampleSplits": ["Train"]})
    assert (rows[0].dataset.train, rows[0].dataset.validation) == (4, 10)


def test_exchanges_are_left_out_and_put_in_as_the_spec_says(bench, tmp_path):
    augmentation = {"skipParentProbability": 0.5, "randomParentProbability": 0.5}
    done = bench.prepared(augmentation=augmentation)
    cache, plan, texts = trained(bench, *done, tmp_path, augmentation=augmentation)
    assert texts.exchanges.counts.tolist() == [3] * 30
    index = plan.index(0)
    assert len(set(cache.groups.tolist())) == 30
    assert not index.kept.all()
    assert (index.donors >= 0).any()
    assert index.lengths.max() <= done[0].plan.max_length


def test_what_is_left_renders_as_the_template_renders_it(bench, tmp_path):
    augmentation = {"skipParentProbability": 1.0}
    done = bench.prepared(augmentation=augmentation)
    _, plan, _ = trained(bench, *done, tmp_path, augmentation=augmentation)
    bench.dataset(
        jsonl(
            {"messages": [json.loads(line)["messages"][0], *json.loads(line)["messages"][-2:]]}
            for line in chats(40).splitlines()
        ),
        split={"validation": 0.0},
    )
    short = bench.prepared(attempt=2)
    plain, _, _ = trained(bench, *short, tmp_path)
    expected = {tuple(plain.sample(i)[0].tolist()) for i in range(len(plain))}
    found = {tuple(plan.index(0).sample(i)[0].tolist()) for i in range(30)}
    assert found < expected
    assert len(found) == 30


def test_steps_of_tokens_are_planned_by_what_each_epoch_leaves(bench, tmp_path):
    spec = {
        "training": {"globalBatchTokens": 300, "epochs": 3.0},
        "augmentation": {"skipParentProbability": 0.6},
    }
    done = bench.prepared(**spec)
    _, plan, _ = trained(bench, *done, tmp_path, **spec)
    assert done[0].plan.total_steps < bench.prepared(training=spec["training"])[0].plan.total_steps
    steps = [plan.step(n) for n in range(plan.total_steps)]
    assert {step.epoch for step in steps} == {0, 1, 2}
    assert plan.epoch_after(plan.total_steps - 1) == 3.0
    seen = [i for step in steps if step.epoch == 2 for i in step.samples]
    assert sorted(seen) == list(range(30))


@pytest.mark.parametrize("field", ["skipParentProbability", "randomParentProbability"])
def test_leaving_out_exchanges_of_single_turns_is_refused(bench, field):
    bench.dataset(chats(40, turns=1))
    error = bench.refused(ConfigurationError, augmentation={field: 0.5})
    assert (error.reason, field in str(error)) == ("DeadSetting", True)


@pytest.mark.parametrize("field", ["skipParentProbability", "randomParentProbability"])
def test_a_template_that_folds_turns_refuses_to_lose_one(bench, field):
    bench.model(template=FOLDING)
    error = bench.refused(ConfigurationError, augmentation={field: 0.5})
    assert error.exit_code == 10
    assert error.reason == "TemplateUnsuitable"
    assert bench.prepared(augmentation={"neftuneNoiseAlpha": 1.0})


def with_tokens(bench, vocabulary=(), **settings):
    """Give the tokenizer of the model more tokens and settings."""
    folder = bench.model()
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    if vocabulary:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.add_special_tokens(list(vocabulary))
        tokenizer.save(str(folder / "tokenizer.json"))
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 420}))
    from finetune_trainer.text_tokenizer import text_tokenizer

    return text_tokenizer(folder).backend.token_to_id


MASKED = {"tokenMaskProbability": 0.3}


@pytest.mark.parametrize(
    ("tokens", "settings", "chosen"),
    [
        (["<mask>", "<unk>"], {"mask_token": "<mask>", "unk_token": "<unk>"}, "<mask>"),
        (["<unk>"], {"unk_token": {"content": "<unk>"}}, "<unk>"),
        (["<|reserved_7|>", "<|unused_1|>"], {"unk_token": "<|end|>"}, "<|reserved_7|>"),
    ],
    ids=["mask token", "unknown token", "reserved, never the end token"],
)
def test_the_mask_token_is_the_tokenizers_own_or_an_unused_one(bench, tokens, settings, chosen):
    number = with_tokens(bench, tokens, **settings)
    assert bench.prepared(augmentation=MASKED)[0].plan.mask_token == number(chosen)


def test_masking_without_any_token_for_it_is_refused(bench):
    error = bench.refused(ConfigurationError, augmentation=MASKED)
    assert error.reason == "DeadSetting"
    assert "tokenMaskProbability" in str(error)


def test_masked_tokens_are_content_and_lose_their_label(bench, tmp_path):
    number = with_tokens(bench, ["<mask>"], mask_token="<mask>")("<mask>")
    done = bench.prepared(augmentation=MASKED)
    cache, plan, _ = trained(bench, *done, tmp_path, augmentation=MASKED)
    index = plan.index(0)
    masked = sum(int((index.sample(i)[0] == number).sum()) for i in range(30))
    content = int(np.count_nonzero(cache.flags & 2))
    assert masked / content == pytest.approx(0.3, abs=0.05)
    assert index.supervised.sum() < cache.supervised.sum()


def test_sources_have_the_shares_that_their_weights_say(bench, tmp_path):
    for name, count in (("own", 10), ("public", 50)):
        bench.ground.put(f"{name}.jsonl", chats(count).replace("question", f"{name} question"))
    sources = [
        from_claim("own.jsonl", name="own", weight=3.0),
        from_claim("public.jsonl", name="public", weight=1.0),
    ]
    config = dataset_config(dataset_spec(*sources, split={"validation": 0.0}))
    report = reporter(config)
    dataset_job.run(config, report)
    bench.snapshot = report.artifacts[0]
    spec = {"training": {"globalBatchSize": 60}}
    cache, plan, _ = trained(bench, *bench.prepared(**spec), tmp_path, **spec)
    for epoch in range(3):
        drawn = cache.sources[list(plan.step(epoch).samples)]
        assert np.bincount(drawn).tolist() == [45, 15]


def linked(count):
    return jsonl(
        {
            "id": f"{tree}.{n}",
            "parent": {0: None, 1: f"{tree}.0", 2: f"{tree}.0", 3: f"{tree}.2"}[n],
            "prompt": f"question {tree} {n}",
            "answer": f"answer {tree} {n}",
        }
        for tree in range(count)
        for n in range(4)
    )


@pytest.mark.parametrize(
    ("mode", "samples", "answers"), [("Leaf", 2, 4), ("LeafRepeated", 2, 5), ("EveryRow", 4, 4)]
)
def test_chains_give_the_samples_and_supervised_answers_of_their_mode(
    bench, tmp_path, mode, samples, answers
):
    bench.dataset(linked(10), split={"validation": 0.0})
    spec = {"prompt": {"chainSamples": mode}}
    cache, _, _ = trained(bench, *bench.prepared(**spec), tmp_path, **spec)
    assert len(cache) == samples * 10
    end = with_tokens(bench)("<|end|>")
    assert int((cache.tokens[(cache.flags & 1) == 1] == end).sum()) == answers * 10
