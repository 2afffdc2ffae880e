"""The whole job of a Dataset: snapshot, report, summary, and what remains of a failed one."""

import csv
import io
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_ground import (
    dataset_config,
    dataset_spec,
    from_claim,
    jsonl,
    questions,
    reporter,
    results,
)
from finetune_api.run_outcome import MAX_BYTES, FailureClass, Outcome
from finetune_trainer.dataset_job import InvalidDataError, run
from finetune_trainer.errors import DataError
from finetune_trainer.path_store import PathStore
from finetune_trainer.snapshot import read_snapshot
from finetune_trainer.store import DamagedError, read_manifest, verify

HOME = "datasets/default/faq-1"


def finished(spec, attempt=1):
    """Run the job; return its summary and what it reported."""
    config = dataset_config(spec, attempt)
    report = reporter(config)
    return run(config, report), report


def as_csv(rows):
    sink = io.StringIO()
    writer = csv.DictWriter(sink, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue()


def test_a_job_writes_a_snapshot_that_verifies_and_a_report(ground):
    ground.put("faq.jsonl", jsonl(questions(100)))
    summary, report = finished(dataset_spec(from_claim("faq.jsonl")))
    snapshot, page = report.artifacts
    assert snapshot.uri == f"pvc://results/{HOME}/snapshot-1"
    assert page.uri == f"pvc://results/{HOME}/report-1/report.html"
    store = results().child(f"{HOME}/snapshot-1")
    manifest = read_manifest(store)
    verify(store, manifest)
    assert manifest.digest == snapshot.digest
    assert [file.name for file in manifest.files] == ["train.parquet", "validation.parquet"]
    counts = summary.records
    assert (counts.read, counts.train, counts.validation, counts.test) == (100, 95, 5, 0)
    assert (summary.record_type, summary.layout) == ("Conversation", "Columns")


def test_a_snapshot_holds_the_records_in_order_with_their_origin(ground):
    rows = [
        {"instruction": "why?", "input": "", "output": "so"},
        {"instruction": "add", "input": "1 2", "output": "3", "system": "be brief"},
    ]
    ground.put("faq.jsonl", jsonl(rows))
    finished(dataset_spec(from_claim("faq.jsonl", name="faq"), split={"validation": 0.0}))
    table = pq.read_table(ground.claims / "results" / HOME / "snapshot-1/train.parquet")
    found = table.to_pylist()
    assert table.column_names == ["id", "source", "row", "group", "system", "turns"]
    assert [(one["source"], one["row"], one["system"]) for one in found] == [
        ("faq", 1, None),
        ("faq", 2, "be brief"),
    ]
    assert [[tuple(turn.values()) for turn in one["turns"]] for one in found] == [
        [("user", "why?"), ("assistant", "so")],
        [("user", "add\n\n1 2"), ("assistant", "3")],
    ]


def test_documents_have_a_snapshot_of_their_own_form(ground, tmp_path):
    ground.put("books/a.txt", "one")
    ground.put("books/b.txt", "two")
    summary, report = finished(dataset_spec(from_claim("books"), split={"validation": 0.0}))
    store = results().child(f"{HOME}/snapshot-1")
    snapshot = read_snapshot(store, tmp_path / "copy", report.artifacts[0].digest)
    assert (summary.record_type, snapshot.record_type) == ("Text", "Text")
    assert snapshot.splits["train"].texts[:] == ["one", "two"]


def test_conversations_of_other_spellings_become_the_same_records(ground):
    ground.put(
        "share.jsonl",
        jsonl(
            {"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": f"{n}"},
                               {"from": "gpt", "value": "a"}]}
            for n in range(9)
        ),
    )  # fmt: skip
    ground.put(
        "chat.jsonl",
        jsonl(
            {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": f"{n}"},
                          {"role": "assistant", "content": "a"}]}
            for n in range(9)
        ),
    )  # fmt: skip
    digests = {
        finished(dataset_spec(from_claim(name)), attempt)[1].artifacts[0].digest
        for attempt, name in enumerate(["share.jsonl", "chat.jsonl"], 1)
    }
    assert len(digests) == 1


def test_equal_content_in_csv_and_jsonl_gives_the_same_digest(ground):
    rows = [*questions(40), {"prompt": 'say "hi", then\ngo', "answer": "ünïcode; fine"}]
    ground.put("faq.jsonl", jsonl(rows))
    ground.put("faq.csv", as_csv(rows))
    one, two = (
        finished(dataset_spec(from_claim(name)), attempt)[1].artifacts[0].digest
        for attempt, name in enumerate(["faq.jsonl", "faq.csv"], 1)
    )
    assert one == two


def test_other_content_gives_another_digest(ground):
    ground.put("a.jsonl", jsonl(questions(10)))
    ground.put("b.jsonl", jsonl([*questions(9), {"prompt": "question 9?", "answer": "answer 9 "}]))
    digests = {
        finished(dataset_spec(from_claim(name)), attempt)[1].artifacts[0].digest
        for attempt, name in enumerate(["a.jsonl", "b.jsonl"], 1)
    }
    assert len(digests) == 2


def test_several_sources_are_joined_and_a_given_split_is_used(ground):
    ground.put("a.jsonl", jsonl(questions(10)))
    held_out = jsonl([{"question": "q", "response": "r"}])
    summary, _ = finished(
        dataset_spec(
            from_claim("a.jsonl", name="own"),
            {"inline": {"data": held_out}, "format": "JSONL", "split": "Validation"},
        )
    )
    assert (summary.records.train, summary.records.validation) == (10, 1)
    assert [(one.name, one.rows, one.format) for one in summary.sources] == [
        ("own", 10, "JSONL"),
        ("1", 1, "JSONL"),
    ]


