"""One contender of `train_gpu.py` in its own process; that script starts it and reads its file."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from gpu_task import CHAT, SHAPES, chat_lengths, random_samples
from transformers import TrainerCallback

LEARNING_RATE, RANK, ALPHA, SEED = 1e-4, 16, 32, 1
GENERATED, PROMPTS, PROMPT_TOKENS = 128, 64, 200


class Stopwatch:
    """Notes when the first step ended, and the seconds from the last warm-up step to the end."""

    def __init__(self, warmup: int, total: int) -> None:
        self._warmup, self._total, self._begun = warmup, total, time.perf_counter()
        self.facts: dict[str, float] = {}

    def step_done(self, done: int) -> None:
        """Wait for the device at the three steps that are noted, and only there."""
        if done not in (1, self._warmup, self._total):
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if done == 1:
            self.facts["first_step_seconds"] = now - self._begun
        if done == self._warmup:
            self._started = now
        if done == self._total:
            self.facts["seconds"] = now - self._started

    def memory(self) -> dict[str, float]:
        """Return the peaks of the device in gigabytes."""
        if not torch.cuda.is_available():
            return {}
        return {
            "allocated_gb": torch.cuda.max_memory_allocated() / 1e9,
            "reserved_gb": torch.cuda.max_memory_reserved() / 1e9,
        }


def ours(case: dict[str, Any], watch: Stopwatch) -> dict[str, Any]:
    """Train through the trainer's own configuration; then cut a checkpoint and answer prompts."""
    from finetune_trainer.loop import Loop  # noqa: PLC0415 - peers do not load it
    from one_rank import one_rank  # noqa: PLC0415

    full = case["full"]
    with tempfile.TemporaryDirectory() as folder:
        run = one_rank(
            Path(folder),
            Path(case["model"]),
            samples(case),
            _plan(case),
            adapter={"type": "None"} if full else {},
            training={
                "scheduler": "Constant",
                "computeDtype": "BFloat16",
                "gradientCheckpointing": "Always" if case["checkpointing"] else "Never",
                "compile": case["compile"],
                "probeMemory": False,
            },
            tracking={"logEverySteps": 10},
        )
        beat = run.heartbeat.step_done

        def step_done(done: int, seconds: float) -> None:
            beat(done, seconds)
            watch.step_done(done)

        run.heartbeat.step_done = step_done  # type: ignore[method-assign]
        loop = Loop(run)
        loop.take_steps()
        loop.finish_saving()
        facts = {"losses": [one[1] for one in run.record.history]} | watch.memory()
        progress = json.loads((Path(folder) / "progress.json").read_bytes())
        facts["phases"] = progress.get("phaseSeconds")
        facts["flops"] = [run.flops.per_token, run.flops.per_row, run.flops.per_square]
        return facts | _cut_seconds(run) | _generation(run.engine, case)


def _plan(case: dict[str, Any]) -> dict[str, Any]:
    steps = case["warmup"] + case["timed"]
    plan = {"seed": SEED, "globalBatchSize": case["batch"], "epochs": 1.0, "learningRate": 1e-4}
    plan |= {"totalSteps": steps, "stepsPerEpoch": steps, "computeDtype": "BFloat16"}
    plan |= {"maxTokensPerDevice": case["budget"], "maxLength": max(CHAT)}
    plan |= {"quantization": case["quantization"], "attention": "Varlen"}
    return plan | ({} if case["full"] else {"rank": RANK, "alpha": float(ALPHA)})


def _cut_seconds(run: Any) -> dict[str, float]:
    run.record.step += 1  # a step is saved once
    started = time.perf_counter()
    run.saving.cut(run.record, run.heartbeat.beat)
    seconds = time.perf_counter() - started
    run.saving.finish(run.heartbeat.beat)
    return {"cut_seconds": seconds}


