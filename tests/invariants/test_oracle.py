"""The loss of every step equals that of transformers.Trainer on the same data."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers import LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from finetune_api.training_settings import Scheduler
from finetune_trainer.data import rank_step
from finetune_trainer.optim import Schedule
from finetune_trainer.plan import Plan, PlanSettings
from toy_llama import token_cache
from toy_task import toy_engine

STEPS, BATCH, RATE = 6, 4, 5e-3


class Losses(TrainerCallback):
    """Notes what Trainer logs."""

    def __init__(self):
        self.losses, self.norms = [], []

    def on_log(self, args, state, control, logs=None, **_):
        if logs and "loss" in logs:
            self.losses.append(logs["loss"])
            self.norms.append(logs["grad_norm"])


class InOrder(Trainer):
    """Takes the samples as they come: the plan has ordered them."""

    def _get_train_sampler(self, *_):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def ours(engine, cache, plan):
    schedule = Schedule(RATE, STEPS, 0, Scheduler.LINEAR)
    for number in range(STEPS):
        batches = rank_step(cache, plan, number, 0, 1).batches
        shares = [engine.loss_sum(one, last=one is batches[-1]) for one in batches]
        for share in shares:
            engine.backward(share)
        norm = engine.clip_and_step(schedule.factor(number), 1.0)
        yield float(sum(shares)), float(norm)


def padded(samples):
    longest = max(len(one["input_ids"]) for one in samples)
    return {
        name: torch.tensor([one[name] + [fill] * (longest - len(one[name])) for one in samples])
        for name, fill in (("input_ids", 0), ("attention_mask", 0), ("labels", -100))
    }


def dataset(cache, plan):
    for number in range(STEPS):
        for i in plan.step(number).samples:
            part = slice(cache.offsets[i], cache.offsets[i + 1])
            tokens, flags = cache.tokens[part].tolist(), cache.flags[part].tolist()
            labels = [t if flag & 1 else -100 for t, flag in zip(tokens, flags, strict=True)]
            yield {"input_ids": tokens, "attention_mask": [1] * len(tokens), "labels": labels}


@pytest.mark.filterwarnings("ignore")
def test_losses_and_gradient_norms_equal_those_of_transformers_trainer(tmp_path):
    engine, cache = toy_engine(tmp_path, peak=RATE), token_cache(STEPS * BATCH)
    plan = Plan(cache.lengths, cache.supervised, PlanSettings(seed=2, samples=BATCH, budget=40))
    transformers.utils.logging.disable_progress_bar()
    noted = Losses()
    InOrder(
        model=LlamaForCausalLM.from_pretrained(tmp_path / "toy", attn_implementation="sdpa"),
        args=TrainingArguments(
            output_dir=str(tmp_path / "out"),
            per_device_train_batch_size=BATCH,
            max_steps=STEPS,
            learning_rate=RATE,
            lr_scheduler_type="linear",
            warmup_steps=0,
            weight_decay=0.0,
            adam_beta2=0.999,
            max_grad_norm=1.0,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            remove_unused_columns=False,
        ),
        train_dataset=list(dataset(cache, plan)),
        data_collator=padded,
        callbacks=[noted],
    ).train()
    found = list(ours(engine, cache, plan))
    assert [loss for loss, _ in found] == pytest.approx(noted.losses, abs=1e-5)
    assert [norm for _, norm in found] == pytest.approx(noted.norms, rel=1e-4)
