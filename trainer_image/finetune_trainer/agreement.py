"""All ranks act after the same step, though only one was asked to."""

from __future__ import annotations

import threading
import time

from torch._C._distributed_c10d import Store

from finetune_trainer.distributed import POLL_SECONDS, World
from finetune_trainer.errors import PeerLostError


class Agreement:
    """Lets all ranks act after the same step, though only one was asked to.

    The main thread passes a gate before every turn (a step, or a batch of an evaluation). Who is
    asked posts the wish in the store. In every rank a listener with a connection of its own then
    closes the gate, posts the last turn entered, reads all posts and opens the gate for the
    largest. The main thread never waits for posts inside a turn: a peer may need its gradients.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._gate, self._lock = threading.Event(), threading.Lock()
        self._gate.set()
        self._entered, self._number = 0, 0
        self._due: dict[str, int] = {}
        self._asked: set[str] = set()
        self._lost: BaseException | None = None
        self._ended = threading.Event()
        self._listener: threading.Thread | None = None
        if world.store is not None:
            store = world.store.clone()
            self._listener = threading.Thread(target=self._listen, args=(store,), daemon=True)
            self._listener.start()

    def ask(self, wish: str) -> None:
        """Wish something for after the present turn; safe in a signal handler."""
        self._asked.add(wish)

    def before_turn(self) -> set[str]:
        """Pass the gate; return the wishes all ranks carry out now, before this turn."""
        if self._world.store is None:
            due, self._asked = self._asked, set()
            return due
        while True:
            if not self._gate.wait(timeout=1.0) and self._lost is None:
                continue
            with self._lock:
                if self._lost is not None:
                    raise PeerLostError("another rank ended or cannot be reached") from self._lost
                due_now = {wish for wish, turn in self._due.items() if turn <= self._entered}
                for wish in due_now:
                    del self._due[wish]
                if due_now:
                    return due_now
                if self._gate.is_set():
                    self._entered += 1
                    return set()

    def close(self) -> None:
        """Stop listening once no rank can wish anything more; a collective call."""
        if self._listener is None or self._world.store is None:
            return
        store = self._world.store
        store.add("closing", 1)
        while self._lost is None and store.add("closing", 0) < self._world.size:
            time.sleep(POLL_SECONDS / 4)
        self._ended.set()
        self._listener.join()

    def _listen(self, store: Store) -> None:
        try:
            while not self._ended.is_set():
                self._look(store)
                time.sleep(POLL_SECONDS)
        except Exception as error:
            self._lost = error
            self._gate.set()

    def _look(self, store: Store) -> None:
        key = f"wish/{self._number}"
        mine = min(self._asked, default="")
        if mine:
            store.compare_set(key, "", mine)
        if not store.check([key]):
            return
        wish = store.get(key).decode()
        self._gate.clear()
        with self._lock:
            entered = self._entered
        store.set(f"{key}/{self._world.rank}", str(entered))
        keys = [f"{key}/{rank}" for rank in range(self._world.size)]
        while not store.check(keys):
            if self._ended.is_set():
                return
            time.sleep(POLL_SECONDS / 10)
        with self._lock:
            self._due[wish] = max(int(store.get(one)) for one in keys)
            self._asked.discard(wish)
            self._number += 1
        self._gate.set()
