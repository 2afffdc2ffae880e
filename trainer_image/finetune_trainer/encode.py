"""Records to token ids and supervision, decided by position, never by token id.

The context of an answer is tokenised exactly as at inference; what follows it is the answer. The
end-of-turn token that the template puts behind an answer is supervised, template text behind that
is not. Source of the rules: what serving does, so that training and use see the same ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.chat_template import ChatTemplate, Message
from finetune_trainer.rendering import Answer, Renderer, Rendering
from finetune_trainer.supervision import Supervision
from finetune_trainer.text_tokenizer import TextTokenizer
from finetune_trainer.token_places import EncodedText, PiecedText, TokenPlaces

SUPERVISED, CONTENT, LAST_ANSWER = 1, 2, 4
"""Bits of a token's flags: it counts in the loss; it is text of a turn; of the last answer."""
KNOWN_PIECES = 4096
ANSWERS = Supervision()


@dataclass(frozen=True)
class Sample:
    """One encoded sample: as many flags as ids."""

    ids: NDArray[np.uint32]
    flags: NDArray[np.uint8]
    adjusted: bool = False
    """adjusted: a token would have crossed the border between context and answer."""
    ends: bool = True
    """ends: the template puts an end-of-turn token behind every supervised answer."""
    control: bool = False
    """control: the text of a turn spells a special token."""
    context: int = 0
    """context is the number of tokens before the last supervised turn."""
    answer: int = 0
    """answer is the number of tokens of the last supervised turn, end token included."""
    turns: tuple[tuple[int, int], ...] = ()
    """turns are first token and role code of every turn; only on demand."""

    @property
    def supervised(self) -> int:
        """Return the number of supervised tokens; the first one is predicted by nobody."""
        return int(np.count_nonzero(self.flags[1:] & SUPERVISED))


