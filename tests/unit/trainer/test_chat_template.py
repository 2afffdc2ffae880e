"""Chat templates: sandboxed, checked for the roles they drop, ours for models without one."""

import pytest

from finetune_api.text_settings import Prompt, Template
from finetune_trainer.chat_template import (
    ChatTemplate,
    SpecialTokens,
    TemplateUnsuitableError,
)
from finetune_trainer.template_choice import chosen_template

TURNS = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "why?"},
    {"role": "assistant", "content": "because"},
]
TOKENS = SpecialTokens(begin="<s>", end="</s>", begin_is_added=True)


def test_chatml_renders_turns_and_the_start_of_an_answer():
    template = chosen_template(Prompt(template=Template.CHATML), None, SpecialTokens("<s>", "</s>"))
    assert template.render(TURNS) == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nwhy?<|im_end|>\n"
        "<|im_start|>assistant\nbecause<|im_end|>\n"
    )
    assert template.render(TURNS[1:2], prompt=True).endswith("<|im_start|>assistant\n")


def test_raw_is_prompt_answer_and_end_token():
    template = chosen_template(Prompt(template=Template.RAW), None, TOKENS)
    assert template.render(TURNS) == "<s>be brief\n\nwhy?because</s>"
    assert template.render(TURNS[:2], prompt=True) == "<s>be brief\n\nwhy?"


def test_raw_has_a_begin_token_only_where_the_tokenizer_adds_one():
    template = chosen_template(
        Prompt(template=Template.RAW), None, SpecialTokens(begin="<s>", end="</s>")
    )
    assert template.render(TURNS[1:]) == "why?because</s>"


@pytest.mark.parametrize(
    ("wanted", "own", "name"),
    [
        (Template.AUTO, "{{ messages }}", "Model"),
        (Template.AUTO, None, "Raw"),
        (Template.MODEL, "{{ messages }}", "Model"),
        (Template.CHATML, "{{ messages }}", "ChatML"),
        (Template.RAW, "{{ messages }}", "Raw"),
    ],
)
def test_auto_takes_the_models_own_template(wanted, own, name):
    assert chosen_template(Prompt(template=wanted), own, TOKENS).name == name


def test_a_model_without_a_template_cannot_use_its_own():
    with pytest.raises(TemplateUnsuitableError, match="set ChatML or Raw") as refused:
        chosen_template(Prompt(template=Template.MODEL), None, TOKENS)
    assert (refused.value.exit_code, refused.value.reason) == (10, "TemplateUnsuitable")


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("{{ ''.__class__.__mro__[1].__subclasses__() }}", id="classes"),
        pytest.param("{{ messages.append(1) }}", id="a change of the data"),
        pytest.param("{{ self.__init__.__globals__ }}", id="globals"),
        pytest.param("{{ messages[0].__init__.__globals__['os'] }}", id="globals of a value"),
        pytest.param("{% for a in range(10**9) %}x{% endfor %}", id="an endless loop"),
        pytest.param("{{ 'a' * 10**12 }}", id="a huge text"),
        pytest.param("{{ raise_exception('roles must alternate') }}", id="a refusal"),
        pytest.param("{% include '/etc/passwd' %}", id="a file"),
        pytest.param(
            "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
            id="nested loops",
        ),
        pytest.param("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", id="endless recursion"),
        pytest.param("{{ messages * 10**8 }}", id="a huge list"),
        pytest.param("{{ 9**9**9 }}", id="a huge number"),
        pytest.param("{{ '%99999999999d' % 1 }}", id="a wide field"),
        pytest.param("{{ messages | format }}", id="a filter that formats"),
        pytest.param("{% if %}", id="broken syntax"),
    ],
)
def test_a_bad_template_is_refused(source):
    with pytest.raises(TemplateUnsuitableError, match=r"spec.prompt.template: Model"):
        ChatTemplate("Model", source).render(TURNS)


@pytest.mark.parametrize("source", ["{{ messages | attr('__class__') }}", "{{ cycler.__init__ }}"])
def test_inner_attributes_are_undefined(source):
    assert ChatTemplate("Model", source).render(TURNS) == ""


def test_an_output_without_end_is_stopped(monkeypatch):
    monkeypatch.setattr("finetune_trainer.template_sandbox.MAX_CHARACTERS", 100)
    template = ChatTemplate("Model", "{% for a in range(1000) %}{{ a }},{% endfor %}")
    with pytest.raises(TemplateUnsuitableError, match="more than 100 characters"):
        template.render(TURNS)


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(
            "{% for a in messages %}{% for b in text %}{% for c in text %}{% for d in text %}"
            "{% endfor %}{% endfor %}{% endfor %}{% endfor %}",
            id="nested loops over a text",
        ),
        pytest.param("{% macro m(n) %}{% for a in text %}{{ a | length }}{% endfor %}{% endmacro %}"
                     "{% for a in text %}{% for b in text %}{{ m(1) | trim }}{% endfor %}"
                     "{% endfor %}", id="a macro that is called too often"),
    ],
)  # fmt: skip
def test_a_template_that_takes_too_much_time_is_stopped(monkeypatch, source):
    monkeypatch.setattr("finetune_trainer.template_sandbox.MAX_SECONDS", 0.05)
    template = ChatTemplate("Model", "{% set text = 'x' * 3000 %}" + source)
    with pytest.raises(TemplateUnsuitableError, match=r"more than 0.05 seconds"):
        template.render(TURNS)


def test_generation_marks_of_other_tools_are_rendered_as_they_are():
    source = (
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %};{% endfor %}"
    )
    assert ChatTemplate("Model", source).render(TURNS[1:]) == "why?;because;"


def test_tojson_does_not_escape_for_html():
    assert ChatTemplate("Model", "{{ messages[0].content | tojson }}").render(
        [{"role": "user", "content": "<ä>"}]
    ) == '"<ä>"'  # fmt: skip


def test_a_template_that_drops_a_role_is_refused():
    source = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
    template = ChatTemplate("Model", source)
    template.check_roles(["user", "assistant"])
    with pytest.raises(TemplateUnsuitableError) as refused:
        template.check_roles(["system", "user"])
    assert str(refused.value) == (
        "spec.prompt.template: template Model has no system role; fold it into the first user "
        "turn, or remove the system column and prompt.system"
    )


def test_a_template_that_refuses_a_role_is_refused():
    source = (
        "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}"
        "{% endif %}{{ m.content }}{% endfor %}"
    )
    with pytest.raises(TemplateUnsuitableError, match="has no tool role"):
        ChatTemplate("Model", source).check_roles(["tool"])
