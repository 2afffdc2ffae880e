"""Writes in the background: an outage stops no training, what cannot be written is an error."""

from __future__ import annotations

import threading

import pytest

from finetune_trainer import uploads
from finetune_trainer.errors import (
    ExternalServiceError,
    PeerLostError,
    ResourcesExhaustedError,
)
from finetune_trainer.uploads import Uploads


@pytest.fixture(autouse=True)
def _no_delay(monkeypatch):
    monkeypatch.setattr(uploads, "FIRST_DELAY_SECONDS", 0.01)
    monkeypatch.setattr(uploads, "LONGEST_DELAY_SECONDS", 0.01)


def failing(error: Exception, times: int, done: list[str]):
    left = iter([error] * times)

    def write() -> None:
        for one in left:
            raise one
        done.append("written")

    return write


def quiet() -> None:
    """Beat for nobody."""


def test_a_write_is_repeated_until_it_succeeds():
    done: list[str] = []
    queue = Uploads()
    queue.submit("checkpoint", failing(ExternalServiceError("gateway down"), 3, done))
    queue.finish(20, quiet)
    assert done == ["written"]
    assert queue.retries == 3
    assert not queue.busy


def test_writes_keep_their_order():
    seen: list[int] = []
    queue = Uploads()
    for number in range(5):
        queue.submit(str(number), lambda number=number: seen.append(number))
    queue.finish(20, quiet)
    assert seen == [0, 1, 2, 3, 4]


def test_an_outage_alone_does_not_stop_training():
    queue, began = Uploads(), threading.Event()

    def write() -> None:
        began.set()
        raise OSError("input/output error")

    queue.submit("checkpoint", write)
    assert began.wait(20)
    queue.check(postponing=True)
    assert queue.busy


def test_a_write_that_never_succeeds_ends_the_run_as_external_service():
    queue = Uploads()
    queue.submit("checkpoint", failing(OSError("input/output error"), 10_000, []))
    with pytest.raises(ExternalServiceError, match="could not be written"):
        queue.finish(0.2, quiet)


def test_a_full_disk_ends_the_run_when_a_second_checkpoint_is_due():
    queue, tried = Uploads(), threading.Event()

    def write() -> None:
        if queue.retries:
            tried.set()
        raise ResourcesExhaustedError("no space left", reason="NoSpace")

    queue.submit("checkpoint", write)
    assert tried.wait(20)
    queue.check()
    with pytest.raises(ResourcesExhaustedError):
        queue.check(postponing=True)


def test_a_volume_that_answers_with_errors_for_a_while_is_an_outage():
    queue, tried = Uploads(), threading.Event()

    def write() -> None:
        tried.set()
        raise ResourcesExhaustedError("input/output error", reason="StorageUnavailable")

    queue.submit("checkpoint", write)
    assert tried.wait(20)
    queue.check(postponing=True)
    with pytest.raises(ExternalServiceError):
        queue.finish(0.1, quiet)


def test_a_newer_attempt_ends_the_run_at_once():
    queue = Uploads()
    queue.submit("checkpoint", failing(PeerLostError("attempt 3 has begun"), 1, []))
    with pytest.raises(PeerLostError):
        queue.finish(20, quiet)