def test_a_folder_of_many_formats_is_one_source(ground):
    ground.put("lake/a.jsonl", jsonl(questions(3)))
    for name, separator in (("b.csv", ","), ("c.tsv", "\t")):
        ground.put(f"lake/{name}", f"prompt{separator}answer\n{name}{separator}yes\n")
    ground.put("lake/d.json", '[{"prompt": "d", "answer": "yes"}]')
    pq.write_table(
        pa.table({"prompt": ["e"], "answer": ["yes"]}), ground.claims / "data/lake/e.parquet"
    )
    summary, _ = finished(dataset_spec(from_claim("lake")))
    assert summary.records.total == 7
    assert summary.sources[0].format == "CSV, JSON, JSONL, Parquet, TSV"


def test_a_sample_of_a_source_is_read(ground):
    ground.put("a.jsonl", jsonl(questions(50)))
    summary, _ = finished(dataset_spec(from_claim("a.jsonl", maxRows=20)))
    assert (summary.records.read, summary.records.total) == (20, 20)


def test_broken_data_fails_with_its_finding_and_still_has_a_report(ground):
    ground.put("faq.jsonl", jsonl([*questions(4), {"prompt": "x", "answer": ""}]) + "{\n")
    config = dataset_config(dataset_spec(from_claim("faq.jsonl")))
    report = reporter(config)
    with pytest.raises(InvalidDataError) as failed:
        run(config, report)
    assert (failed.value.exit_code, failed.value.reason) == (11, "EmptyAnswer")
    assert 'column "answer": 1 of 6 rows have no text (first: 5)' in str(failed.value)
    assert "And 1 more findings" in str(failed.value)
    assert [one.reason for one in failed.value.summary.findings][:2] == [
        "EmptyAnswer",
        "ParseError",
    ]
    assert [one.kind for one in report.artifacts] == ["report"]
    assert not (ground.claims / "results" / HOME / "snapshot-1").exists()
    page = (ground.claims / "results" / HOME / "report-1/report.html").read_text()
    assert "No snapshot" in page


def test_all_records_broken_fails_with_record_numbers(ground):
    ground.put("faq.jsonl", "{\n" * 9)
    with pytest.raises(InvalidDataError) as failed:
        finished(dataset_spec(from_claim("faq.jsonl"), checks={"policy": "Drop"}))
    assert failed.value.reason == "TooFewRows"
    assert [one.rows for one in failed.value.summary.findings if one.reason == "ParseError"] == [
        [1, 2, 3, 4, 5]
    ]


def test_a_pinned_digest_refuses_other_content(ground):
    ground.put("faq.jsonl", jsonl(questions(4)))
    source = from_claim("faq.jsonl", digest=f"sha256:{'0' * 64}")
    with pytest.raises(DataError, match=r"DigestMismatch: faq.jsonl") as refused:
        finished(dataset_spec(source))
    assert refused.value.reason == "DigestMismatch"


def test_the_worst_summary_fits_a_termination_message(ground):
    names = [f"{'n' * 60}{n:02}" for n in range(16)]
    for n in range(16):
        rows = [{"prompt": f"{n}", "answer": ""}, {"prompt": "", "answer": 1}, {"prompt": "a\x00"}]
        ground.put(f"{'f' * 90}{n}.jsonl", jsonl(rows) + '{"a":\n')
    sources = [from_claim(f"{'f' * 90}{n}.jsonl", name=names[n]) for n in range(16)]
    with pytest.raises(InvalidDataError) as failed:
        finished(dataset_spec(*sources))
    assert len(failed.value.summary.findings) == 20
    outcome = Outcome(
        failure_class=FailureClass.DATA,
        reason=failed.value.reason,
        message=str(failed.value)[:1024],
        dataset=failed.value.summary,
    )
    encoded = outcome.encoded()
    assert len(encoded) <= MAX_BYTES
    assert Outcome.model_validate_json(encoded).reason == failed.value.reason


@pytest.mark.parametrize("survivors", [0, 1, 2])
def test_a_job_killed_between_two_files_leaves_nothing_that_verifies(
    ground, monkeypatch, tmp_path, survivors
):
    ground.put("faq.jsonl", jsonl(questions(40)))
    plain, written = PathStore.write, []

    def killed(self, name, data):
        if len(written) == survivors:
            raise SystemExit("killed")
        written.append(name)
        return plain(self, name, data)

    monkeypatch.setattr(PathStore, "write", killed)
    with pytest.raises(SystemExit):
        finished(dataset_spec(from_claim("faq.jsonl")))
    with pytest.raises(DamagedError):
        read_manifest(results().child(f"{HOME}/snapshot-1"))
    monkeypatch.setattr(PathStore, "write", plain)
    _, report = finished(dataset_spec(from_claim("faq.jsonl")))
    store = results().child(report.artifacts[0].uri.partition("results/")[2])
    verify(store, read_manifest(store))


def test_a_damaged_or_exchanged_snapshot_is_not_read(ground, tmp_path):
    ground.put("faq.jsonl", jsonl(questions(40)))
    _, report = finished(dataset_spec(from_claim("faq.jsonl")))
    digest = report.artifacts[0].digest
    store = results().child(f"{HOME}/snapshot-1")
    with pytest.raises(DataError, match="run the Dataset again"):
        read_snapshot(store, tmp_path / "a", f"sha256:{'0' * 64}")
    path = ground.claims / "results" / HOME / "snapshot-1/validation.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedError, match=r"validation\.parquet"):
        read_snapshot(store, tmp_path / "b", digest)


def test_the_dataset_job_loads_neither_torch_nor_transformers():
    code = (
        "import sys; from finetune_trainer import dataset_job, prepare; "
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, check=False
    )
    assert done.returncode == 0
