"""The template of a run: one text that holds markers, end tokens, begin token and options."""

import pytest

from finetune_api.text_settings import BeginToken, EndTokenAfter, Markers, Prompt, Template
from finetune_trainer.chat_template import ChatTemplate, SpecialTokens, TemplateUnsuitableError
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.template_choice import chosen_template

TURNS = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "why?"},
    {"role": "assistant", "content": "because"},
    {"role": "user", "content": "really?"},
    {"role": "assistant", "content": "yes"},
]
PLAIN = SpecialTokens(begin="<s>", end="</s>")
ADDED = SpecialTokens(begin="<s>", end="</s>", begin_is_added=True)
OWN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
BEGINS = "{{ bos_token }}" + OWN


def template(tokens=PLAIN, own=None, custom=None, **prompt):
    return chosen_template(Prompt(**prompt), own, tokens, custom)


def test_markers_stand_before_their_texts_and_end_tokens_behind():
    one = template(template=Template.MARKERS)
    assert one.render(TURNS) == (
        "<|system|>be brief</s><|prompt|>why?</s><|answer|>because</s>"
        "<|prompt|>really?</s><|answer|>yes</s>"
    )
    assert one.render(TURNS[1:2], prompt=True) == "<|prompt|>why?</s><|answer|>"
    assert one.stops == ("<|system|>", "<|prompt|>", "<|answer|>")


@pytest.mark.parametrize(
    "marker",
    [
        pytest.param("<|é|>", id="Latin with an accent"),
        pytest.param("<|подсказка|>", id="Cyrillic"),
        pytest.param("【提示】", id="Chinese"),
        pytest.param("؟سؤال:", id="Arabic"),
        pytest.param("प्रश्न:", id="Devanagari"),
        pytest.param("🎈", id="a character of four bytes"),
        pytest.param("\\n", id="a literal backslash and n"),
        pytest.param("\n\t", id="a real line break"),
        pytest.param("{{ x }}{% if %}", id="what looks like a template"),
        pytest.param('"\'`\\"', id="quotes"),
    ],
)
def test_markers_of_any_script_and_backslashes_are_taken_literally(marker):
    one = template(template=Template.MARKERS, markers=Markers(prompt=marker, answer=marker[::-1]))
    assert one.render(TURNS[1:3]) == f"{marker}why?</s>{marker[::-1]}because</s>"


@pytest.mark.parametrize(
    ("name", "ends", "expected"),
    [
        ("Markers", [], "<|system|>S<|prompt|>U<|answer|>A"),
        ("Markers", ["System"], "<|system|>S</s><|prompt|>U<|answer|>A"),
        ("Markers", ["Prompt", "Answer"], "<|system|>S<|prompt|>U</s><|answer|>A</s>"),
        ("Raw", None, "S\n\nUA</s>"),
        ("Raw", ["Prompt"], "S\n\nU</s>A"),
        ("Raw", ["System", "Answer"], "S</s>\n\nUA</s>"),
    ],
)
def test_the_end_token_stands_where_it_is_asked_for(name, ends, expected):
    chosen = None if ends is None else [EndTokenAfter(one) for one in ends]
    one = template(template=Template(name), end_token_after=chosen)
    turns = zip(("system", "user", "assistant"), "SUA", strict=True)
    assert one.render([{"role": role, "content": text} for role, text in turns]) == expected


def test_zephyr_puts_the_tokenizers_end_token_behind_every_turn():
    one = template(template=Template.ZEPHYR)
    assert one.render(TURNS[:3]) == (
        "<|system|>\nbe brief</s>\n<|user|>\nwhy?</s>\n<|assistant|>\nbecause</s>\n"
    )
    assert one.render(TURNS[1:2], prompt=True) == "<|user|>\nwhy?</s>\n<|assistant|>\n"


