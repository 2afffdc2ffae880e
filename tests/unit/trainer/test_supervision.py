"""Which turns are supervised, and which tokens of theirs: by role, place and the data's flags."""

import random

import numpy as np
import pytest
from tokenizers import AddedToken

from data_ground import CHAT, SPECIAL, trained_tokenizer
from finetune_api.text_settings import Prompt, Template, TrainOnRole, TrainOnTurns
from finetune_trainer.chat_template import ChatTemplate, SpecialTokens, TemplateUnsuitableError
from finetune_trainer.encode import CONTENT, SUPERVISED, Encoder
from finetune_trainer.supervision import ROLES, Supervision
from finetune_trainer.template_choice import chosen_template
from finetune_trainer.text_tokenizer import TextTokenizer

SPECIALS = SpecialTokens("<|begin|>", "<|end|>", all=frozenset(SPECIAL))
BEGINS = SpecialTokens("<|begin|>", "<|end|>", begin_is_added=True, all=frozenset(SPECIAL))
TURNS = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "why?"},
    {"role": "assistant", "content": "because"},
    {"role": "user", "content": "really?"},
    {"role": "assistant", "content": "yes"},
]
EVERY = [TrainOnRole.SYSTEM, TrainOnRole.USER, TrainOnRole.ASSISTANT, TrainOnRole.TOOL]


def tokenizer(special=SPECIALS):
    return TextTokenizer(trained_tokenizer(["why because question answer " * 9]), special, None)


def encoder(prompt=None, *, source=CHAT, special=SPECIALS, **options):
    template = ChatTemplate("Model", source, special)
    supervision = Supervision.of(prompt or Prompt())
    return Encoder(tokenizer(special), template, supervision=supervision, **options)


def encoded(one, messages):
    (sample,) = one.encoded(one.renderings(messages))
    return sample


def supervised(one, messages, bit=SUPERVISED):
    sample = encoded(one, messages)
    return one.tokenizer.decode(sample.ids[sample.flags & bit > 0].tolist())


@pytest.mark.parametrize(
    ("roles", "turns", "expected"),
    [
        (["Assistant"], "All", "because<|end|>yes<|end|>"),
        (["Assistant"], "Last", "yes<|end|>"),
        (["User"], "All", "why?<|end|>really?<|end|>"),
        (["User"], "Last", "really?<|end|>"),
        (["System", "Assistant"], "All", "be brief<|end|>because<|end|>yes<|end|>"),
        (["User", "Assistant"], "Last", "yes<|end|>"),
        (["System"], "Last", "be brief<|end|>"),
    ],
)
def test_the_turns_of_the_chosen_roles_are_supervised_with_their_end_tokens(roles, turns, expected):
    prompt = Prompt(
        train_on_roles=[TrainOnRole(one) for one in roles], train_on_turns=TrainOnTurns(turns)
    )
    assert supervised(encoder(prompt), TURNS) == expected


def test_all_four_roles_supervise_everything_but_the_begin_token():
    one = encoder(Prompt(train_on_roles=EVERY), source="{{ bos_token }}" + CHAT, special=BEGINS)
    sample = encoded(one, TURNS)
    assert sample.flags[0] & SUPERVISED == 0
    assert (sample.flags[1:] & SUPERVISED).all()
    assert sample.supervised == len(sample.ids) - 1


def test_turns_that_the_data_marks_stay_out_whatever_is_chosen():
    messages = [*TURNS[:2], {**TURNS[2], "train": False}, *TURNS[3:]]
    assert supervised(encoder(), messages) == "yes<|end|>"
    last = Prompt(train_on_turns=TrainOnTurns.LAST)
    assert supervised(encoder(last), [*TURNS[:4], {**TURNS[4], "train": False}]) == ""
    everything = supervised(encoder(Prompt(train_on_roles=EVERY)), messages)
    assert "because" not in everything
    assert "really?" in everything


def test_a_flag_of_the_data_is_never_shown_to_the_template():
    source = "{% for m in messages %}{{ m.keys() | list }}{{ m.content }}{% endfor %}"
    shown = ChatTemplate("Model", source).render([{**TURNS[1], "train": False}])
    assert shown == "['role', 'content']why?"


