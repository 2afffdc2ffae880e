"""Runs of a namespace tokenise equal records once; what cannot be shared is made again."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from data_ground import RESULTS, Ground, identity, jsonl, questions, reporter, trained_tokenizer
from finetune_api.names import EXPERIMENT, storage_prefix
from finetune_api.prune_messages import PruneRequest
from finetune_api.storage import Location
from finetune_trainer import prune
from finetune_trainer.chat_template import ChatTemplate, SpecialTokens
from finetune_trainer.deletion_note import note_deletion_policy
from finetune_trainer.encode import Encoder
from finetune_trainer.encoding_places import target
from finetune_trainer.errors import ResourcesExhaustedError
from finetune_trainer.path_store import PathStore
from finetune_trainer.prepare import run
from finetune_trainer.prepared_samples import SplitSource, spooled_samples
from finetune_trainer.shared_encodings import SharedEncodings
from finetune_trainer.snapshot import Rows
from finetune_trainer.store import MANIFEST, open_store
from finetune_trainer.text_tokenizer import TextTokenizer
from finetune_trainer.token_spool import TokenSpool
from local_web import local_web
from preparation_bench import Bench
from s3_stub import S3Stub

UID = "0f4fd9e5-1d0f-4a3b-9c54-8f3e5f2ab00{}"


class Runs:
    """Experiments on one Dataset that count what they tokenise."""

    def __init__(self, bench, location, monkeypatch):
        self.bench, self.location = bench, location
        self.records: list[int] = []
        entries = SplitSource.entries

        def counted(source, start, end):
            self.records.append(end - start)
            return entries(source, start, end)

        monkeypatch.setattr(SplitSource, "entries", counted)

    def home(self, number, namespace="default"):
        return storage_prefix(EXPERIMENT, namespace, f"run-{number}", UID.format(number))

    def store(self, number, namespace="default"):
        return open_store(self.location, self.home(number, namespace))

    def config(self, number, namespace="default", *, attempt=1, **spec):
        config = self.bench.config(attempt=attempt, **spec)
        own = {"name": f"run-{number}", "uid": UID.format(number), "namespace": namespace}
        return config.model_copy(
            update={
                "identity": identity(EXPERIMENT, attempt).model_copy(update=own),
                "prefix": self.home(number, namespace),
                "location": self.location,
            }
        )

    def prepared(self, number, namespace="default", **spec):
        """Prepare an experiment; return the records tokenised, its files and its plan."""
        self.records.clear()
        config = self.config(number, namespace, **spec)
        report = reporter(config)
        plan = run(config, report).plan
        store = self.store(number, namespace).child(report.artifacts[0].uri.rpartition("/")[2])
        return sum(self.records), {name: store.read(name) for name in store.list()}, plan

    def encoded(self, number, namespace="default"):
        """Return the folders of encodings, whole or not, that an experiment keeps."""
        names = self.store(number, namespace).list("encoded-")
        return sorted({name.partition("/")[0] for name in names})


@pytest.fixture
def bench(tmp_path, monkeypatch):
    bench = Bench(Ground(tmp_path, monkeypatch))
    bench.model()
    bench.dataset(jsonl(questions(60)))
    return bench


@pytest.fixture
def runs(bench, monkeypatch):
    return Runs(bench, Location.model_validate(RESULTS), monkeypatch)


@pytest.fixture(params=["folder", "bucket"])
def anywhere(request, bench, monkeypatch):
    """Runs whose results lie on a volume or in a bucket."""
    if request.param == "folder":
        yield Runs(bench, Location.model_validate(RESULTS), monkeypatch)
        return
    with local_web(S3Stub()) as web:
        s3 = {"bucket": "lake", "prefix": "a", "endpoint": web.url(""), "pathStyle": True}
        location = Location.model_validate({"s3": s3 | {"anonymous": True}})
        yield Runs(bench, location, monkeypatch)


def test_a_second_run_tokenises_nothing_and_writes_the_same_bytes(anywhere, caplog):
    caplog.set_level(logging.INFO, "finetune_trainer")
    tokenised, files, plan = anywhere.prepared(1)
    assert tokenised == 60
    assert anywhere.encoded(1) == ["encoded-1-1-train", "encoded-1-1-validation"]
    again, same, plan_again = anywhere.prepared(2)
    assert again == 0
    assert same == files
    assert plan_again.digest == plan.digest
    assert anywhere.encoded(2) == []
    assert "train: tokenised 57 of 57 records" in caplog.messages
    place = f"run-1-{UID.format(1)}/encoded-1-1-train"
    assert f"train: tokenised 0 of 57 records, encoded by {place}" in caplog.messages


def test_a_shared_split_calls_no_encoder(runs, monkeypatch):
    runs.prepared(1)
    monkeypatch.setattr(Encoder, "encoded", lambda *_: pytest.fail("a record was tokenised"))
    assert runs.prepared(2)[0] == 0


@pytest.mark.parametrize(
    "spec",
    [
        {"tokenizer": {"maxLength": 24}},
        {"tokenizer": {"maxLength": 24, "overflow": "Drop", "maxTruncatedShare": 1.0}},
        {"training": {"learningRate": 3e-4, "globalBatchSize": 8}},
        {"mode": "Evaluate"},
        {"evaluation": {"generateSamples": 3}},
    ],
    ids=str,
)
def test_runs_that_differ_behind_the_encoding_share_it(runs, spec):
    runs.prepared(1)
    tokenised, files, plan = runs.prepared(2, **spec)
    assert tokenised == 0
    fresh, expected, plan_expected = runs.prepared(3, "other", **spec)
    assert fresh > 0
    assert files == expected
    assert plan.digest == plan_expected.digest


@pytest.mark.parametrize(
    "spec",
    [
        {"prompt": {"template": "ChatML"}},
        {"prompt": {"template": "Raw"}},
        {"prompt": {"system": "be brief"}},
        {"prompt": {"trainOnRoles": ["Assistant", "User"]}},
        {"prompt": {"trainOnTurns": "Last"}},
        {"tokenizer": {"additionalTokens": ["<new>"]}},
    ],
    ids=str,
)
def test_what_changes_the_encoding_is_tokenised_anew(runs, spec):
    runs.prepared(1)
    assert runs.prepared(2, **spec)[0] == 60


def test_a_sample_of_the_records_is_other_records(runs):
    runs.prepared(1)
    assert runs.prepared(2, dataset={"name": "faq", "sampleRows": 20})[0] == 20
    assert runs.prepared(3, dataset={"name": "faq", "sampleRows": 20})[0] == 0


def test_another_namespace_never_shares(anywhere):
    anywhere.prepared(1)
    assert anywhere.prepared(1, "other")[0] == 60
    assert anywhere.encoded(1, "other") == anywhere.encoded(1)


def test_a_run_finds_its_own_encodings_again(runs):
    runs.prepared(1)
    assert runs.prepared(1, attempt=2)[0] == 0
    assert runs.prepared(1, attempt=1)[0] == 0
    assert runs.encoded(1) == ["encoded-1-1-train", "encoded-1-1-validation"]


def rewritten(store, name, content):
    store.delete(name)
    store.write(name, content)


def without_manifest(runs):
    runs.store(1).delete(f"encoded-1-1-train/{MANIFEST}")


def without_tokens(runs):
    runs.store(1).delete("encoded-1-1-train/tokens-0")


def with_a_wrong_byte(runs):
    store, name = runs.store(1), "encoded-1-1-train/tokens-0"
    tokens = store.read(name)
    rewritten(store, name, bytes([tokens[0] ^ 1]) + tokens[1:])


def with_another_manifest(runs):
    store = runs.store(1)
    content = store.read(f"encoded-1-1-train/{MANIFEST}")
    rewritten(store, f"encoded-1-1-train/{MANIFEST}", content + b" ")


def gone(runs):
    for name in runs.store(1).list():
        runs.store(1).delete(name)


def pointers(runs, split="train"):
    names = open_store(runs.location).list("finetuneexperiments/default/encodings/")
    return [name for name in names if name.endswith(f"-{split}")]


@pytest.mark.parametrize(
    "harmed",
    [without_manifest, without_tokens, with_a_wrong_byte, with_another_manifest, gone],
)
def test_what_cannot_be_read_is_made_again_and_kept(anywhere, harmed):
    _, files, _ = anywhere.prepared(1)
    harmed(anywhere)
    tokenised, same, _ = anywhere.prepared(2)
    assert tokenised == (60 if harmed is gone else 57)
    assert same == files
    assert "encoded-1-1-train" in anywhere.encoded(2)
    assert anywhere.prepared(3)[0] == 0


def test_encodings_of_other_records_are_not_taken_for_those_of_a_key(runs):
    _, files, _ = runs.prepared(1)
    (train,), (validation,) = pointers(runs), pointers(runs, "validation")
    root, store = open_store(runs.location), runs.store(1)
    for name in store.list("encoded-1-1-validation/"):
        rewritten(store, name.replace("validation", "train"), store.read(name))
    rewritten(root, train, root.read(validation))
    tokenised, same, _ = runs.prepared(2)
    assert (tokenised, same) == (57, files)


def test_what_a_killed_writer_left_is_in_nobodys_way(anywhere):
    anywhere.store(1).write("encoded-1-1-train/tokens-0", b"half")
    assert anywhere.prepared(1)[0] == 60
    assert "encoded-1-1-train.1" in anywhere.encoded(1)
    assert anywhere.prepared(2)[0] == 0


def test_of_two_at_a_time_the_quicker_one_keeps(runs, monkeypatch):
    keep, others = SharedEncodings.keep, [2]

    def overtaken(shared):
        if others:
            runs.prepared(others.pop())
        keep(shared)

    monkeypatch.setattr(SharedEncodings, "keep", overtaken)
    runs.prepared(1)
    assert (runs.encoded(1), len(runs.encoded(2))) == ([], 2)


def test_two_pods_of_one_attempt_leave_one_whole_encoding(runs, monkeypatch):
    write = PathStore.write

    def overtaken(store, name, data):
        if name == "tokens-0" and "encoded-1-1-train" in store.uri:
            monkeypatch.setattr(PathStore, "write", write)
            runs.prepared(1)
        return write(store, name, data)

    monkeypatch.setattr(PathStore, "write", overtaken)
    runs.prepared(1)
    assert runs.encoded(1) == ["encoded-1-1-train", "encoded-1-1-validation"]
    assert runs.prepared(2)[0] == 0


def test_storage_without_room_for_encodings_harms_no_run(runs, monkeypatch):
    write = PathStore.write

    def full(store, name, data):
        if name == "turns-0":
            raise ResourcesExhaustedError("no space left", reason="NoSpace")
        return write(store, name, data)

    monkeypatch.setattr(PathStore, "write", full)
    assert runs.prepared(1)[0] == 60
    assert (runs.encoded(1), pointers(runs)) == ([], [])


def test_storage_that_refuses_to_list_encodings_harms_no_run(runs, monkeypatch):
    listed = PathStore.list

    def refused(store, prefix=""):
        if prefix.startswith("encodings/"):
            raise ResourcesExhaustedError("permission denied", reason="StorageUnavailable")
        return listed(store, prefix)

    runs.prepared(1)
    monkeypatch.setattr(PathStore, "list", refused)
    assert runs.prepared(2)[0] == 60


KEY = "0" * 64


@pytest.mark.parametrize(
    ("pointer", "expected"),
    [
        (f"encodings/{KEY}/a-1/encoded-1-1-train", "a-1/encoded-1-1-train"),
        (f"encodings/{KEY}/a-1/encoded-2-3-test.4", "a-1/encoded-2-3-test.4"),
        (f"encodings/{KEY}/../encoded-1-1-train", None),
        (f"encodings/{KEY}/../other/encoded-1-1-train", None),
        (f"encodings/{KEY}/a-1/../encoded-1-1-train", None),
        (f"encodings/{KEY}/a-1/prepared-1-1", None),
        (f"encodings/{KEY}/a-1/encoded-1-1-train/manifest.json", None),
        (f"encodings/{KEY}/a-1/encoded-1-1-train\n", None),
        ("encodings/short/a-1/encoded-1-1-train", None),
    ],
)
def test_no_pointer_leads_out_of_its_namespace(pointer, expected):
    assert target(pointer) == expected


def test_names_that_are_no_pointers_are_not_followed(runs):
    runs.prepared(1)
    (pointer,) = pointers(runs)
    folder = pointer.rpartition(f"/run-1-{UID.format(1)}/")[0]
    open_store(runs.location).write(f"{folder}/0/secret", b"x")
    assert runs.prepared(2)[0] == 0


def test_delete_takes_the_encodings_with_the_experiment(anywhere):
    spec = {"storage": {"deletionPolicy": "Delete"}}
    anywhere.prepared(1, **spec)
    note_deletion_policy(anywhere.config(1, **spec))
    request = PruneRequest(
        location=anywhere.location, stale_seconds=1e-9, folders=[anywhere.home(1)]
    )
    prune.removed(request)
    assert anywhere.store(1).list() == []
    found = prune.found(PruneRequest(location=anywhere.location, stale_seconds=1e-9))
    assert [one.name for one in found.leftovers] == sorted(
        pointers(anywhere) + pointers(anywhere, "validation")
    )
    assert anywhere.prepared(2)[0] == 60
    prune.removed(request.model_copy(update={"folders": [], "leftovers": found.leftovers}))
    assert [name.split("/")[4] for name in pointers(anywhere)] == [f"run-2-{UID.format(2)}"]
    assert anywhere.prepared(3)[0] == 0


def test_half_written_encodings_are_leftovers_and_whole_ones_are_not(anywhere):
    half = "encoded-1-1-train/"
    anywhere.store(1).write(f"{half}tokens-0", b"half")
    anywhere.prepared(1)
    look = PruneRequest(location=anywhere.location, stale_seconds=1e-9)
    found = prune.found(look)
    assert [one.name for one in found.leftovers] == [f"{anywhere.home(1)}/{half}"]
    prune.removed(look.model_copy(update={"leftovers": found.leftovers}))
    assert anywhere.encoded(1) == ["encoded-1-1-train.1", "encoded-1-1-validation"]


def test_a_spool_comes_back_from_its_files_with_turns(tmp_path):
    special = SpecialTokens(end="<|end|>", all=frozenset({"<|end|>"}))
    tokenizer = TextTokenizer(trained_tokenizer(["question answer"]), special, None)
    source = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}"
    encoder = Encoder(tokenizer, ChatTemplate("own", source, special), with_turns=True)
    turns = [
        [{"role": role, "content": f"{role} {n}"} for role in ("user", "assistant") * 2]
        for n in range(7)
    ]
    rows = Rows([str(n) for n in range(7)], [None] * 7, turns, [None] * 7)
    *_, (_, spool) = spooled_samples(SplitSource("train", rows, encoder), tmp_path / "train")
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, content in spool.files():
        (copy / name).write_bytes(b"".join(content))
    same = TokenSpool.of_files(copy)
    assert len(same.turns) == 28
    for part in ("tokens", "flags", "turns"):
        assert np.array_equal(getattr(same, part), getattr(spool, part))
    assert np.array_equal(same.table(), spool.table())
    (copy / "flags-0").write_bytes(b"")
    with pytest.raises(ValueError, match="not those of its samples"):
        TokenSpool.of_files(copy)
