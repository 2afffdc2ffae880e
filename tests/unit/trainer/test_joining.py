"""Ranks come to the store of rank 0, also when it has to be begun anew."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import TCPStore

from finetune_trainer.distributed import Signs, joined_store
from finetune_trainer.errors import PeerLostError
from finetune_trainer.launch import _free_port


@pytest.fixture
def port(monkeypatch):
    number = _free_port()
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", str(number))
    return number


def test_a_rank_joins_again_when_rank_0_begins_its_store_anew(port):
    first = TCPStore("localhost", port, is_master=True, wait_for_workers=False)
    seen, ends = [], time.monotonic() + 60
    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(joined_store, "run", 1, 2, Signs(joined=seen.append), ends)
        while not seen:
            time.sleep(0.01)
        del first
        rank_0 = pool.submit(joined_store, "run", 0, 2, Signs(), ends)
        for place in (rank_0.result(60)[1], other.result(60)[1]):
            assert place.add("joined", 0) == 2
    assert (seen[0], seen[-1]) == (1, 2)


def test_a_rank_that_waits_in_vain_ends_at_the_deadline(port):
    with pytest.raises(PeerLostError, match="only 1 of 2 ranks came"):
        joined_store("run", 0, 2, Signs(), time.monotonic() + 0.3)
