"""Which tokens of a sample are supervised: by position, exactly as the model is used."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.pre_tokenizers import Split

from data_ground import CHAT, SPECIAL, trained_tokenizer
from finetune_api.text_settings import Prompt, Template
from finetune_trainer.chat_template import (
    ChatTemplate,
    SpecialTokens,
    TemplateUnsuitableError,
)
from finetune_trainer.encode import CONTENT, LAST_ANSWER, SUPERVISED, Encoder
from finetune_trainer.supervision import Supervision
from finetune_trainer.template_choice import chosen_template
from finetune_trainer.text_tokenizer import TextTokenizer

SPECIALS = SpecialTokens(begin="<|begin|>", end="<|end|>", all=frozenset(SPECIAL))


def text_tokenizer(backend=None, special=SPECIALS):
    backend = backend or trained_tokenizer(["why because question answer " * 9])
    return TextTokenizer(backend, special, None)


def encoder(source=CHAT, *, special=SPECIALS, with_turns=False, **chosen):
    supervision = Supervision(**chosen)
    template = ChatTemplate("Model", source, special)
    tokenizer = text_tokenizer(special=special)
    return Encoder(tokenizer, template, supervision=supervision, with_turns=with_turns)


def turns(*texts):
    return [
        {"role": "assistant" if at % 2 else "user", "content": text}
        for at, text in enumerate(texts)
    ]


def encoded(one, messages):
    (sample,) = one.encoded(one.renderings(messages))
    return sample


def text_of(one, sample, bit):
    return one.tokenizer.decode(sample.ids[sample.flags & bit > 0].tolist())


def test_answers_and_their_end_tokens_are_supervised_and_nothing_else():
    one = encoder()
    sample = encoded(one, turns("why?", "because", "really?", "yes"))
    assert text_of(one, sample, SUPERVISED) == "because<|end|>yes<|end|>"
    assert text_of(one, sample, LAST_ANSWER) == "yes<|end|>"
    assert text_of(one, sample, CONTENT) == "why?becausereally?yes"


def test_the_last_answer_alone_is_supervised_on_demand():
    one = encoder(only_last=True)
    sample = encoded(one, turns("why?", "because", "really?", "yes"))
    assert text_of(one, sample, SUPERVISED) == "yes<|end|>"


def test_an_end_token_in_the_prompt_is_not_supervised_though_its_id_is_the_same():
    one = encoder()
    sample = encoded(one, turns("why?", "because"))
    end = one.tokenizer.backend.token_to_id("<|end|>")
    flags = [flag & SUPERVISED for token, flag in zip(sample.ids, sample.flags, strict=True)
             if token == end]  # fmt: skip
    assert flags == [0, 1]


def test_golden_ids_of_a_conversation():
    one = encoder()
    sample = encoded(one, turns("why?", "because"))
    pieces = [one.tokenizer.decode([token]) for token in sample.ids]
    assert pieces == [
        *("<|user|>", "why", "?", "<|end|>", "\n"),
        *("<|assistant|>", "be", "cause", "<|end|>", "\n"),
    ]
    assert list(sample.ids) == [2, 273, 35, 0, 203, 3, 263, 277, 0, 203]
    assert list(sample.flags) == [0, 2, 2, 0, 0, 0, 7, 7, 5, 0]
    assert sample.supervised == 3


def test_the_context_is_tokenised_exactly_as_at_inference():
    one = encoder()
    messages = turns("why?", "because", "really?", "yes it is")
    sample = encoded(one, messages)
    for at in (1, 3):
        context = one.tokenizer.ids(one.context(messages[:at]))
        assert list(sample.ids[: len(context)]) == context
        assert not sample.flags[len(context) - 1] & SUPERVISED
        assert sample.flags[len(context)] & SUPERVISED


def test_a_token_that_would_cross_the_border_is_cut_and_counted():
    backend = Tokenizer(
        models.BPE(
            vocab={"a": 0, "b": 1, "ab": 2, "c": 3, "<e>": 4},
            merges=[("a", "b")],
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence([Split("<e>", "isolated")])
    backend.add_special_tokens(["<e>"])
    special = SpecialTokens(end="<e>", all=frozenset({"<e>"}))
    raw = chosen_template(Prompt(template=Template.RAW), None, special)
    one = Encoder(text_tokenizer(backend, special), raw)
    sample = encoded(one, turns("ca", "bc"))
    assert (list(sample.ids), sample.adjusted) == ([3, 0, 1, 3, 4], True)
    assert [flag & SUPERVISED for flag in sample.flags] == [0, 0, 1, 1, 1]
    assert not encoded(one, turns("cc", "bc")).adjusted


def test_raw_supervises_answer_and_end_token():
    one = Encoder(text_tokenizer(), chosen_template(Prompt(template=Template.RAW), None, SPECIALS))
    sample = encoded(one, turns("why? ", "because"))
    assert text_of(one, sample, SUPERVISED) == "because<|end|>"


def test_chatml_on_a_tokenizer_without_its_tokens_supervises_the_whole_marker():
    one = Encoder(
        text_tokenizer(), chosen_template(Prompt(template=Template.CHATML), None, SPECIALS)
    )
    sample = encoded(one, turns("why?", "because"))
    assert text_of(one, sample, SUPERVISED) == "because<|im_end|>"


def test_text_behind_the_end_token_is_not_supervised():
    source = CHAT.replace("<|end|>\n", "<|end|>~~~")
    one = encoder(source)
    sample = encoded(one, turns("why?", "because"))
    assert text_of(one, sample, SUPERVISED) == "because<|end|>"


def test_a_template_without_an_end_is_told():
    one = encoder("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
                  "{% if add_generation_prompt %}assistant: {% endif %}",
                  special=SpecialTokens())  # fmt: skip
    sample = encoded(one, turns("why?", "because"))
    assert text_of(one, sample, SUPERVISED) == "because"
    assert not sample.ends


REWRITES = (
    "{% for m in messages %}<|{{ m.role }}|>"
    "{{ m.content if loop.last or m.role == 'user' else m.content.split('=')[-1] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_a_template_that_rewrites_earlier_turns_gives_one_sample_per_answer():
    one = encoder(REWRITES)
    messages = turns("one", "thought=a", "two", "thought=b")
    renderings = one.renderings(messages)
    samples = list(one.encoded(renderings))
    assert [text_of(one, sample, SUPERVISED) for sample in samples] == [
        "thought=a<|end|>",
        "thought=b<|end|>",
    ]
    assert renderings[1].text == (
        "<|user|>one<|end|><|assistant|>a<|end|><|user|>two<|end|><|assistant|>thought=b<|end|>"
    )


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(
            "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}",
            id="the context depends on the answer",
        ),
        pytest.param(
            "{% for m in messages %}<{{ m.role }}>{{ m.content | upper }}{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}",
            id="the answer is rewritten",
        ),
    ],
)
def test_a_template_whose_spans_cannot_be_found_is_refused(source):
    with pytest.raises(TemplateUnsuitableError, match=r"set prompt.template to ChatML or Raw"):
        encoder(source).renderings(turns("why?", "because"))


def test_a_template_that_trims_answers_is_fine():
    one = encoder(CHAT.replace("m.content", "m.content | trim"))
    sample = encoded(one, turns("why? ", " because\n"))
    assert text_of(one, sample, SUPERVISED) == "because<|end|>"


def test_a_document_is_supervised_but_for_the_begin_token():
    special = SpecialTokens("<|begin|>", "<|end|>", begin_is_added=True, all=frozenset(SPECIAL))
    raw = chosen_template(Prompt(template=Template.RAW), None, special)
    one = Encoder(text_tokenizer(special=special), raw)
    (sample,) = one.encoded([one.document("why because")])
    assert text_of(one, sample, SUPERVISED) == "why because<|end|>"
    assert one.tokenizer.decode(sample.ids.tolist()) == "<|begin|>why because<|end|>"


def test_characters_of_several_bytes_keep_their_place():
    one = encoder()
    sample = encoded(one, turns("wärüm? 🎈", "darum ✓ — ß"))
    assert text_of(one, sample, SUPERVISED) == "darum ✓ — ß<|end|>"
