"""Cuts checkpoints on all ranks after the same step; each rank that holds rows writes them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch._C._distributed_c10d import Store

from finetune_trainer.checkpoint import Checkpoints, Parts, Snapshot
from finetune_trainer.engine import Engine
from finetune_trainer.pieces import Piece
from finetune_trainer.run_record import RunRecord
from finetune_trainer.saver import FINISH_SECONDS, Saver
from finetune_trainer.store_protocol import FileEntry
from finetune_trainer.uploads import Uploads

POLL_SECONDS = 0.05


class Saving:
    """One rank's side of saving: rank 0 decides when, and writes the manifest.

    Ranks that write beside it tell their files in the store, from a thread with a connection of its
    own: there is no collective, and no rank waits for another's writing.
    """

    def __init__(
        self,
        engine: Engine,
        checkpoints: Checkpoints | None,
        saver: Saver | None,
        files: Mapping[str, bytes],
    ) -> None:
        self._engine, self._checkpoints, self._saver = engine, checkpoints, saver
        self._files, self._cuts = files, 0
        world = engine.world
        self._told: Store | None = world.store.clone() if world.store is not None else None
        self._own = 0 < world.rank < engine.writers
        self._uploads = Uploads() if self._own else None

    def cut(self, record: RunRecord, beat: Callable[[], None], *, wait: bool = False) -> None:
        """Copy the state and queue its writing, if rank 0 finds that one is due; collective."""
        engine, saver = self._engine, self._saver
        begins = saver.begins(record.step, beat, wait=wait) if saver is not None else False
        if engine.sharded:
            begins = engine.world.tell(f"cut/{self._cuts}", begins)
            self._cuts += 1
        if not begins or (saver is None and not engine.sharded):
            return
        snapshot = self._snapshot(record)
        if saver is not None:
            saver.submit(snapshot, Parts(engine.writers, self._others(self._cuts)), record)
        elif self._uploads is not None:
            number = self._cuts
            self._uploads.submit(
                f"part of step {snapshot.step}", lambda: self._write_part(snapshot, number)
            )

    def finish(self, beat: Callable[[], None], seconds: float = FINISH_SECONDS) -> None:
        """Wait until this rank has everything in storage."""
        if self._saver is not None:
            self._saver.finish(beat, seconds)
        if self._uploads is not None:
            self._uploads.finish(seconds, beat)

    def _snapshot(self, record: RunRecord) -> Snapshot:
        engine, saver = self._engine, self._saver
        if saver is not None:
            record.checkpoints = [ref.model_dump() for ref in saver.known().values()]
        copies = _Copies()
        return Snapshot(
            step=record.step,
            weights=copies.of(engine.weights()),
            moments=copies.of(engine.moments()),
            state={
                "step": record.step,
                "world": engine.world.size,
                "versions": {"torch": torch.__version__},
                "record": record.as_json(),
            },
            files=self._files,
            arrived=copies.arrived(),
        )

    def _write_part(self, snapshot: Snapshot, number: int) -> None:
        assert self._checkpoints is not None  # noqa: S101 - for mypy
        assert self._told is not None  # noqa: S101
        rank = self._engine.world.rank
        entries = self._checkpoints.write_part(snapshot, rank, self._engine.writers)
        self._told.set(f"part/{number}/{rank}", json.dumps([vars(one) for one in entries]))

    def _others(self, number: int) -> Callable[[], Sequence[FileEntry]]:
        keys = [f"part/{number}/{rank}" for rank in range(1, self._engine.writers)]

        def wait() -> list[FileEntry]:
            found: list[FileEntry] = []
            for key in keys:
                assert self._told is not None  # noqa: S101 - several writers have a store
                while not self._told.check([key]):
                    time.sleep(POLL_SECONDS)
                found += [FileEntry(**one) for one in json.loads(self._told.get(key))]
            return found

        return wait


class _Copies:
    """Copies to host memory that the device makes while the host goes on."""

    def __init__(self) -> None:
        self._cuda = False

    def of(self, pieces: Sequence[Piece]) -> list[Piece]:
        return [Piece(one.name, self._copy(one.tensor), one.shape, one.first) for one in pieces]

    def arrived(self) -> Callable[[], None]:
        """Return what waits for all copies so far."""
        if not self._cuda:
            return lambda: None
        event: Any = torch.cuda.Event  # untyped in torch
        done = event()
        done.record()
        wait: Callable[[], None] = done.synchronize
        return wait

    def _copy(self, tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_cuda:
            return tensor.detach().clone()
        self._cuda = True
        # In the order of the stream: the next update waits for the copy, the host does not.
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return host.copy_(tensor.detach(), non_blocking=True)