class Encoder:
    """Renders and tokenises with one template and one tokenizer."""

    def __init__(
        self,
        tokenizer: TextTokenizer,
        template: ChatTemplate,
        *,
        supervision: Supervision = ANSWERS,
        with_turns: bool = False,
    ) -> None:
        self.tokenizer, self.template = tokenizer, template
        self.supervision, self.with_turns = supervision, with_turns
        special = tokenizer.special.all | {tokenizer.special.end}
        self._renderer = Renderer(template, special, supervision, with_turns=with_turns)
        self._known: dict[str, list[int]] = {}

    def renderings(self, messages: Sequence[Message]) -> list[Rendering]:
        """Return the text of a conversation; one per answer where later turns rewrite earlier."""
        return self._renderer.renderings(messages)

    def document(self, text: str) -> Rendering:
        """Return the rendering of a document: begin token as configured, text, end token."""
        return self._renderer.document(text)

    def context(self, messages: Sequence[Message]) -> str:
        """Return what the model sees before it answers the messages."""
        return self.template.render(messages, prompt=True)

    def answer_end(self) -> str:
        """Return what the template puts behind an answer, up to its end-of-turn token."""
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        special = self.tokenizer.special.all | {self.tokenizer.special.end}
        rendering = Renderer(self.template, special, ANSWERS).renderings(messages)[0]
        answer = rendering.answers[0]
        return rendering.text[answer.content_end : answer.end]

    def encoded(self, renderings: Sequence[Rendering]) -> Iterator[Sample]:
        """Yield the sample of every rendering."""
        contexts = self._context_ids(renderings)
        wholes = self.tokenizer.encode([one.text for one in renderings])
        for rendering, whole in zip(renderings, wholes, strict=True):
            tokens: TokenPlaces = EncodedText(whole)
            adjusted = any(
                self._crosses(rendering.text, answer, tokens, contexts)
                for answer in rendering.answers
                if answer.generated
            )
            if adjusted:
                tokens = self._by_pieces(rendering)
            yield self._sample(rendering, tokens, adjusted=adjusted)

    def _crosses(
        self, text: str, answer: Answer, tokens: TokenPlaces, contexts: dict[str, list[int]]
    ) -> bool:
        """Tell whether the context of an answer got other ids than it has alone."""
        start = self._anchor(text, answer.context_end)
        first, behind = tokens.starting(start), tokens.starting(answer.context_end)
        expected = contexts[text[start : answer.context_end]]
        return bool(tokens.ids[first:behind].tolist() != expected)

    def _context_ids(self, renderings: Sequence[Rendering]) -> dict[str, list[int]]:
        """Return the ids of every context from its last anchor on.

        A tokenizer cuts a text at special tokens before anything else, so what stands before the
        last of them decides nothing. These ends are few and equal: contexts cost nothing. Without
        such tokens whole contexts are tokenised a second time.
        """
        wanted = {
            one.text[self._anchor(one.text, answer.context_end) : answer.context_end]
            for one in renderings
            for answer in one.answers
            if answer.generated
        }
        fresh = sorted(wanted - self._known.keys())
        found = dict(zip(fresh, self.tokenizer.encode_ids(fresh), strict=True))
        known = self._known | found
        self._known = {} if not self._anchors or len(known) > KNOWN_PIECES else known
        return known

    def _anchor(self, text: str, end: int) -> int:
        return max([0, *(text.rfind(anchor, 0, end) for anchor in self._anchors)])

    @cached_property
    def _anchors(self) -> list[str]:
        """Return the anchors that the template writes."""
        probe = self.template.probe()
        return [one for one in self.tokenizer.anchors if one in probe]

    def _sample(self, rendering: Rendering, tokens: TokenPlaces, *, adjusted: bool) -> Sample:
        flags, control = self._flags(rendering, tokens)
        answers = rendering.answers
        last = answers[-1] if answers else None
        ends = all(one.end > one.content_end for one in answers if one.generated)
        if rendering.whole_from is not None and not answers:
            ends = len(rendering.text) > rendering.contents[0][1]
        turns = [(tokens.exactly(start), role) for start, role in rendering.turns]
        cuttable = all(at is not None for at, _ in turns)
        return Sample(
            tokens.ids,
            flags,
            adjusted=adjusted,
            ends=ends,
            control=control,
            context=tokens.starting(last.context_end) if last else 0,
            answer=tokens.starting(last.end) - tokens.starting(last.context_end) if last else 0,
            turns=tuple((at, role) for at, role in turns if at is not None) if cuttable else (),
        )

    def _flags(self, rendering: Rendering, tokens: TokenPlaces) -> tuple[NDArray[np.uint8], bool]:
        flags = np.zeros(len(tokens.ids), np.uint8)
        for low, high in rendering.contents:
            flags[tokens.starting(low) : tokens.covering(high)] |= CONTENT
        spelled = self._is_special[tokens.ids] & (flags & CONTENT != 0)
        flags[spelled] &= ~np.uint8(CONTENT)
        if rendering.whole_from is not None:
            flags[tokens.starting(rendering.whole_from) :] |= SUPERVISED
        for answer in rendering.answers:
            last = LAST_ANSWER if answer is rendering.answers[-1] else 0
            flags[tokens.starting(answer.start) : tokens.starting(answer.end)] |= SUPERVISED | last
        for low, high in rendering.untrained:
            flags[tokens.starting(low) : tokens.starting(high)] &= ~np.uint8(SUPERVISED)
        return flags, bool(spelled.any())

    @cached_property
    def _is_special(self) -> NDArray[np.bool_]:
        vocabulary = self.tokenizer.backend.get_vocab(with_added_tokens=True)
        table = np.zeros(1 + max(vocabulary.values()), bool)
        table[[vocabulary[one] for one in self.tokenizer.special.all if one in vocabulary]] = True
        return table

    def _by_pieces(self, rendering: Rendering) -> TokenPlaces:
        """Tokenise context and answer apart, so that no token crosses their border."""
        borders = [one.context_end for one in rendering.answers if one.generated]
        cuts = [0, *borders, len(rendering.text)]
        return PiecedText(
            (start, next(self.tokenizer.encode([rendering.text[start:end]])))
            for start, end in pairwise(cuts)
        )
