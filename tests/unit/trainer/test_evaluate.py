"""Validation: every metric under its own name and definition, whatever the batches."""

from __future__ import annotations

import math

import pytest
import torch

from finetune_api.evaluation_settings import Evaluation, Metric
from finetune_trainer.decoding import Decoding, Prompt
from finetune_trainer.evaluate import evaluate, metrics, validation_samples
from finetune_trainer.generate import generate
from finetune_trainer.objective import REPORTED, Objective, objective_of, reported_names
from toy_llama import token_cache
from toy_task import toy_engine

CACHE = token_cache(12)
ALL = tuple(REPORTED.values())


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """Return an engine whose model gets some tokens right: four samples are its own answers."""
    built = toy_engine(tmp_path_factory.mktemp("engine"))
    for number in range(4):
        start, length = int(CACHE.offsets[number]), int(CACHE.lengths[number])
        prompt = Prompt("own", (int(CACHE.tokens[start]),))
        own = generate(built.task.model, [prompt], Decoding(length - 1, frozenset()))["own"].tokens
        CACHE.tokens[start + 1 : start + length] = own
    return built


def found(engine, samples=range(12), **changes):
    settings = {"budget": 48, "turn": lambda: None, "names": ALL} | changes
    return evaluate(engine, CACHE, list(samples), **settings)


def by_hand(engine):
    """Return every metric from the library's own logits, one sample at a time."""
    model, losses, hits = engine.task.model, [], []
    model.set_attn_implementation("sdpa")
    for number in range(len(CACHE)):
        tokens, flags = CACHE.sample(number)
        ids = torch.from_numpy(tokens.astype("int64"))
        with torch.no_grad():
            logits = model(input_ids=ids[None], use_cache=False).logits[0]
        rows = [i for i in range(1, len(ids)) if flags[i] & 1]
        scores = logits[[i - 1 for i in rows]].double().log_softmax(-1)
        losses.append([-scores[at, ids[i]].item() for at, i in enumerate(rows)])
        hits += [scores[at].argmax().item() == ids[i].item() for at, i in enumerate(rows)]
    model.set_attn_implementation("segments")
    every = [one for sample in losses for one in sample]
    mean = sum(every) / len(every)
    return {
        "loss": mean,
        "perplexity_corpus": math.exp(mean),
        "perplexity_sample_mean": sum(math.exp(sum(one) / len(one)) for one in losses) / 12,
        "token_accuracy": sum(hits) / len(hits),
    }


def test_each_metric_equals_its_definition(engine):
    assert found(engine).values == pytest.approx(by_hand(engine), rel=1e-5)
    assert found(engine).rows == int(CACHE.supervised.sum())
    assert 0.1 < found(engine).values["token_accuracy"] < 0.9


def test_the_two_perplexities_of_two_samples_differ_as_computed_by_hand():
    one, other = [1.0, 3.0], [0.5]
    values = metrics(4.5, 3, 2, math.exp(2.0) + math.exp(0.5), 2)
    assert values["loss"] == pytest.approx(sum(one + other) / 3)
    assert values["perplexity_corpus"] == pytest.approx(math.exp(1.5))
    assert values["perplexity_sample_mean"] == pytest.approx((math.exp(2.0) + math.exp(0.5)) / 2)
    assert values["token_accuracy"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("budget", [1, 10_000], ids=["one per batch", "all in one"])
@pytest.mark.parametrize("padded", [False, True], ids=["packed", "padded"])
def test_no_metric_depends_on_the_batches(engine, budget, padded):
    expected = found(engine).values
    engine.task.model.set_attn_implementation("sdpa" if padded else "segments")
    values = found(engine, budget=budget, padded=padded).values
    engine.task.model.set_attn_implementation("segments")
    assert values == pytest.approx(expected, rel=1e-6)


def test_evaluation_leaves_the_mode_of_the_model_as_it_was(engine):
    engine.task.train()
    found(engine)
    assert engine.task.training


def test_most_rows_are_the_same_seeded_subset_of_them():
    some = validation_samples(CACHE, 7, 5)
    assert len(set(some)) == 5
    assert some == validation_samples(CACHE, 7, None)[:5]
    assert some != validation_samples(CACHE, 8, 5)


@pytest.mark.parametrize("metric", list(Metric), ids=str)
def test_the_metrics_of_the_spec_are_those_reported(engine, metric):
    names = reported_names(Evaluation(metrics=[metric]))
    assert set(names) == {"loss", REPORTED[metric]}
    assert set(found(engine, names=names).values) == set(names)


def test_without_metrics_the_standard_ones_are_reported():
    assert reported_names(Evaluation()) == ("loss", "perplexity_corpus")


EVALUATIONS = [
    {"step": 0, "loss": 0.1, "token_accuracy": 0.9},
    {"step": 1, "loss": 2.0, "token_accuracy": 0.5},
    {"step": 2, "loss": 1.0, "token_accuracy": 0.4},
    {"step": 3, "loss": math.nan, "token_accuracy": math.inf},
    {"step": 4, "loss": 1.0, "token_accuracy": 0.6},
]


@pytest.mark.parametrize(
    ("metric", "ranking"),
    [(Metric.LOSS, [2, 4, 1]), (Metric.TOKEN_ACCURACY, [4, 1, 2])],
    ids=["lower is better", "higher is better"],
)
def test_the_objective_ranks_by_its_direction_and_never_takes_what_is_not_finite(metric, ranking):
    settings = Evaluation(metrics=[metric], objective=metric)
    objective = objective_of(settings, seen=False)
    assert objective.ranking(EVALUATIONS) == ranking


def test_an_improvement_exceeds_the_threshold_in_the_right_direction():
    loss, accuracy = Objective("loss"), Objective("token_accuracy", higher_is_better=True)
    assert loss.improves(1.0, None)
    assert loss.improves(0.8, 1.0, 0.1)
    assert not loss.improves(0.95, 1.0, 0.1)
    assert not loss.improves(1.2, 1.0)
    assert accuracy.improves(0.7, 0.5, 0.1)
    assert not accuracy.improves(0.4, 0.5)
    assert not loss.improves(math.nan, None)


def test_metrics_seen_in_training_decide_nothing():
    assert objective_of(Evaluation(), seen=True) is None