@pytest.mark.parametrize("name", ["Raw", "Markers", "ChatML", "Zephyr"])
@pytest.mark.parametrize(
    ("tokens", "begin", "begins"),
    [
        (PLAIN, BeginToken.AUTO, False),
        (ADDED, BeginToken.AUTO, True),
        (PLAIN, BeginToken.ALWAYS, True),
        (ADDED, BeginToken.NEVER, False),
    ],
)
def test_our_templates_begin_as_the_tokenizer_is_configured_or_as_asked(
    name, tokens, begin, begins
):
    one = template(tokens, template=Template(name), begin_token=begin)
    assert one.render(TURNS).count("<s>") == begins
    assert one.render(TURNS).startswith("<s>") == begins


@pytest.mark.parametrize("own", [OWN, BEGINS], ids=["silent", "writes its own"])
@pytest.mark.parametrize(
    ("begin", "count"), [(BeginToken.AUTO, None), (BeginToken.ALWAYS, 1), (BeginToken.NEVER, 0)]
)
@pytest.mark.parametrize("tokens", [PLAIN, ADDED], ids=["not added", "added by the tokenizer"])
def test_a_begin_token_is_never_doubled(own, begin, count, tokens):
    one = template(tokens, own=own, begin_token=begin)
    assert one.render(TURNS).count("<s>") == ((own == BEGINS) if count is None else count)


@pytest.mark.parametrize(
    ("prompt", "own", "tokens", "field"),
    [
        pytest.param({"begin_token": BeginToken.ALWAYS}, OWN, SpecialTokens(), "beginToken",
                     id="no begin token, own template"),
        pytest.param({"begin_token": BeginToken.ALWAYS}, None, SpecialTokens(), "beginToken",
                     id="no begin token, ours"),
        pytest.param({"begin_token": BeginToken.NEVER}, "<s>" + OWN, PLAIN, "beginToken",
                     id="the begin token as plain text"),
        pytest.param({"end_token_after": [EndTokenAfter.ANSWER]}, OWN, PLAIN, "endTokenAfter",
                     id="a chat template places its own end tokens"),
        pytest.param({"template": Template.RAW, "end_token_after": [EndTokenAfter.ANSWER]}, None,
                     SpecialTokens(), "endTokenAfter", id="no end token"),
        pytest.param({"template_options": {"enable_thinking": "false"}}, OWN, PLAIN,
                     "templateOptions", id="an option that the template never reads"),
        pytest.param({"template": Template.CHATML, "template_options": {"messages": "[]"}}, None,
                     PLAIN, "templateOptions", id="what every template gets anyway"),
    ],
)  # fmt: skip
def test_a_setting_that_this_template_cannot_follow_is_refused(prompt, own, tokens, field):
    with pytest.raises(ConfigurationError, match=f"spec.prompt.{field}: ") as refused:
        template(tokens, own=own, **prompt)
    assert refused.value.reason == "DeadSetting"


THINKS = (
    "\n{%- if enable_thinking is defined and enable_thinking is false %}<no>{% endif %}"
    "{%- for m in messages %}{{ names[m.role] if names is defined else m.role }}:"
    "{{ m.content }}\n{% endfor %}"
)


def test_options_become_defaults_of_the_template_and_travel_with_its_text():
    options = {"enable_thinking": "false", "names": '{"user": "Ä\\n", "assistant": "b"}'}
    one = template(own=THINKS, template_options=options)
    expected = "<no>Ä\n:why?\nb:because\n"
    assert one.render(TURNS[1:3]) == expected
    assert ChatTemplate("exported", one.source).render(TURNS[1:3]) == expected
    assert template(own=THINKS).render(TURNS[1:3]) == "user:why?\nassistant:because\n"


def test_an_option_that_is_no_json_is_text_itself():
    one = template(own="{{ date }}", template_options={"date": "26 Jul 2024"})
    assert one.render(TURNS) == "26 Jul 2024"


def test_a_custom_template_is_rendered_instead_of_the_tokenizers():
    one = template(own=OWN, template=Template.CUSTOM, custom="{{ messages[0].content }}")
    assert (one.name, one.render(TURNS)) == ("Custom", "be brief")


def test_a_custom_template_that_cannot_be_read_is_refused():
    with pytest.raises(TemplateUnsuitableError, match="Custom fails with TemplateSyntaxError"):
        template(template=Template.CUSTOM, custom="{% if %}")
