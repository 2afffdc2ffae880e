"""One contender of `train_speed.py` in its own process; that script starts it."""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from contender_turns import Turns
from studio_step import studio_loop
from train_task import (
    ALPHA,
    RANK,
    RATE,
    SEED,
    Job,
    in_order,
    padded,
    peer_model,
    samples,
    seed_adapters,
)
from transformers import Trainer, TrainerCallback, TrainingArguments

PACKED_ROWS = 3
"""Rows of 512 packed tokens that hold about as many tokens as a step of 8 samples."""


def ours(job: Job, model: Path, turns: Turns) -> dict[str, Any]:
    """Train through the trainer's own configuration, plan, engine and loop."""
    from finetune_trainer.loop import Loop  # noqa: PLC0415 - peers do not load it
    from one_rank import one_rank  # noqa: PLC0415

    dtype = "BFloat16" if job.autocast else "Float32"
    adapter = {"type": "None"} if job.full else {"dropout": job.dropout}
    steps = job.epochs * job.steps
    plan = {"seed": SEED, "globalBatchSize": job.batch, "epochs": float(job.epochs)}
    plan |= {"totalSteps": steps, "stepsPerEpoch": job.steps, "computeDtype": dtype}
    plan |= {"maxTokensPerDevice": job.batch * 512, "maxLength": 512, "learningRate": RATE}
    plan |= {} if job.full else {"rank": RANK, "alpha": float(ALPHA)}
    with tempfile.TemporaryDirectory() as folder:
        run = one_rank(
            Path(folder),
            model,
            samples(job.samples),
            plan,
            adapter=adapter,
            training={
                "scheduler": "Constant",
                "gradientCheckpointing": "Never",
                "computeDtype": dtype,
            },
            tracking={"logEverySteps": job.steps},
        )
        seed_adapters(run.engine.task.model)
        beat = run.heartbeat.step_done

        def step_done(done: int, seconds: float) -> None:
            beat(done, seconds)
            turns.step_done(done)

        run.heartbeat.step_done = step_done  # type: ignore[method-assign]
        turns.begin()
        loop = Loop(run)
        loop.take_steps()
        loop.finish_saving()
        points = run.record.history
    return {"losses": [one[1] for one in points], "norms": [one[3] for one in points]}


class Gate(TrainerCallback):
    """Makes a library's trainer take turns and notes what it logs once per epoch."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.losses: list[float] = []
        self.norms: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Wait for the first turn."""
        self._turns.begin()

    def on_log(self, _args: Any, state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
        """Note loss and gradient norm; the log follows the last step of an epoch."""
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))
            self.norms.append(float(logs["grad_norm"]))
            self._turns.step_done(state.global_step)


def library_settings(job: Job, **changes: Any) -> dict[str, Any]:
    """Return the settings that transformers' and TRL's trainers share."""
    return {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": job.batch,
        "max_steps": job.epochs * job.steps,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "adam_beta2": 0.999,
        "max_grad_norm": 1.0,
        "logging_steps": job.steps,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "train_sampling_strategy": "sequential",
        "seed": SEED,
    } | changes


def trained_by_transformers(
    job: Job, model: Path, turns: Turns, *, strategy: str = "sequential"
) -> dict[str, Any]:
    """Train with transformers.Trainer and dynamic padding."""
    cache, gate = samples(job.samples), Gate(turns)
    settings = library_settings(job, train_sampling_strategy=strategy, remove_unused_columns=False)
    Trainer(
        model=peer_model(model, job),
        args=TrainingArguments(**settings),
        train_dataset=in_order(job, cache),
        data_collator=padded,
        callbacks=[gate],
    ).train()
    return {"losses": gate.losses, "norms": gate.norms}


def trained_by_trl(job: Job, model: Path, turns: Turns, **mode: Any) -> dict[str, Any]:
    """Train with TRL's SFTTrainer; its own default of gradient checkpointing is switched off."""
    from datasets import Dataset  # noqa: PLC0415 - the other contenders do not need it
    from trl import SFTConfig, SFTTrainer  # noqa: PLC0415

    rows = in_order(job, samples(job.samples))
    names = ("input_ids", "labels")
    data = Dataset.from_list([{name: one[name] for name in names} for one in rows])
    gate = Gate(turns)
    if mode.get("packing"):
        mode |= {"per_device_train_batch_size": PACKED_ROWS}
    # No sample is longer than 512, and padding-free refuses a limit.
    mode["max_length"] = None if mode.get("padding_free") else 512
    settings = library_settings(job, **mode)
    trainer = SFTTrainer(
        model=peer_model(model, job),
        args=SFTConfig(**settings),
        train_dataset=data,
        processing_class=word_tokenizer(),
        callbacks=[gate],
    )
    trainer.train()
    return {"losses": gate.losses, "norms": gate.norms}


def word_tokenizer() -> Any:
    """Return a tokenizer with a padding token; TRL asks for one though all data are ids."""
    from tokenizers import Tokenizer  # noqa: PLC0415
    from tokenizers.models import WordLevel  # noqa: PLC0415

    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"<pad>": 0, "<end>": 1}, unk_token="<pad>")),
        pad_token="<pad>",
        eos_token="<end>",
    )


CONTENDERS: dict[str, Callable[[Job, Path, Turns], dict[str, Any]]] = {
    "ours": ours,
    "Trainer": trained_by_transformers,
    "Trainer, grouped": lambda *a: trained_by_transformers(*a, strategy="group_by_length"),
    "TRL": trained_by_trl,
    "TRL, packing": lambda *a: trained_by_trl(*a, packing=True),
    "TRL, padding-free": lambda *a: trained_by_trl(*a, padding_free=True),
    "studio step": studio_loop,
}


def main(name: str, arguments: dict[str, Any]) -> None:
    """Train as one contender, taking turns."""
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    model = Path(arguments.pop("model"))
    job = Job(**arguments)
    turns = Turns(job.steps)
    found = CONTENDERS[name](job, model, turns)
    assert all(math.isfinite(one) and one > 0 for one in found["norms"]), found["norms"]
    turns.end(**found)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