MARKED = (
    "{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.role == 'assistant' %}[{% generation %}{{ m.content }}<|end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_generated_text_is_what_the_template_marks_where_it_marks_any():
    assert supervised(encoder(source=MARKED), TURNS) == "because<|end|>yes<|end|>"
    plain = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    assert supervised(encoder(source=plain), TURNS) == "[because<|end|>[yes<|end|>"


def test_a_mark_around_the_header_does_not_make_the_header_supervised():
    source = (
        "{% for m in messages %}{% generation %}<|{{ m.role }}|>{{ m.content }}<|end|>"
        "{% endgeneration %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    assert supervised(encoder(source=source), TURNS) == "because<|end|>yes<|end|>"


@pytest.mark.parametrize("name", ["Markers", "Raw", "ChatML", "Zephyr"])
def test_every_template_of_ours_supervises_answers_and_their_ends(name):
    template = chosen_template(Prompt(template=Template(name)), None, SPECIALS)
    one = Encoder(tokenizer(), template)
    end = "<|im_end|>" if name == "ChatML" else "<|end|>"
    assert supervised(one, TURNS) == f"because{end}yes{end}"


@pytest.mark.parametrize("text", ["user", "assistant", "end", "|", "<|user", "\n", "u", ">"])
def test_a_text_that_looks_like_a_header_is_found_in_its_own_turn(text):
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": text}]
    one = encoder(Prompt(train_on_roles=[TrainOnRole.USER, TrainOnRole.ASSISTANT]))
    (rendering,) = one.renderings(messages)
    assert rendering.contents == tuple(
        (rendering.text.index(header) + len(header), rendering.text.index(header) + len(header)
         + len(text)) for header in ("<|user|>", "<|assistant|>")
    )  # fmt: skip


def test_a_special_token_that_a_text_spells_is_told_and_never_content():
    one = encoder()
    sample = encoded(one, [{"role": "user", "content": "a <|end|> b"}, TURNS[2]])
    assert sample.control
    assert not encoded(one, TURNS).control
    end = one.tokenizer.backend.token_to_id("<|end|>")
    assert not (sample.flags[sample.ids == end] & CONTENT).any()


def test_content_is_the_text_of_turns_and_no_header_marker_or_end_token():
    one = encoder(source="{{ bos_token }}" + CHAT, special=BEGINS)
    assert supervised(one, TURNS, CONTENT) == "be briefwhy?becausereally?yes"


def test_a_role_whose_text_the_template_rewrites_cannot_be_supervised():
    source = CHAT.replace("m.content", "(m.content | upper if m.role == 'user' else m.content)")
    assert supervised(encoder(source=source), TURNS) == "because<|end|>yes<|end|>"
    with pytest.raises(TemplateUnsuitableError, match="rewrites the text of a turn of role user"):
        encoder(Prompt(train_on_roles=[TrainOnRole.USER]), source=source).renderings(TURNS)


def test_turns_start_at_their_headers_and_the_begin_token_belongs_to_none():
    one = encoder(source="{{ bos_token }}" + CHAT, special=BEGINS, with_turns=True)
    sample = encoded(one, TURNS)
    starts = [at for at, _ in sample.turns]
    assert [ROLES[role] for _, role in sample.turns] == [message["role"] for message in TURNS]
    pieces = [one.tokenizer.decode(part.tolist()) for part in np.split(sample.ids, [*starts])]
    assert pieces[0] == "<|begin|>"
    assert pieces[1:] == [f"<|{m['role']}|>{m['content']}<|end|>\n" for m in TURNS]
    assert encoded(encoder(), TURNS).turns == ()


def conversations(count):
    """Return conversations of odd characters: spaces, line breaks, emoji at every border."""
    draw = random.Random(7)
    letters = ["a", "be", "cause", " ", "  ", "\n", "\n\n", "é", "🎈", "<", "|", "why?", "1", "."]

    def text():
        return "".join(draw.choices(letters, k=draw.randint(1, 12)))

    for _ in range(count):
        yield [
            {"role": "assistant" if at % 2 else "user", "content": text()}
            for at in range(2 * draw.randint(1, 4))
        ]


@pytest.mark.parametrize("name", ["Model", "Markers", "Raw", "ChatML", "Zephyr"])
def test_the_context_of_every_answer_has_the_ids_it_has_at_inference(name):
    backend = trained_tokenizer(["why because question answer\n\n \n  because " * 9])
    backend.add_special_tokens([AddedToken("<|im_start|>", special=True, normalized=False)])
    special = SpecialTokens("", "<|end|>", all=frozenset({*SPECIAL, "<|im_start|>"}))
    text_tokenizer = TextTokenizer(backend, special, None)
    own = CHAT.replace("{{ '<|assistant|>' }}", "{{ '<|assistant|>\n' }}").replace(
        "'|>' + m.content", "'|>\n' + m.content"
    )
    prompt = Prompt(template=Template(name))
    one = Encoder(text_tokenizer, chosen_template(prompt, own, special))
    seen = 0
    for messages in conversations(60):
        (sample,) = one.encoded(one.renderings(messages))
        answers = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
        if sample.adjusted:
            answers = answers[:1]
            seen += 1
        for at in answers:
            context = text_tokenizer.ids(one.context(messages[:at]))
            assert sample.ids[: len(context)].tolist() == context
            assert not sample.flags[len(context) - 1] & SUPERVISED
            assert sample.flags[len(context)] & SUPERVISED
    assert seen < 60
