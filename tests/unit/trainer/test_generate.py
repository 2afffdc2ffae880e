"""Generation: every setting acts as in transformers, batching changes no answer, rows end alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import GenerationConfig

import finetune_trainer.generate as generation
from finetune_api.evaluation_settings import Generation
from finetune_trainer.answer_batches import RowBytes, batches, row_bytes
from finetune_trainer.answer_end import AnswerEnd, Finish
from finetune_trainer.decoding import Decoding, Prompt, decoding_of
from finetune_trainer.generate import generate
from finetune_trainer.model import load_base
from finetune_trainer.text_tokenizer import text_tokenizer
from toy_llama import toy_llama_folder

PROMPTS = [
    Prompt("a", (5, 6, 7)),
    Prompt("b", (9,)),
    Prompt("c", tuple(range(20, 33))),
    Prompt("d", (40, 2)),
    Prompt("e", (17, 18, 19, 20, 21)),
]
GREEDY = Decoding(max_new_tokens=20, stop=frozenset())
SAMPLED = replace(GREEDY, do_sample=True, temperature=2.0, top_p=0.9, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toy_llama_folder(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def model(folder):
    torch.set_num_threads(1)
    return load_base(folder, torch.float32)


@pytest.fixture(scope="module")
def backend(folder):
    return text_tokenizer(folder).backend


def tokens(answers):
    return {name: answer.tokens for name, answer in answers.items()}


def of_library(model, prompt, **settings):
    """Return what transformers' own generate answers one prompt with."""
    model.set_attn_implementation("sdpa")
    ids = torch.tensor([prompt.tokens])
    own, model.generation_config = model.generation_config, GenerationConfig()
    found = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        generation_config=GenerationConfig(
            **{"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0} | settings
        ),
    )
    model.generation_config = own
    model.set_attn_implementation("segments")
    return tuple(found[0, len(prompt.tokens) :].tolist())


@pytest.mark.parametrize("rows", [1, 2, 3], ids="{} rows".format)
@pytest.mark.parametrize(
    "decoding",
    [GREEDY, SAMPLED, replace(GREEDY, repetition_penalty=1.7), replace(GREEDY, num_beams=2)],
    ids=["greedy", "sampled", "penalised", "beams"],
)
def test_an_answer_does_not_depend_on_its_batch(model, decoding, rows):
    assert generate(model, PROMPTS[::-1], decoding, rows=rows) == generate(model, PROMPTS, decoding)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        pytest.param({}, {}, id="greedy"),
        pytest.param({"repetition_penalty": 1.8}, {"repetition_penalty": 1.8}, id="penalty"),
        pytest.param({"max_new_tokens": 5}, {"max_new_tokens": 5}, id="fewer tokens"),
        pytest.param({"num_beams": 3}, {"num_beams": 3}, id="beams"),
    ],
)
def test_batched_answers_equal_those_of_the_library_one_by_one(model, ours, theirs):
    found = tokens(generate(model, PROMPTS, replace(GREEDY, **ours)))
    assert found == {one.id: of_library(model, one, **theirs) for one in PROMPTS}


@pytest.mark.parametrize("least", [0, 6, 15], ids="at least {}".format)
def test_end_tokens_and_least_lengths_act_as_in_the_library(model, least):
    free = tokens(generate(model, PROMPTS, GREEDY))
    ends = sorted({row[2] for row in free.values()})
    decoding = replace(GREEDY, stop=frozenset(ends), min_new_tokens=least)
    for prompt in PROMPTS:
        theirs = of_library(
            model, prompt, eos_token_id=ends, min_new_tokens=least or None, max_new_tokens=20
        )
        ours = generate(model, PROMPTS, decoding)[prompt.id]
        assert ours.tokens == tuple(theirs[:-1] if theirs[-1] in ends else theirs)
        assert (ours.finish is Finish.END_TOKEN) == (theirs[-1] in ends)


def test_a_row_stops_at_each_of_several_end_tokens_while_others_go_on(model):
    whole = tokens(generate(model, PROMPTS, GREEDY))
    for stops in ({whole["a"][2]}, {whole["a"][2], whole["b"][8], whole["c"][19]}):
        ended = tokens(generate(model, PROMPTS, replace(GREEDY, stop=frozenset(stops))))
        for name, row in whole.items():
            cut = next((i for i, one in enumerate(row) if one in stops), len(row))
            assert ended[name] == row[:cut]


def test_finished_rows_leave_the_batch_once_half_of_it_has_ended(model):
    free = tokens(generate(model, PROMPTS, GREEDY))
    stops = [free["a"][0], free["b"][0], free["c"][0]]
    sizes = []
    hook = model.register_forward_pre_hook(
        lambda _, __, inputs: sizes.append(len(inputs["input_ids"])), with_kwargs=True
    )
    found = generate(model, PROMPTS, replace(GREEDY, stop=frozenset(stops)))
    hook.remove()
    long = [name for name, one in found.items() if len(one.tokens) >= generation.LOOK]
    assert 0 < 2 * len(long) <= len(PROMPTS)
    assert sizes[: generation.LOOK + 1] == [5] * generation.LOOK + [len(long)]


def test_sampling_repeats_with_the_seed_and_differs_with_another(model):
    hot = replace(GREEDY, do_sample=True, temperature=3.0)
    assert generate(model, PROMPTS, hot) == generate(model, PROMPTS, hot)
    assert generate(model, PROMPTS, hot) != generate(model, PROMPTS, replace(hot, seed=1))


def spelt(words, texts, least=0):
    """Return how many words complete a text that ends behind the first `least` words."""
    start = len(" ".join(words[:least]))
    return next(
        (
            n
            for n in range(max(1, least), len(words) + 1)
            for text in texts
            if " ".join(words[:n]).find(text, max(0, start - len(text) + 1)) >= 0
        ),
        None,
    )


