"""Experiments on one Dataset that count what they tokenise, on a volume or in a bucket."""

from __future__ import annotations

from contextlib import contextmanager

from data_ground import RESULTS, Ground, identity, jsonl, questions, reporter
from finetune_api.names import EXPERIMENT, storage_prefix
from finetune_api.storage import Location
from finetune_trainer.prepare import run
from finetune_trainer.prepared_samples import SplitSource
from finetune_trainer.store import open_store
from local_web import local_web
from preparation_bench import Bench
from s3_stub import S3Stub

UID = "0f4fd9e5-1d0f-4a3b-9c54-8f3e5f2ab00{}"


@contextmanager
def sharing_runs(place, folder, monkeypatch):
    """Yield `Runs` on sixty records, whose results lie in a folder or in a bucket."""
    bench = Bench(Ground(folder, monkeypatch))
    bench.model()
    bench.dataset(jsonl(questions(60)))
    if place == "folder":
        yield Runs(bench, Location.model_validate(RESULTS), monkeypatch)
        return
    with local_web(S3Stub()) as web:
        s3 = {"bucket": "lake", "prefix": "a", "endpoint": web.url(""), "pathStyle": True}
        location = Location.model_validate({"s3": s3 | {"anonymous": True}})
        yield Runs(bench, location, monkeypatch)


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

    def pointers(self, split="train"):
        """Return the names of all pointers of the namespace to encodings of a split."""
        names = open_store(self.location).list("finetuneexperiments/default/encodings/")
        return [name for name in names if name.endswith(f"-{split}")]
