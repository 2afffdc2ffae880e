"""Chooses the template of a run: the tokenizer's, the user's, or one of ours, as text to export.

Whatever the spec says about markers, end tokens, begin token and options becomes part of the
template's text, so that the exported template renders exactly as training did.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from finetune_api.text_settings import BeginToken, EndTokenAfter, Markers, Prompt, Template
from finetune_trainer.chat_template import ChatTemplate, SpecialTokens, TemplateUnsuitableError
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.template_sandbox import literal, variables_read

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ZEPHYR = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
OWN = {Template.CHATML: CHATML, Template.ZEPHYR: ZEPHYR}
GIVEN = {"messages", "add_generation_prompt", "bos_token", "eos_token", "range", "raise_exception"}
"""Names that a template always gets."""
_SHORT = 200


def chosen_template(
    prompt: Prompt, own: str | None, tokens: SpecialTokens, custom: str | None = None
) -> ChatTemplate:
    """Return the template of a run; `own` is the tokenizer's, `custom` the text of templateRef.

    Raises TemplateUnsuitableError where there is none, and ConfigurationError (DeadSetting) for
    settings that this template does not read.
    """
    wanted = prompt.template
    if wanted == Template.AUTO:
        wanted = Template.RAW if own is None else Template.MODEL
    if wanted == Template.CUSTOM:
        template = ChatTemplate("Custom", custom or "", tokens)
    elif wanted == Template.MODEL:
        template = ChatTemplate("Model", own or "", tokens)
        if own is None:
            raise TemplateUnsuitableError(
                "spec.prompt.template: Model, but the tokenizer has no chat template; set ChatML "
                "or Raw"
            )
    else:
        return _ours(prompt, wanted, tokens)
    if prompt.end_token_after is not None:
        raise _dead("endTokenAfter", f"the {template.name.lower()} template places its own")
    return _begun(_with_options(template.checked(), prompt), prompt.begin_token)


def _ours(prompt: Prompt, wanted: Template, tokens: SpecialTokens) -> ChatTemplate:
    stops: tuple[str, ...] = ()
    if wanted == Template.MARKERS:
        markers = prompt.markers or Markers()
        ends = _ends(prompt, tokens, list(EndTokenAfter))
        source = _markers(markers, ends)
        # An answer ends where the model begins the next turn by itself.
        texts = (markers.system, markers.prompt, markers.answer)
        stops = tuple(text for text in texts if text.strip())
    elif wanted == Template.RAW:
        source = _raw(_ends(prompt, tokens, [EndTokenAfter.ANSWER]))
    else:
        source = OWN[wanted]
    begin = prompt.begin_token
    if begin == BeginToken.ALWAYS and not tokens.begin:
        raise _dead("beginToken", "the tokenizer has no begin-of-text token")
    begins = tokens.begin_is_added if begin == BeginToken.AUTO else begin == BeginToken.ALWAYS
    template = ChatTemplate(wanted.value, source, tokens, stops)
    return _with_options(template.with_prefix("{{ bos_token }}" if begins else ""), prompt)


def _ends(
    prompt: Prompt, tokens: SpecialTokens, standard: Collection[EndTokenAfter]
) -> Collection[EndTokenAfter]:
    if prompt.end_token_after and not tokens.end:
        raise _dead("endTokenAfter", "the tokenizer has no end token")
    return standard if prompt.end_token_after is None else prompt.end_token_after


def _markers(markers: Markers, ends: Collection[EndTokenAfter]) -> str:
    """Return the template of three marker strings, each taken literally."""
    parts = (
        ("system", markers.system, EndTokenAfter.SYSTEM),
        ("user", markers.prompt, EndTokenAfter.PROMPT),
        ("assistant", markers.answer, EndTokenAfter.ANSWER),
    )
    turns = "".join(
        f"{{% {'if' if role == 'system' else 'elif'} message.role == '{role}' %}}"
        f"{{{{ {literal(marker)} }}}}{{{{ message.content }}}}"
        f"{'{{ eos_token }}' if end in ends else ''}"
        for role, marker, end in parts
    )
    answer = f"{{{{ {literal(markers.answer)} }}}}"
    return (
        f"{{% for message in messages %}}{turns}{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{answer}{{% endif %}}"
    )


def _raw(ends: Collection[EndTokenAfter]) -> str:
    """Return prompt, answer, end token; a blank line behind the system text."""

    def end(after: EndTokenAfter) -> str:
        return "{{ eos_token }}" if after in ends else ""

    return (
        "{% for message in messages %}{{ message.content }}"
        f"{{% if message.role == 'system' %}}{end(EndTokenAfter.SYSTEM)}{{{{ '\\n\\n' }}}}"
        f"{{% elif message.role == 'user' %}}{end(EndTokenAfter.PROMPT)}"
        f"{{% elif message.role == 'assistant' %}}{end(EndTokenAfter.ANSWER)}"
        "{% endif %}{% endfor %}"
    )


def _with_options(template: ChatTemplate, prompt: Prompt) -> ChatTemplate:
    """Make options the defaults of the template's own variables."""
    options = prompt.template_options or {}
    unread = sorted(set(options) - (variables_read(template.source) - GIVEN))
    if unread:
        raise _dead("templateOptions", f"template {template.name} reads no {', '.join(unread)}")
    defaults = "".join(
        f"{{% if {name} is not defined %}}{{% set {name} = {literal(json_or_text(text))} %}}"
        "{% endif %}"
        for name, text in options.items()
    )
    # The empty output keeps a line break that the template begins with.
    return template.with_prefix(defaults + "{{ '' }}") if defaults else template


def json_or_text(text: str) -> Any:
    """Return the value of an option: JSON, or the text itself where it is none."""
    try:
        return json.loads(text, parse_constant=str)
    except ValueError:
        return text


def _begun(template: ChatTemplate, begin: BeginToken) -> ChatTemplate:
    """Add or take the begin token of a foreign template; what it writes itself is not doubled."""
    token = template.tokens.begin
    if begin == BeginToken.AUTO:
        return template
    if not token:
        raise _dead("beginToken", "the tokenizer has no begin-of-text token")
    writes = _start(template).startswith(token)
    if begin == BeginToken.ALWAYS:
        return template if writes else template.with_prefix("{{ bos_token }}")
    silent = template.with_prefix("{% set bos_token = '' %}{{ '' }}") if writes else template
    if _start(silent).startswith(token):
        raise _dead("beginToken", f"template {template.name} writes {token} as plain text")
    return silent


def _start(template: ChatTemplate) -> str:
    return template.render([{"role": "user", "content": "mark"}])[:_SHORT]


def _dead(field: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"spec.prompt.{field}: {why}; remove {field}, or choose another template",
        reason="DeadSetting",
    )
