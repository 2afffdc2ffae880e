"""Forked gloo ranks that train a toy under a strategy and leave their whole state in a folder."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft  # noqa: F401 - loaded once, then inherited by every forked rank
import torch
from harness.ports import free_port
from safetensors.torch import load_file, save_file

from finetune_api.model_settings import Adapter, AdapterType
from finetune_api.training_settings import Training
from finetune_trainer.adapter import Trained, trainable_model
from finetune_trainer.data import rank_step
from finetune_trainer.distributed import Signs, World, join_world, leave_world
from finetune_trainer.engine import Engine
from finetune_trainer.guarded_update import GuardedUpdate
from finetune_trainer.model import load_base
from finetune_trainer.optim import optimizer_recipe
from finetune_trainer.pieces import Piece, fill, whole
from finetune_trainer.plan import Plan, PlanSettings
from finetune_trainer.problems.causal_lm import CausalLanguageModelling
from toy_llama import token_cache, toy_llama_folder

CACHE = token_cache(19)
STEPS, PEAK = 3, 1e-2
# With the usual 1e-8, Adam divides gradients that are nothing but rounding by themselves.
TRAINING = Training(adam_epsilon=1e-3)

Build = Callable[..., Engine]


def plan(budget: int = 40) -> Plan:
    """Return a plan with uneven ranks and, on several ranks, empty micro-batches."""
    settings = PlanSettings(seed=1, samples=7, budget=budget, grain=1, max_steps=6)
    return Plan(CACHE.lengths, CACHE.supervised, settings)


def toy_parts(folder: Path, *, full: bool) -> tuple:
    """Return task and optimizer builder of a toy that lies in `folder`."""
    base = load_base(folder, torch.float32)
    kind = AdapterType.NONE if full else AdapterType.LORA
    trained = trainable_model(base, Trained(Adapter(type=kind), rank=4, alpha=8.0, seed=5))
    recipe = optimizer_recipe(trained, TRAINING, PEAK)

    def update(named: Any) -> GuardedUpdate:
        return GuardedUpdate(recipe(named), named[0][1].device, keep_flag=True)

    return CausalLanguageModelling(trained, 5), update


def take_steps(engine: Engine, first: int = 0, last: int = STEPS, budget: int = 40) -> list[float]:
    """Take steps and return this rank's shares of the losses."""
    shares = []
    for number in range(first, last):
        world, share = engine.world, 0.0
        batches = rank_step(CACHE, plan(budget), number, world.rank, world.size).batches
        for batch in batches:
            loss = engine.loss_sum(batch, last=batch is batches[-1])
            engine.backward(loss)
            share += float(loss)
        shares.append(share)
        engine.clip_and_step(1.0 / (number + 1), 0.1)
    return shares


def ranks(
    folder: Path, size: int, work: Callable[[World], None], *, timeout_seconds: int = 60
) -> None:
    """Run `work` in forked ranks; raise what one of them printed when it failed."""
    port, processes = free_port(), []
    for rank in range(size):
        process = os.fork()
        if process:
            processes.append(process)
            continue
        code = 1
        try:
            torch.set_num_threads(1)
            os.environ |= {
                "RANK": str(rank),
                "WORLD_SIZE": str(size),
                "LOCAL_RANK": str(rank),
                "LOCAL_WORLD_SIZE": str(size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "GLOO_SOCKET_IFNAME": "lo",
            }
            world = join_world("toy", Signs(), deadline_seconds=60, timeout_seconds=timeout_seconds)
            work(world)
            leave_world(world)
            code = 0
        except BaseException:
            (folder / f"failed-{rank}.txt").write_text(traceback.format_exc())
        finally:
            os._exit(code)
    codes = [os.waitpid(process, 0)[1] for process in processes]
    failures = [path.read_text() for path in sorted(folder.glob("failed-*.txt"))]
    assert not any(codes), "\n".join(failures) or codes


def state_of(folder: Path, build: Build, size: int, *, full: bool, **options: Any) -> dict:
    """Train on `size` ranks; return weights and moments by name, put together from all ranks."""
    base = toy_llama_folder(folder / "toy")
    folder = folder / "ranks"
    folder.mkdir()

    def work(world: World) -> None:
        task, update = toy_parts(base, full=full)
        engine = build(task, update, world)
        take_steps(engine, **options)
        leave_pieces(folder, engine)

    ranks(folder, size, work)
    return together(read_pieces(folder))


def leave_pieces(folder: Path, engine: Engine) -> None:
    """Write what this rank would save."""
    tensors, facts = {}, {}
    for piece in (*engine.weights(), *engine.moments()):
        tensors[piece.name] = piece.tensor.detach().cpu().clone()
        facts[piece.name] = f"{piece.first}/{','.join(map(str, piece.shape))}"
    names = "\n".join(f"{name} {fact}" for name, fact in facts.items())
    (folder / f"pieces-{engine.world.rank}.txt").write_text(names)
    save_file(tensors, folder / f"pieces-{engine.world.rank}.safetensors")


def read_pieces(folder: Path) -> list[Piece]:
    """Return what all ranks have written."""
    found = []
    for path in sorted(folder.glob("pieces-*.txt")):
        tensors = load_file(path.with_suffix(".safetensors"))
        for line in path.read_text().splitlines():
            name, fact = line.split(" ")
            first, shape = fact.split("/")
            sizes = tuple(int(one) for one in shape.split(",") if one)
            found.append(Piece(name, tensors[name], sizes, int(first)))
    return found


def together(pieces: list[Piece]) -> dict[str, torch.Tensor]:
    """Return whole tensors made of pieces."""
    targets = {one.name: whole(one.name, torch.full(one.shape, torch.nan)) for one in pieces}
    fill(targets, pieces)
    return {name: one.tensor for name, one in targets.items()}


def largest_difference(one: dict, other: dict) -> float:
    """Return the largest relative difference, by norm, of two states' tensors."""
    assert one.keys() == other.keys()
    return max(
        float((one[name] - other[name]).norm() / one[name].norm().clamp(min=1e-12)) for name in one
    )