@pytest.mark.parametrize("least", [0, 6], ids="at least {}".format)
def test_a_stop_text_ends_a_row_and_is_cut_off(model, backend, least):
    words = {
        name: [backend.id_to_token(one) for one in row]
        for name, row in tokens(generate(model, PROMPTS, GREEDY)).items()
    }
    texts = f"{words['a'][3]} {words['a'][4]}", words["c"][10]
    decoding = replace(GREEDY, stop_texts=texts, min_new_tokens=least)
    end = AnswerEnd(decoding, backend)
    found = generate(model, PROMPTS, decoding, end=end)
    assert {one.finish for one in found.values()} >= {Finish.STOP_TEXT}
    for name, answer in found.items():
        place = spelt(words[name], texts, least)
        assert len(answer.tokens) == (place or 20)
        assert (answer.finish is Finish.STOP_TEXT) == (place is not None)
        kept = " ".join(words[name][: place or 20])
        assert any(end.text(answer) == kept.partition(text)[0].strip() for text in texts) or least
    if not least:
        assert end.text(found["a"]) == " ".join(words["a"][:3])


def test_a_time_limit_ends_rows_at_the_next_look(model, monkeypatch):
    hours = iter(range(0, 10**6, 3600))
    monkeypatch.setattr(generation.time, "monotonic", lambda: next(hours))
    found = generate(model, PROMPTS, replace(GREEDY, max_time_seconds=1))
    assert {answer.finish for answer in found.values()} == {Finish.TIME}
    assert {len(answer.tokens) for answer in found.values()} == {generation.LOOK}


def test_the_context_bounds_each_row_by_its_own_prompt(model):
    prompts = [Prompt(str(n), tuple(2 + i % 50 for i in range(n))) for n in (125, 121)]
    found = generate(model, prompts, GREEDY)
    assert {name: len(one.tokens) for name, one in found.items()} == {"125": 3, "121": 7}
    assert {one.finish for one in found.values()} == {Finish.LENGTH}


def test_generation_leaves_attention_and_mode_as_they_were(model):
    model.train()
    generate(model, PROMPTS[:1], GREEDY)
    assert model.training
    assert model.config._attn_implementation == "segments"


CHANGES = {
    "max_new_tokens": 7,
    "min_new_tokens": 3,
    "max_time_seconds": 2,
    "do_sample": True,
    "temperature": 0.5,
    "top_k": 3,
    "top_p": 0.5,
    "min_p": 0.2,
    "num_beams": 2,
    "repetition_penalty": 1.5,
    "stop_strings": ["halt"],
}


def test_every_field_of_the_spec_reaches_the_decoding():
    assert set(CHANGES) == set(Generation.model_fields)
    plain = decoding_of(Generation(), 1, [1], [])
    for field, value in CHANGES.items():
        changed = decoding_of(Generation().model_copy(update={field: value}), 1, [1], [])
        name = {"stop_strings": "stop_texts"}.get(field, field)
        assert getattr(changed, name) == (("halt",) if field == "stop_strings" else value)
        assert getattr(plain, name) != getattr(changed, name)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"max_new_tokens": 7}, id="maxNewTokens"),
        pytest.param({"min_new_tokens": 12}, id="minNewTokens"),
        pytest.param({"max_time_seconds": 1}, id="maxTimeSeconds"),
        pytest.param({"do_sample": True}, id="doSample"),
        pytest.param({"do_sample": True, "temperature": 5.0}, id="temperature"),
        pytest.param({"do_sample": True, "top_k": 2}, id="topK"),
        pytest.param({"do_sample": True, "top_p": 0.2}, id="topP"),
        pytest.param({"do_sample": True, "min_p": 0.9}, id="minP"),
        pytest.param({"num_beams": 4}, id="numBeams"),
        pytest.param({"repetition_penalty": 2.0}, id="repetitionPenalty"),
        pytest.param({"stop_strings": ["w5"]}, id="stopStrings"),
    ],
)
def test_every_field_of_the_spec_changes_an_answer(model, backend, monkeypatch, changes):
    if "max_time_seconds" in changes:
        hours = iter(range(0, 10**6, 3600))
        monkeypatch.setattr(generation.time, "monotonic", lambda: next(hours))
    stop = [tokens(generate(model, PROMPTS, GREEDY))["a"][10]]
    plain = Generation(max_new_tokens=20, do_sample=len(changes) == 2)
    found = []
    for one in (plain, plain.model_copy(update=changes)):
        decoding = decoding_of(one, 3, stop, [])
        found.append(generate(model, PROMPTS, decoding, end=AnswerEnd(decoding, backend)))
    assert found[0] != found[1]


def test_longer_prompts_and_answers_make_smaller_batches():
    row = RowBytes(cached=10, prefilled=5, fixed=100)
    prompts = [Prompt(str(n), (1,) * n) for n in (1, 2, 30, 40)]

    def sizes(new, free):
        decoding = Decoding(max_new_tokens=new, stop=frozenset())
        return [
            [len(one.tokens) for one in batch] for batch in batches(prompts, decoding, row, free, 3)
        ]

    assert sizes(10, 10**6) == [[40, 30, 2], [1]]
    assert sizes(10, 4000) == [[40, 30], [2, 1]]
    assert sizes(100, 4000) == [[40], [30], [2], [1]]
    assert sizes(10, 1) == [[40], [30], [2], [1]]


def test_a_row_is_counted_from_the_shape_of_the_model(model):
    row = row_bytes(model.config, 2)
    assert row.cached == 2 * 2 * 2 * 8 * 2  # keys and values, layers, heads, head size, bytes
    assert row.of(3, 4) == row.cached * 7 + row.prefilled * 3 + row.fixed
