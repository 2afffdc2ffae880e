"""Ranks of two nodes: numbers over all of them, devices within each."""

from __future__ import annotations

import json

import pytest
import torch

from finetune_trainer import launch
from finetune_trainer.distributed import World
from finetune_trainer.rank_folder import RankFolder

TELL = """
import json, os
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
with open(os.environ["FINETUNE_RANK_FOLDER"] + "/told-" + os.environ["RANK"], "w") as file:
    json.dump([int(os.environ[name]) for name in names], file)
"""


def test_two_nodes_of_two_processes_number_their_ranks_and_use_devices_0_and_1(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(launch, "RANK_PROGRAM", ("-c", TELL))
    told = []
    for node in range(2):
        monkeypatch.setenv("PET_NNODES", "2")
        monkeypatch.setenv("PET_NODE_RANK", str(node))
        monkeypatch.setenv("PET_NPROC_PER_NODE", "2")
        pod = launch.Pod(None, RankFolder(tmp_path))
        pod.start()
        for process in pod._processes.values():
            assert process.wait(60) == 0
        told += [json.loads((tmp_path / f"told-{rank}").read_text()) for rank in pod.ranks]
    assert told == [[0, 0, 4, 2], [1, 1, 4, 2], [2, 0, 4, 2], [3, 1, 4, 2]]


@pytest.mark.parametrize(("rank", "device"), [(0, 0), (1, 1), (2, 0), (3, 1)])
def test_a_device_is_numbered_within_its_node(monkeypatch, rank, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    world = World(rank=rank, size=4, local_rank=rank % 2, local_size=2)
    assert world.device == torch.device("cuda", device)
