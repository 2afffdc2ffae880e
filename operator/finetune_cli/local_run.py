"""One `finetune run`: the operator's own parts around a `LocalCluster`, until all is settled."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_api.run_progress import Progress
from finetune_api.storage import Location, VolumeClaim
from finetune_cli.live_view import View
from finetune_cli.read_manifests import Document, ManifestError, read_manifests
from finetune_cli.run_rows import Row, State, after, key_of, reference_of, row_of
from finetune_operator.assembly import Assembly
from finetune_operator.cluster.local_admission import AdmissionError
from finetune_operator.cluster.local_cluster import IMAGE, LocalCluster
from finetune_operator.observed import Key, Manifest, Policy

DEFAULT_CLAIM = "results"
"""Objects that name no storage write to this claim."""
LOOK_SECONDS = 0.2
PROGRESS_SECONDS = 0.5
MANIFESTS_SECONDS = 2.0
INTERRUPTED = 130
"""Exit code after Ctrl-C, as in a shell."""
STOPPING = "stopping: a checkpoint is being written; Ctrl-C again ends at once without one"


class LocalRun:
    """The objects of some manifests, brought to their end on this machine."""

    def __init__(self, cluster: LocalCluster, paths: Iterable[Path], view: View) -> None:
        self._cluster, self._paths, self._view = cluster, list(paths), view
        location = Location(volume_claim=VolumeClaim(claim_name=DEFAULT_CLAIM))
        self._assembly = Assembly(
            cluster,
            Policy(image=IMAGE, default_location=location),
            progress_seconds=PROGRESS_SECONDS,
        )
        self._keys: list[Key] = []
        self._read: dict[Path, int] = {}
        self._interrupts = 0

    async def run(self) -> int:
        """Run until nothing more happens by itself; return the exit code."""
        async with self._cluster.running(), self._assembly.running():
            with self._interruptible():
                return await self._watch()

    def submit(self) -> list[str]:
        """Submit the manifests; return the problems of all, in which case none was taken."""
        self._read = _versions(self._paths)
        try:
            documents = read_manifests(self._paths)
        except ManifestError as error:
            return list(error.problems)
        texts = [document for document in documents if document.is_config_map]
        documents = [document for document in documents if not document.is_config_map]
        problems = [p for document in documents for p in self._problems(document)]
        if problems:
            return problems
        for document in texts:
            self._cluster.hold(document.manifest)
        for document in documents:
            self._cluster.submit(document.manifest)
        self._keys = [key_of(_namespaced(document.manifest)) for document in documents]
        return []

    def objects(self) -> list[Manifest]:
        """Return the objects of this run as they are now."""
        return [item for item in self._cluster.ours() if key_of(item) in self._keys]

    def rows(self) -> list[Row]:
        """Return what is to be shown now."""
        found: dict[Key, Row] = {}
        for item in self._cluster.ours():  # what is waited for comes before what waits
            reference = reference_of(item)
            awaited = found[reference].state if reference in found else None
            row = row_of(item, self._progress(key_of(item)))
            found[row.key] = after(row, awaited)
        return [row for key, row in found.items() if key in self._keys]

    async def _watch(self) -> int:
        looks = 0
        while True:
            rows = self.rows()
            self._view.show(rows)
            if all(row.state.settled for row in rows):
                return self._exit_code(rows)
            if self._interrupts > 1 or (self._interrupts and not self._pods_remain()):
                return INTERRUPTED
            await asyncio.sleep(LOOK_SECONDS)
            looks += 1
            if looks % round(MANIFESTS_SECONDS / LOOK_SECONDS) == 0 and not self._interrupts:
                self._take_in_new_manifests()

    def _exit_code(self, rows: list[Row]) -> int:
        if self._interrupts:
            return INTERRUPTED
        return int(any(row.state in (State.FAILED, State.BLOCKED) for row in rows))

    def _problems(self, document: Document) -> list[str]:
        try:
            self._cluster.check(document.manifest)
        except AdmissionError as error:
            return [f"{document.origin}: {document.title}: {p}" for p in error.problems]
        return []

    def _take_in_new_manifests(self) -> None:
        """Submit manifests that were added or edited meanwhile, as a second `apply` would."""
        if _versions(self._paths) != self._read:
            for problem in self.submit():
                self._view.say(problem)

    def _progress(self, key: Key) -> Progress | None:
        """Return what the newest pod of an object that still runs answered."""
        cache = self._assembly.cache
        pods = [child for child in cache.children(key, "Pod") if not child.gone]
        running = [pod for pod in pods if pod.manifest()["status"].get("phase") == "Running"]
        told = (cache.progress(pod.key[2]) for pod in reversed(running))
        return next((one for one in told if one), None)

    def _pods_remain(self) -> bool:
        return any(
            pod["status"]["phase"] not in ("Succeeded", "Failed")
            for pod in self._cluster.objects.items("Pod")
        )

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._interrupt)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _interrupt(self) -> None:
        """Suspend what is unfinished; asked again, give up waiting for it."""
        self._interrupts += 1
        if self._interrupts > 1:
            return
        self._view.say(STOPPING)
        for row in self.rows():
            if not row.state.settled:
                self._cluster.suspend(row.key)


def _versions(paths: Iterable[Path]) -> dict[Path, int]:
    """Return all manifest files and when they were changed last."""
    files = [file for path in paths for file in (path.iterdir() if path.is_dir() else [path])]
    return {file: file.stat().st_mtime_ns for file in files if file.exists()}


def _namespaced(manifest: Manifest) -> Manifest:
    return {**manifest, "metadata": {"namespace": "default", **manifest["metadata"]}}
