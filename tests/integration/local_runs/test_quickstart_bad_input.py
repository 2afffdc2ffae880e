"""What `finetune run` says of input that cannot work, and what it never starts."""

from __future__ import annotations

from local_story import dataset, experiment, export


def jobs(story):
    return [path.stem for path in (story.work_dir / "objects" / "job").rglob("*.json")]


async def test_broken_records_stop_before_any_training_process(story, inputs):
    (inputs / "broken.jsonl").write_text('{"instruction": "a", "output": ""}\n' * 5)
    story.add(dataset("broken.jsonl"), experiment(), export())
    assert await story.run() == 1
    failed = story.condition("Dataset", "Stalled")
    assert (failed["status"], failed["reason"]) == ("True", "InvalidData")
    assert "EmptyAnswer" in str(story.object("Dataset")["status"]["findings"])
    assert all(name.startswith("sums-d") for name in jobs(story))


async def test_a_missing_file_is_named(story):
    story.add(dataset("nowhere.jsonl"), experiment())
    assert await story.run() == 1
    assert story.condition("Dataset", "Stalled")["reason"] == "SourceNotFound"
    assert "nowhere.jsonl" in story.condition("Dataset", "Stalled")["message"]


async def test_a_missing_model_fails_once_and_starts_no_rank(story):
    model = {"volumeClaim": {"claimName": "inputs", "path": "no-model"}}
    story.add(dataset(), experiment(model=model))
    assert await story.run() == 1
    failed = story.condition("FineTuneExperiment", "Failed")
    assert (failed["status"], failed["reason"]) == ("True", "ModelNotFound")
    assert sorted(jobs(story)) == ["sums-d1", "sums-p1"]
