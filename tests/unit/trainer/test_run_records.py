"""The records of a run: chains as conversations, samples of whole trees, splits from elsewhere."""

from __future__ import annotations

import json

import pytest

from data_ground import RESULTS, Ground, dataset_config, dataset_spec, from_claim, jsonl, reporter
from data_ground import identity as identity_of
from finetune_api.run_config import PreparationConfig
from finetune_api.text_settings import ChainSamples
from finetune_trainer import dataset_job
from finetune_trainer.chains import conversations
from finetune_trainer.errors import ConfigurationError, DataError
from finetune_trainer.run_records import run_records
from finetune_trainer.snapshot import Rows

TREE = {"root": None, "left": "root", "right": "root", "deep": "left", "alone": None}


def tree_rows():
    return Rows(
        ids=list(TREE),
        systems=["be brief", None, "ignored", None, None],
        turns=[
            [{"role": "user", "content": f"q {name}"}, {"role": "assistant", "content": name}]
            for name in TREE
        ],
        texts=[None] * 5,
        groups=["t", "t", "t", "t", "a"],
        parents=list(TREE.values()),
    )


def shown(rows):
    """Return per conversation: its id, its answers, and those that count."""
    return {
        name: (
            [one["content"] for one in turns if one["role"] == "assistant"],
            {one["content"] for one in turns if one["role"] == "assistant" and "train" not in one},
        )
        for name, turns in zip(rows.ids, rows.turns, strict=True)
    }


def test_a_leaf_gives_one_conversation_and_a_shared_answer_counts_in_the_first():
    assert shown(conversations(tree_rows(), ChainSamples.LEAF)) == {
        "right": (["root", "right"], {"root", "right"}),
        "deep": (["root", "left", "deep"], {"left", "deep"}),
        "alone": (["alone"], {"alone"}),
    }


def test_a_shared_answer_counts_in_every_leaf_where_it_may_be_repeated():
    assert shown(conversations(tree_rows(), ChainSamples.LEAF_REPEATED)) == {
        "right": (["root", "right"], {"root", "right"}),
        "deep": (["root", "left", "deep"], {"root", "left", "deep"}),
        "alone": (["alone"], {"alone"}),
    }


def test_every_row_gives_a_conversation_in_which_its_own_answer_counts():
    assert shown(conversations(tree_rows(), ChainSamples.EVERY_ROW)) == {
        "root": (["root"], {"root"}),
        "left": (["root", "left"], {"left"}),
        "right": (["root", "right"], {"right"}),
        "deep": (["root", "left", "deep"], {"deep"}),
        "alone": (["alone"], {"alone"}),
    }


def test_leaf_and_every_row_learn_the_same_answers_in_the_same_contexts():
    def learned(mode):
        return sorted(
            (tuple(one["content"] for one in turns[:at]), turn["content"])
            for turns in conversations(tree_rows(), mode).turns
            for at, turn in enumerate(turns)
            if turn["role"] == "assistant" and "train" not in turn
        )

    assert learned(ChainSamples.LEAF) == learned(ChainSamples.EVERY_ROW)


@pytest.mark.parametrize("mode", ChainSamples)
def test_the_system_text_is_that_of_the_root_in_every_mode(mode):
    rows = conversations(tree_rows(), mode)
    systems = dict(zip(rows.ids, rows.systems, strict=True))
    assert systems.pop("alone") is None
    assert set(systems.values()) == {"be brief"}


def test_forty_rows_with_ten_leaves_give_ten_references_joined_by_id():
    ids = [f"{tree}.{n}" for tree in range(10) for n in range(4)]
    parents = [None if n == 0 else f"{tree}.{n - 1}" for tree in range(10) for n in range(4)]
    turns = [
        [{"role": "user", "content": "q"}, {"role": "assistant", "content": f"answer {name}"}]
        for name in ids
    ]
    rows = Rows(ids, [None] * 40, turns, [None] * 40, ids, parents)
    leaves = conversations(rows, ChainSamples.LEAF)
    found = {name: turn[-1]["content"] for name, turn in zip(leaves.ids, leaves.turns, strict=True)}
    assert found == {f"{tree}.3": f"answer {tree}.3" for tree in range(10)}


