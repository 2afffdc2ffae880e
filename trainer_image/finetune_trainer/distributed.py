"""Ranks of a run: rendezvous with a deadline, messages without pickles, stopping together."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist
from torch._C._distributed_c10d import HashStore, PrefixStore, Store, TCPStore

from finetune_trainer.errors import ConfigurationError, PeerLostError

POLL_SECONDS = 0.1
CONNECT_SECONDS, LEAVE_SECONDS = 5.0, 10.0
LOST = (
    "connection closed",
    "connection reset",
    "timed out",
    "broken pipe",
    "gloo",
    "nccl",
    "socket",
)


@dataclass(frozen=True)
class World:
    """This process among the ranks of an attempt."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    store: Store | None = None
    beat: Callable[[], None] = lambda: None
    """beat is called while waiting, so that a rank that waits for rank 0 is not taken for hung."""
    timeout: timedelta = timedelta(minutes=10)
    """timeout of every collective, for groups that are made of some ranks."""

    @property
    def device(self) -> torch.device:
        """The device of this rank; devices are numbered within the pod."""
        if torch.cuda.is_available():
            return torch.device("cuda", self.local_rank)
        return torch.device("cpu")

    def tell(self, key: str, value: Any = None) -> Any:
        """Give a value of rank 0 to all ranks, as JSON; collective, each call with its own key."""
        if self.store is None:
            return value
        if self.rank == 0:
            self.store.set(key, json.dumps(value))
            return value
        return self._awaited(key)

    def gather(self, key: str, value: Any) -> list[Any]:
        """Return the values of all ranks on rank 0, an empty list elsewhere; JSON, no pickles."""
        if self.store is None:
            return [value]
        self.store.set(f"{key}/{self.rank}", json.dumps(value))
        if self.rank:
            return []
        return [self._awaited(f"{key}/{rank}") for rank in range(self.size)]

    def _awaited(self, key: str) -> Any:
        """Wait without a limit: rank 0's own work may take longer than any collective."""
        while self.store is not None and not self.store.check([key]):
            self.beat()
            time.sleep(POLL_SECONDS / 4)
        return json.loads(self.store.get(key)) if self.store is not None else None


@dataclass(frozen=True)
class Signs:
    """What a rank shows while it waits for others."""

    beat: Callable[[], None] = lambda: None
    joined: Callable[[int], None] = lambda _: None


def join_world(run: str, signs: Signs, *, deadline_seconds: int, timeout_seconds: int) -> World:
    """Join the other ranks named by torchrun's variables.

    Raises PeerLostError when they do not come until the deadline. All waiting is done here, not
    inside the library, so that a signal is answered at once.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if torch.cuda.is_available():
        torch.cuda.set_device(local[0])
    if size == 1:
        signs.joined(1)
        return World()
    ends = time.monotonic() + deadline_seconds
    store, own = joined_store(run, rank, size, signs, ends)
    store.set_timeout(timedelta(seconds=timeout_seconds))
    dist.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        store=PrefixStore(f"{run}/group", store),
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=timeout_seconds),
    )
    return World(rank, size, *local, own, signs.beat, timedelta(seconds=timeout_seconds))


def joined_store(
    run: str, rank: int, size: int, signs: Signs, ends: float
) -> tuple[Store, PrefixStore]:
    """Return the store of rank 0, and this run's part of it, once all ranks have come to it.

    A rank joins again when the store goes away meanwhile: on a busy node rank 0 may have to begin
    it anew, and whoever was there already would end for nothing.
    """
    while True:
        store = _store(rank, ends, signs.beat)
        own = PrefixStore(run, store)
        try:
            if own.add(f"joined/{rank}", 1) == 1:
                own.add("joined", 1)
            while (present := own.add("joined", 0)) < size:
                signs.beat()
                signs.joined(present)
                _end_waiting(ends, f"only {present} of {size} ranks came")
                time.sleep(POLL_SECONDS)
        except dist.DistError:
            _end_waiting(ends, "the store of rank 0 went away")
        else:
            signs.joined(size)
            return store, own


def group_of_one() -> None:
    """Give this only rank a process group, which sharding libraries ask for."""
    if not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)


def leave_world(world: World) -> None:
    """Leave the other ranks after a common end; rank 0, whose store all use, goes last."""
    if world.store is None:
        if dist.is_initialized():
            dist.destroy_process_group()
        return
    world.store.add("left", 1)
    ends = time.monotonic() + LEAVE_SECONDS
    while world.rank == 0 and world.store.add("left", 0) < world.size:
        if time.monotonic() > ends:
            break
        time.sleep(POLL_SECONDS / 4)
    dist.destroy_process_group()


def agree(world: World, facts: dict[str, Any]) -> None:
    """Compare what all ranks must have in common; raise ConfigurationError for a difference."""
    ours = json.loads(json.dumps(facts))
    first = world.tell("facts", ours)
    different = [name for name in ours if ours[name] != first.get(name)]
    if different:
        raise ConfigurationError(
            f"rank {world.rank} and rank 0 differ in {', '.join(different)}; give all pods of an "
            "attempt the same configuration"
        )


@contextmanager
def peers_watched() -> Iterator[None]:
    """Turn errors of the communication library into PeerLostError."""
    try:
        yield
    except dist.DistError as error:
        raise PeerLostError("another rank ended or cannot be reached") from error
    except RuntimeError as error:
        text = str(error).lower()
        if not isinstance(error, NotImplementedError) and any(word in text for word in LOST):
            raise PeerLostError("another rank ended or cannot be reached") from error
        raise


def _store(rank: int, ends: float, beat: Callable[[], None]) -> Store:
    # Rank 0 itself needs no name service to reach its own store.
    host = os.environ["MASTER_ADDR"] if rank else "localhost"
    port = int(os.environ["MASTER_PORT"])
    while True:
        try:
            return TCPStore(
                host,
                port,
                is_master=rank == 0,
                wait_for_workers=False,
                timeout=timedelta(seconds=CONNECT_SECONDS),
            )
        except (dist.DistError, RuntimeError, ValueError):
            # The name of a pod that does not run yet does not resolve.
            beat()
            _end_waiting(ends, f"rank 0 at {host}:{port} was not reached")
            time.sleep(1 + rank % 7 / 7)


def _end_waiting(ends: float, what: str) -> None:
    if time.monotonic() > ends:
        raise PeerLostError(
            f"{what} until the start deadline; check that all pods of the attempt can start"
        )
