"""Runs of the three kinds on this machine, over a tiny model: manifests, waiting, results."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from finetune_cli.local_run import LocalRun
from finetune_operator.cluster.local_cluster import LocalCluster

STEPS = 120


class SilentView:
    """Shows nothing and remembers what was said."""

    def __init__(self):
        self.rows, self.said = [], []

    def show(self, rows):
        self.rows = list(rows)

    def say(self, text):
        self.said.append(text)

    def close(self):
        pass


class LocalStory:
    """One work directory and the manifests in it."""

    def __init__(self, folder: Path, inputs: Path):
        self.folder, self.work_dir = folder, folder / "work"
        self.manifests = folder / "manifests"
        self.manifests.mkdir(parents=True)
        (self.work_dir / "claims").mkdir(parents=True)
        (self.work_dir / "claims" / "inputs").symlink_to(inputs)

    def add(self, *manifests):
        """Put manifests into the folder that runs read."""
        for manifest in manifests:
            name = f"{manifest['kind']}-{manifest['metadata']['name']}.json".lower()
            (self.manifests / name).write_text(json.dumps(manifest))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[tuple[LocalRun, asyncio.Task[int]]]:
        """Run the folder's manifests as `finetune run` does."""
        cluster = LocalCluster(self.work_dir, devices=[])
        self.view = SilentView()
        local_run = LocalRun(cluster, [self.manifests], self.view)
        with cluster.locked():
            assert local_run.submit() == []
            task = asyncio.create_task(local_run.run())
            try:
                yield local_run, task
            finally:
                if not task.done():
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task

    async def run(self) -> int:
        """Run to the end and return the exit code."""
        async with self.running() as (_, task):
            return await task

    def object(self, kind):
        """Return the only object of a kind as it was stored last."""
        (path,) = (self.work_dir / "objects" / kind.lower()).rglob("*.json")
        return json.loads(path.read_text())

    def condition(self, kind, name):
        """Return one condition of the only object of a kind."""
        conditions = self.object(kind).get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == name), {})

    def path(self, uri):
        """Return the folder behind a URI of a claim."""
        claim, _, path = uri.removeprefix("pvc://").partition("/")
        return self.work_dir / "claims" / claim / path

    def weights(self):
        """Return the bytes of the result's weights."""
        folder = self.path(self.object("FineTuneExperiment")["status"]["result"]["uri"])
        files = sorted(folder.glob("trainable-*.safetensors"))
        assert files
        return [file.read_bytes() for file in files]

    def log(self):
        """Return all that pods and operator wrote, for failing tests."""
        files = [*(self.work_dir / "logs").glob("*.log"), self.work_dir / "operator.log"]
        return "\n".join(f"--- {f.name}\n{f.read_text()[-3000:]}" for f in files if f.exists())


async def until(look, run, task):
    """Wait until `look` gives something; fails at once when the run ends before."""
    while not (found := look()):
        assert not task.done(), f"the run ended early: {task.result()}; {run.rows()}"
        await asyncio.sleep(0.05)
    return found


def rank_processes(work_dir):
    """Return the pids of trainer ranks that belong to a work directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (path / "cmdline").read_bytes().split(b"\0")
            environment = (path / "environ").read_bytes()
            if b"rank" in command and str(work_dir).encode() in environment:
                found.append(int(path.name))
    return found


def dataset(path="train.jsonl", **spec):
    source = {"volumeClaim": {"claimName": "inputs", "path": path}}
    return _object("Dataset", "sums", {"sources": [source], **spec})


def experiment(*, steps=STEPS, **spec):
    return _object(
        "FineTuneExperiment",
        "sums",
        {
            "model": {"volumeClaim": {"claimName": "inputs", "path": "base-model"}},
            "dataset": {"name": "sums"},
            "tokenizer": {"maxLength": 64},
            "training": {
                "maxSteps": steps,
                "globalBatchSize": 8,
                "perDeviceBatchSize": 4,
                "learningRate": 1e-3,
                "seed": 7,
            },
            "evaluation": {"atStart": True, "generateSamples": 1, "maxRows": 16},
            "generation": {"maxNewTokens": 8},
            "checkpoint": {"everySteps": 10, "everySeconds": 0, "keepLast": 3, "result": "Last"},
            "compute": {"gpusPerNode": 0, "processesPerNode": 2},
            "tracking": {"logEverySteps": 1},
            **spec,
        },
    )


def export():
    target = {"name": "folder", "volumeClaim": {"claimName": "published", "path": "model"}}
    source = {"experiment": {"name": "sums"}}
    return _object("ModelExport", "sums", {"source": source, "targets": [target]})


def _object(kind, name, spec):
    metadata = {"name": name}
    return {
        "apiVersion": "finetune.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec
    }  # fmt: skip


def interrupt():
    """Do what Ctrl-C does."""
    os.kill(os.getpid(), 2)
