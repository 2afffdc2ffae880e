"""The same validation prompts answered before and after training, for people to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune_api.run_config import TrainingConfig
from finetune_trainer.generate import Decoding, Prompt, generate
from finetune_trainer.loop import Run
from finetune_trainer.rank_folder import RankFolder
from finetune_trainer.text_tokenizer import text_tokenizer
from finetune_trainer.token_cache import open_prompts, stop_tokens


class SampleAnswers:
    """Deals the prompts over the ranks and keeps the base model's answers in the record."""

    def __init__(self, config: TrainingConfig, folder: RankFolder, run: Run) -> None:
        self._run = run
        self._prompts = open_prompts(folder.prepared)[: config.spec.evaluation.generate_samples]
        self._tokenizer = text_tokenizer(folder.model) if self._prompts else None
        generation = config.spec.generation
        self._decoding = Decoding(
            max_new_tokens=generation.max_new_tokens,
            stop=frozenset(stop_tokens(folder.prepared)) | self._model_stop_tokens(),
            seed=config.plan.seed,
            do_sample=generation.do_sample,
            temperature=generation.temperature or 1.0,
            top_p=generation.top_p or 1.0,
        )

    def of_base(self) -> None:
        """Answer with the weights as loaded: a fresh adapter adds nothing; a collective call."""
        if self._prompts:
            self._run.record.base_answers = self._answers("base")

    def of_tuned(self) -> list[dict[str, str]]:
        """Return prompt, reference and both answers on rank 0; a collective call."""
        if not self._prompts:
            return []
        tuned, base = self._answers("tuned"), self._run.record.base_answers
        return [
            {
                "prompt": str(prompt.get("text", "")),
                "reference": str(prompt.get("reference", "")),
                "base": self._text(base.get(str(prompt["id"]), [])),
                "tuned": self._text(tuned[str(prompt["id"])]),
            }
            for prompt in self._prompts
            if str(prompt["id"]) in tuned
        ]

    def _answers(self, key: str) -> dict[str, list[int]]:
        engine, board = self._run.engine, self._run.board
        if board is not None:
            board.set(phase="Evaluating")
        world = engine.world
        mine = [_prompt(one) for one in self._prompts[world.rank :: world.size]]
        with engine.precision():
            beat = self._run.heartbeat.beat
            answers = generate(engine.task.model, mine, self._decoding, beat) if mine else {}
        gathered = world.gather(f"answers/{key}", answers)
        return {name: tokens for part in gathered for name, tokens in part.items()}

    def _text(self, tokens: Sequence[int]) -> str:
        if self._tokenizer is None:
            return ""
        text: str = self._tokenizer.backend.decode(list(tokens), skip_special_tokens=True)
        return text.strip()

    def _model_stop_tokens(self) -> frozenset[int]:
        """Return the model's own list, which may be longer than the tokenizer's one end token."""
        model: Any = self._run.engine.task.model
        own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        found = own if isinstance(own, list) else [own]
        return frozenset(token for token in found if token is not None)


def _prompt(one: dict[str, Any]) -> Prompt:
    return Prompt(str(one["id"]), tuple(int(token) for token in one["tokens"]))