class Data:
    """Snapshots in storage, and configs of runs on them."""

    def __init__(self, ground):
        self._ground, self.refs = ground, {}

    def put(self, name, rows, **spec):
        self._ground.put(f"{name}.jsonl", jsonl(rows))
        spec = dataset_spec(from_claim(f"{name}.jsonl"), **spec)
        config = dataset_config(spec, len(self.refs) + 1)
        report = reporter(config)
        dataset_job.run(config, report)
        uri, digest = report.artifacts[0].uri, report.artifacts[0].digest
        self.refs[name] = {"name": name, "uri": uri, "digest": digest, "location": RESULTS}

    def records(self, folder, *, seed=7, validation=None, test=None, prompt=None, **dataset):
        value = {
            "identity": identity_of("FineTuneExperiment").model_dump(),
            "spec": {
                "model": {"volumeClaim": {"claimName": "models", "path": "tiny"}},
                "dataset": {"name": "faq", **dataset},
                "prompt": prompt or {},
                "preset": dataset.pop("preset", "Balanced"),
            },
            "dataset": self.refs["faq"],
            "location": RESULTS,
            "prefix": "x",
            "seed": seed,
        }
        value["spec"]["dataset"].pop("preset", None)
        for name, wanted in (("validation", validation), ("test", test)):
            if wanted:
                value[name] = self.refs[wanted]
        folder.mkdir(exist_ok=True)
        config = PreparationConfig.model_validate_json(json.dumps(value))
        return run_records(config, folder / f"{len(list(folder.iterdir()))}").splits


def rows_of(trees, depth=4):
    return [
        {
            "id": f"{tree}.{n}",
            "parent": f"{tree}.{n - 1}" if n else None,
            "prompt": f"question {tree} {n}",
            "answer": f"answer {tree} {n}",
        }
        for tree in range(trees)
        for n in range(depth)
    ]


def questions(count, name="q"):
    return [{"prompt": f"{name} {n}", "answer": f"{name} a{n}"} for n in range(count)]


@pytest.fixture
def data(tmp_path, monkeypatch):
    return Data(Ground(tmp_path / "ground", monkeypatch))


def test_a_share_keeps_whole_conversations(data, tmp_path):
    data.put("faq", rows_of(40), split={"validation": 0.5})
    splits = data.records(
        tmp_path / "runs", sampleFraction=0.3, prompt={"chainSamples": "EveryRow"}
    )
    for split in ("train", "validation"):
        trees = [name.split(".")[0] for name in splits[split].ids]
        assert len(trees) == 6 * 4
        assert {trees.count(tree) for tree in trees} == {4}


def test_a_smaller_sample_is_part_of_a_larger_one_and_the_seed_decides(data, tmp_path):
    data.put("faq", questions(100), split={"validation": 0.0})

    def ids(**settings):
        return data.records(tmp_path / "runs", **settings)["train"].ids

    small, large = ids(sampleFraction=0.1), ids(sampleFraction=0.4)
    assert (len(small), len(large)) == (10, 40)
    assert set(small) < set(large)
    assert small == ids(sampleFraction=0.1)
    assert small != ids(sampleFraction=0.1, seed=8)
    assert len(ids(sampleRows=25)) == 25
    assert set(small) < set(ids(sampleRows=25))


@pytest.mark.parametrize("settings", [{"sampleFraction": 0.001}, {"sampleRows": 1}], ids=str)
def test_at_least_one_conversation_is_kept(data, tmp_path, settings):
    data.put("faq", rows_of(10), split={"validation": 0.0})
    every = {"chainSamples": "EveryRow"}
    assert len(data.records(tmp_path / "runs", prompt=every, **settings)["train"]) == 4