def _generation(engine: Any, case: dict[str, Any]) -> dict[str, float]:
    from finetune_trainer.decoding import Decoding, Prompt  # noqa: PLC0415
    from finetune_trainer.generate import generate  # noqa: PLC0415

    vocabulary = SHAPES[case["shape"]]["vocab_size"]
    tokens = [tuple((7 * i + j) % vocabulary for j in range(PROMPT_TOKENS)) for i in range(PROMPTS)]
    asked = [Prompt(str(i), one) for i, one in enumerate(tokens)]
    decoding = Decoding(max_new_tokens=case["generated"], stop=frozenset())
    started = time.perf_counter()
    found = engine.forward(lambda: generate(engine.task.model, asked, decoding))
    new = sum(len(one.tokens) for one in found.values())
    return {"seconds_per_1000_generated": 1000 * (time.perf_counter() - started) / new}


def _peer_model(case: dict[str, Any]) -> Any:
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415

    model = transformers.AutoModelForCausalLM.from_pretrained(
        case["model"], dtype=torch.bfloat16, attn_implementation=_attention()
    ).to("cuda" if torch.cuda.is_available() else "cpu")
    model.config.use_cache = False
    if case["full"]:
        return model
    config = LoraConfig(
        task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, target_modules="all-linear"
    )
    return get_peft_model(model, config)


def peer(case: dict[str, Any], watch: Stopwatch) -> dict[str, Any]:
    """Train with TRL in one of its modes, or with transformers.Trainer and dynamic padding."""
    from datasets import Dataset  # noqa: PLC0415
    from train_contender import word_tokenizer  # noqa: PLC0415
    from train_task import padded  # noqa: PLC0415
    from trl import SFTConfig, SFTTrainer  # noqa: PLC0415

    cuda, cache = torch.cuda.is_available(), samples(case)
    model = _peer_model(case)
    rows = [_listed(cache, i) for i in range(len(cache))]
    settings = {
        "output_dir": tempfile.mkdtemp(),
        "max_steps": case["warmup"] + case["timed"],
        "per_device_train_batch_size": case["rows"],
        "gradient_accumulation_steps": case["accumulation"],
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "logging_steps": 10,
        "save_strategy": "no",
        "report_to": [],
        "bf16": True,
        "use_cpu": not cuda,
        "disable_tqdm": True,
        "gradient_checkpointing": case["checkpointing"],
    }
    noted = _Noted(watch)
    if case["trainer"] == "Trainer":
        arguments = transformers.TrainingArguments(**settings, remove_unused_columns=False)
        trainer = transformers.Trainer(model, arguments, padded, rows, callbacks=[noted])
    else:
        data = Dataset.from_list([{n: one[n] for n in ("input_ids", "labels")} for one in rows])
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(**settings, **case["mode"]),
            train_dataset=data,
            processing_class=word_tokenizer(),
            callbacks=[noted],
        )
    trainer.train()
    return {"losses": noted.losses, "attention": _attention()} | watch.memory()


class _Noted(TrainerCallback):
    def __init__(self, watch: Stopwatch) -> None:
        self._watch = watch
        self.losses: list[float] = []

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        self._watch.step_done(state.global_step)

    def on_log(self, _args: Any, _state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def samples(case: dict[str, Any]) -> Any:
    """Return the samples of all steps: chat lengths, or all of one length."""
    count = case["batch"] * (case["warmup"] + case["timed"])
    lengths = [case["length"]] * count if case["length"] else chat_lengths(count)
    return random_samples(lengths, SHAPES[case["shape"]]["vocab_size"])


def _attention() -> str:
    try:
        import flash_attn  # type: ignore[import-not-found] # noqa: F401, PLC0415
    except ImportError:
        return "sdpa"
    return "flash_attention_2"


def _listed(cache: Any, sample: int) -> dict[str, list[int]]:
    part = slice(cache.offsets[sample], cache.offsets[sample + 1])
    tokens, flags = cache.tokens[part].tolist(), cache.flags[part].tolist()
    labels = [token if flag else -100 for token, flag in zip(tokens, flags, strict=True)]
    return {"input_ids": tokens, "attention_mask": [1] * len(tokens), "labels": labels}


def main(case: dict[str, Any], target: Path) -> None:
    """Run one case and write what it took."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    watch = Stopwatch(case["warmup"], case["warmup"] + case["timed"])
    facts = (ours if case["trainer"] == "ours" else peer)(case, watch)
    target.write_text(json.dumps(facts | watch.facts))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))
