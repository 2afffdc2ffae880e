"""The same prompts answered before and after training by all ranks, for people to read."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from finetune_trainer.answer_end import Answer, AnswerEnd, Finish
from finetune_trainer.decoding import Prompt, decoding_of
from finetune_trainer.generate import generate
from finetune_trainer.lock_step import lock_step
from finetune_trainer.text_tokenizer import text_tokenizer
from finetune_trainer.token_cache import open_prompts, stop_texts, stop_tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from finetune_api.run_config import TrainingConfig
    from finetune_trainer.engine import Engine
    from finetune_trainer.rank_folder import RankFolder
    from finetune_trainer.run_record import RunRecord


class SampleAnswers:
    """Deals the prompts over the ranks and gathers their answers on rank 0."""

    def __init__(
        self, config: TrainingConfig, folder: RankFolder, engine: Engine, beat: Callable[[], None]
    ) -> None:
        prepared = folder.prepared
        own = prepared / "tokenizer"
        tokenizer = own if own.is_dir() else folder.model
        self.folder, self._engine, self._beat = folder, engine, beat
        self._rows = config.spec.evaluation.per_device_batch_size
        self.prompts = open_prompts(prepared)[: config.spec.evaluation.generate_samples]
        model: Any = engine.task.model
        stop = {*stop_tokens(prepared), *model_stop_tokens(model)}
        self._decoding = decoding_of(
            config.spec.generation, config.plan.seed, stop, stop_texts(prepared)
        )
        backend = text_tokenizer(tokenizer).backend if self.prompts else None
        self._end = AnswerEnd(self._decoding, backend)
        self.tokens = 0

    def answers(self, key: str) -> dict[str, Answer]:
        """Return all answers of the weights as they are, on rank 0; collective, `key` once each."""
        if not self.prompts:
            return {}
        engine = self._engine
        asked = [_prompt(one) for one in self.prompts]
        # Dealt by length, so that no rank gets all long ones.
        asked = sorted(asked, key=lambda one: (-len(one.tokens), one.id))
        mine = engine.forward(lambda: self._own(asked[engine.world.rank :: engine.world.size]))
        told = {name: [one.finish.value, *one.tokens] for name, one in mine.items()}
        parts = engine.world.gather(f"answers/{key}", told)
        found = {
            name: Answer(tuple(one[1:]), Finish(one[0]))
            for part in parts
            for name, one in part.items()
        }
        self.tokens += sum(len(one.tokens) for one in found.values())
        return found

    def of_base(self, record: RunRecord) -> None:
        """Keep what the weights as loaded answer: a fresh adapter adds nothing; collective."""
        record.base_answers = {
            name: list(answer.tokens) for name, answer in self.answers("base").items()
        }

    def of_tuned(self, record: RunRecord | None = None) -> list[dict[str, str]]:
        """Return prompt, reference, both answers and what ended the last, on rank 0; collective."""
        tuned, base = self.answers("tuned"), record.base_answers if record is not None else {}
        before = {name: Answer(tuple(row), Finish.LENGTH) for name, row in base.items()}
        return [
            {
                "prompt": str(prompt.get("text", "")),
                "reference": str(prompt.get("reference", "")),
                "base": self._text(before.get(str(prompt["id"]))),
                "tuned": self._text(tuned[str(prompt["id"])]),
                "finish": tuned[str(prompt["id"])].finish.value,
            }
            for prompt in self.prompts
            if str(prompt["id"]) in tuned
        ]

    def _text(self, answer: Answer | None) -> str:
        return "" if answer is None else self._end.text(answer)

    def _own(self, prompts: Sequence[Prompt]) -> dict[str, Answer]:
        engine = self._engine
        together = lock_step(engine.task.model, engine.device) if engine.sharded else nullcontext()
        with together:
            return generate(
                engine.task.model,
                prompts,
                self._decoding,
                end=self._end,
                rows=self._rows,
                beat=self._beat,
            )


def model_stop_tokens(model: Any) -> frozenset[int]:
    """Return the model's own list, which may be longer than the tokenizer's one end token."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found = own if isinstance(own, list) else [own]
    return frozenset(token for token in found if token is not None)


def _prompt(one: dict[str, Any]) -> Prompt:
    return Prompt(str(one["id"]), tuple(int(token) for token in one["tokens"]))