def test_only_the_chosen_splits_are_sampled(data, tmp_path):
    data.put("faq", questions(100), split={"validation": 0.2, "test": 0.2})

    def sizes(**settings):
        splits = data.records(tmp_path / "runs", sampleFraction=0.5, **settings)
        return [len(splits[split]) for split in ("train", "validation", "test")]

    assert sizes() == [30, 10, 20]
    assert sizes(sampleSplits=["Test"]) == [60, 20, 10]
    assert sizes(sampleSplits=["Train"]) == [30, 20, 20]


def test_splits_to_sample_are_refused_where_nothing_is_sampled(data, tmp_path):
    data.put("faq", questions(20))
    with pytest.raises(ConfigurationError, match="sampleSplits: nothing is sampled") as refused:
        data.records(tmp_path / "runs", sampleSplits=["Test"])
    assert refused.value.reason == "DeadSetting"


def test_the_preset_for_a_quick_look_takes_a_tenth(data, tmp_path):
    data.put("faq", questions(100), split={"validation": 0.0})
    assert len(data.records(tmp_path / "runs", preset="QuickLook")["train"]) == 10
    assert len(data.records(tmp_path / "runs", preset="QuickLook", sampleRows=40)["train"]) == 40


def test_other_datasets_serve_as_validation_and_test_with_all_their_splits(data, tmp_path):
    data.put("faq", questions(20), split={"validation": 0.5})
    data.put("held", questions(8, "held"), split={"validation": 0.5})
    data.put("exam", questions(6, "exam"), split={"validation": 0.0})
    splits = data.records(
        tmp_path / "runs",
        validation="held",
        test="exam",
        validationName="held",
        testName="exam",
    )
    assert [len(splits[split]) for split in ("train", "validation", "test")] == [10, 8, 6]
    assert {turns[0]["content"].split()[0] for turns in splits["validation"].turns} == {"held"}
    assert {turns[0]["content"].split()[0] for turns in splits["test"].turns} == {"exam"}


def test_a_validation_dataset_of_documents_is_refused(data, tmp_path):
    data.put("faq", questions(20))
    data.put("held", [{"text": f"document {n}"} for n in range(4)])
    with pytest.raises(DataError, match="Dataset held holds records of type Text"):
        data.records(tmp_path / "runs", validation="held", validationName="held")


def test_validation_records_are_trained_on_too_where_asked(data, tmp_path):
    data.put("faq", questions(20), split={"validation": 0.25})
    plain = data.records(tmp_path / "runs")
    both = data.records(tmp_path / "runs", includeValidation=True)
    assert both["train"].ids == plain["train"].ids + plain["validation"].ids
    assert both["validation"].ids == plain["validation"].ids
    assert len(both["train"].groups) == len(both["train"])


def test_training_on_a_validation_split_that_is_not_there_is_refused(data, tmp_path):
    data.put("faq", questions(20), split={"validation": 0.0})
    with pytest.raises(ConfigurationError, match="includeValidation") as refused:
        data.records(tmp_path / "runs", includeValidation=True)
    assert refused.value.reason == "DeadSetting"


@pytest.mark.parametrize("mode", ["LeafRepeated", "EveryRow"])
def test_samples_of_chains_are_refused_where_rows_are_not_linked(data, tmp_path, mode):
    data.put("faq", questions(20))
    with pytest.raises(ConfigurationError, match=f"chainSamples: {mode}") as refused:
        data.records(tmp_path / "runs", prompt={"chainSamples": mode})
    assert refused.value.reason == "DeadSetting"


def test_another_snapshot_than_the_pinned_one_is_refused(data, tmp_path):
    data.put("faq", questions(20))
    with pytest.raises(DataError, match="pinned is") as refused:
        data.records(tmp_path / "runs", digest="sha256:" + "0" * 64)
    assert refused.value.reason == "DigestMismatch"


def test_turns_that_the_data_marks_reach_the_run_and_others_carry_no_mark(data, tmp_path):
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "draft", "train": False},
        {"role": "user", "content": "again"},
        {"role": "assistant", "content": "final"},
    ]
    data.put("faq", [{"messages": turns}, {"messages": turns[2:]}], split={"validation": 0.0})
    first, _ = data.records(tmp_path / "runs")["train"].turns
    assert first == turns
