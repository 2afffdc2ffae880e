"""The preparation of an experiment: what it writes, what it resolves, what it refuses."""

import json

import numpy as np
import pytest

from data_ground import CHAT, jsonl, questions, results
from finetune_api.run_outcome import MAX_BYTES, FailureClass, Outcome
from finetune_trainer.errors import AccessError, ConfigurationError, DataError
from finetune_trainer.store import read_manifest, verify
from finetune_trainer.token_cache import fetch_prepared, open_cache, open_prompts
from preparation_bench import HOME, Bench


@pytest.fixture
def bench(ground):
    bench = Bench(ground)
    bench.model()
    bench.dataset(jsonl(questions(60)))
    return bench


def test_the_token_cache_is_what_the_trainer_reads(bench, tmp_path):
    summary, report = bench.prepared()
    (artifact,) = report.artifacts
    store = results().child(f"{HOME}/prepared-1-1")
    assert artifact.uri == store.uri
    verify(store, read_manifest(store))
    folder = fetch_prepared(store, artifact.digest, tmp_path / "copy")
    train, validation = (open_cache(folder / "tokens" / name) for name in ("train", "validation"))
    assert (len(train), len(validation)) == (57, 3)
    assert (summary.dataset.train, summary.dataset.validation) == (57, 3)
    assert int(train.supervised.min()) >= 3
    assert list(train.rows) == list(range(57))


def test_the_supervised_tokens_are_the_answers(bench, tmp_path):
    _, report = bench.prepared()
    store = results().child(f"{HOME}/prepared-1-1")
    folder = fetch_prepared(store, report.artifacts[0].digest, tmp_path / "copy")
    cache = open_cache(folder / "tokens/train")
    from finetune_trainer.text_tokenizer import text_tokenizer

    tokenizer = text_tokenizer(bench.ground.claims / "models/tiny")
    tokens, flags = np.array(cache.tokens), np.array(cache.flags)
    text = tokenizer.decode(tokens[(flags & 1) == 1].tolist())
    answers = text.split("<|end|>")[:-1]
    assert len(answers) == 57
    assert {answer.rpartition(" ")[0] for answer in answers} == {"answer"}


def test_a_preparation_can_be_repeated_and_gives_the_same_bytes(bench):
    first = bench.prepared()[1].artifacts[0]
    second = bench.prepared(attempt=2)[1].artifacts[0]
    again = bench.prepared()[1].artifacts[0]
    assert first.digest == second.digest == again.digest
    assert len({first.uri, second.uri, again.uri}) == 3


def test_prompts_have_ids_text_and_reference(bench, tmp_path):
    _, report = bench.prepared(evaluation={"generateSamples": 2})
    store = results().child(f"{HOME}/prepared-1-1")
    folder = fetch_prepared(store, report.artifacts[0].digest, tmp_path / "copy")
    prompts = open_prompts(folder)
    assert len(prompts) == 2
    assert all(one["text"].startswith("question ") for one in prompts)
    assert [one["text"].split()[1].rstrip("?") for one in prompts] == [
        one["reference"].split()[1] for one in prompts
    ]
    stop = json.loads((folder / "prompts.json").read_text())["stop"]
    assert stop == [0]
    template = json.loads((folder / "template.json").read_text())
    assert template == {"name": "Model", "source": CHAT, "stops": []}


def test_automatic_values_are_resolved_and_shown(bench):
    plan = bench.prepared()[0].plan
    assert (plan.max_length, plan.per_device_batch_size, plan.global_batch_size) == (64, 2, 2)
    assert (plan.max_tokens_per_device, plan.ranks, plan.strategy) == (128, 1, "SingleProcess")
    assert (plan.steps_per_epoch, plan.total_steps, plan.warmup_steps) == (29, 29, 1)
    assert (plan.learning_rate, plan.rank, plan.alpha, plan.epochs) == (1e-4, 16, 32.0, 1.0)
    assert (plan.template, plan.compute_dtype, plan.seed) == ("Model", "Float32", 7)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param(
            {"training": {"globalBatchSize": 8, "epochs": 2.5}},
            {"global_batch_size": 8, "steps_per_epoch": 8, "total_steps": 20},
            id="a batch given directly",
        ),
        pytest.param(
            {"training": {"maxSteps": 58, "warmupSteps": 5}},
            {"total_steps": 58, "epochs": 2.0, "warmup_steps": 5},
            id="steps instead of epochs",
        ),
        pytest.param(
            {"compute": {"gpusPerNode": 0, "processesPerNode": 2, "nodes": 2},
             "training": {"gradientAccumulationSteps": 3}},
            {"ranks": 4, "strategy": "DDP", "gpus": 0, "global_batch_size": 24},
            id="several CPU ranks",
        ),
        pytest.param(
            {"compute": {"gpusPerNode": 4, "nodes": 2}},
            {"ranks": 8, "gpus": 8, "compute_dtype": "BFloat16"},
            id="GPUs",
        ),
        pytest.param(
            {"adapter": {"type": "None"}},
            {"rank": None, "alpha": None, "learning_rate": 1e-5},
            id="full fine-tuning",
        ),
        pytest.param(
            {"adapter": {"rank": 4}, "training": {"learningRate": 0.0}},
            {"rank": 4, "alpha": 8.0, "learning_rate": 0.0},
            id="given values win",
        ),
        pytest.param({"tokenizer": {"maxLength": 200}}, {"max_length": 200}, id="a given length"),
    ],
)  # fmt: skip
def test_given_values_decide_the_rest(bench, spec, expected):
    plan = bench.prepared(**spec)[0].plan
    assert {name: getattr(plan, name) for name in expected} == expected


def test_the_plan_digest_follows_what_decides_the_trajectory(bench):
    digests = [
        bench.prepared(**spec)[0].plan.digest
        for spec in (
            {},
            {},
            {"training": {"learningRate": 2e-4}},
            {"tokenizer": {"maxLength": 32}},
            {"seed": 8},
            {"adapter": {"dropout": 0.1}},
        )
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 5


def test_the_model_is_described_from_its_files(bench):
    model = bench.prepared()[0].model
    assert (model.name, model.commit) == ("pvc://models/tiny", None)
    assert model.architecture == "LlamaForCausalLM"
    assert (model.parameters, model.trainable_parameters) == (32, 16 * 12)
    assert bench.prepared(adapter={"type": "None"})[0].model.trainable_parameters == 32


def test_cut_samples_are_counted_and_told(bench):
    rows = [*questions(30), *({"prompt": f"q{n}", "answer": "w x y z " * 99} for n in range(3))]
    bench.dataset(jsonl(rows), split={"validation": 0.0})
    summary, report = bench.prepared(tokenizer={"maxLength": 64})
    assert (summary.truncation.samples, summary.truncation.answers) == (3, 3)
    assert summary.truncation.fits_all > 300
    assert summary.truncation.lost_tokens > 500
    assert [one.reason for one in report.warnings] == ["AnswersCut"]
    error = bench.refused(DataError, tokenizer={"maxLength": 64, "maxTruncatedShare": 0.05})
    assert (error.reason, error.exit_code) == ("TruncationLimit", 11)
    assert bench.refused(DataError, tokenizer={"maxLength": 64, "overflow": "Fail"}).reason == (
        "TooLong"
    )
    dropped = bench.prepared(tokenizer={"maxLength": 64, "overflow": "Drop"})[0]
    assert (dropped.dataset.train, dropped.truncation.dropped) == (30, 3)


def test_control_tokens_in_the_data_are_told(bench):
    bench.dataset(jsonl([*questions(20), {"prompt": "say <|user|>", "answer": "no"}]))
    warnings = bench.prepared()[1].warnings
    assert [(one.reason, one.message[:9]) for one in warnings] == [
        ("SpecialTokenInText", "1 records")
    ]


def test_the_system_text_of_the_spec_stands_in(bench, tmp_path):
    _, report = bench.prepared(prompt={"system": "be brief"})
    store = results().child(f"{HOME}/prepared-1-1")
    folder = fetch_prepared(store, report.artifacts[0].digest, tmp_path / "copy")
    from finetune_trainer.text_tokenizer import text_tokenizer

    tokenizer = text_tokenizer(bench.ground.claims / "models/tiny")
    for prompt in open_prompts(folder):
        assert tokenizer.decode(prompt["tokens"]).startswith("<|system|>be brief<|end|>")


def test_a_dataset_of_documents_is_prepared_without_a_template(bench, tmp_path):
    bench.dataset(jsonl({"text": f"document {n} about things"} for n in range(40)))
    summary, report = bench.prepared(problemType="Pretraining")
    assert summary.plan.template == "Raw"
    store = results().child(f"{HOME}/prepared-1-1")
    folder = fetch_prepared(store, report.artifacts[0].digest, tmp_path / "copy")
    cache = open_cache(folder / "tokens/train")
    assert summary.dataset.train == 38
    assert int(cache.supervised.sum()) == len(cache.tokens) - len(cache)
    assert open_prompts(folder)[0]["reference"]


def test_a_model_that_is_not_there_fails_once(bench):
    spec = {"model": {"volumeClaim": {"claimName": "models", "path": "none"}}}
    assert bench.refused(AccessError, **spec).reason == "ModelNotFound"


def test_a_model_that_is_not_allowed_is_refused_before_it_is_read(bench):
    error = bench.refused(AccessError, allowed=["acme/*", "pvc://blessed/*"])
    assert (error.reason, error.exit_code) == ("ModelNotAllowed", 12)
    assert "acme/*" in str(error)
    assert bench.prepared(allowed=["pvc://models/*"])


def test_a_pinned_digest_refuses_another_snapshot(bench):
    spec = {"dataset": {"name": "faq", "digest": f"sha256:{'0' * 64}"}}
    assert bench.refused(DataError, **spec).reason == "DigestMismatch"


def test_a_damaged_snapshot_is_refused(bench):
    path = bench.ground.claims / "results/datasets/default/faq-1/snapshot-1/train.parquet"
    path.write_bytes(path.read_bytes()[:-4] + b"oops")
    error = bench.refused(DataError)
    assert (error.reason, error.exit_code) == ("DigestMismatch", 11)
    assert "train.parquet" in str(error)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        pytest.param({"tokenizer": {"maxLength": 512}}, "LengthAboveContext", id="length"),
        pytest.param({"training": {"maxSteps": 5, "warmupSteps": 5}}, "DeadSetting", id="warm-up"),
        pytest.param({"training": {"maxTokensPerDevice": 64, "epochs": 1.0},
                      "tokenizer": {"maxLength": 128}}, None, id="a budget that is enough"),
    ],
)  # fmt: skip
def test_settings_that_cannot_act_are_refused(bench, spec, reason):
    if reason is None:
        assert bench.prepared(**spec)
    else:
        assert bench.refused(ConfigurationError, **spec).reason == reason


def test_a_name_without_a_match_is_refused_before_there_is_a_gpu(bench):
    path = bench.ground.claims / "models/tiny/config.json"
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    known = {"model_type": "llama", "num_hidden_layers": 1, "num_key_value_heads": 2} | sizes
    path.write_text(json.dumps(json.loads(path.read_text()) | known))
    assert bench.prepared(training={"parameterGroups": [{"match": ["q_proj"]}]})
    error = bench.refused(ConfigurationError, training={"parameterGroups": [{"match": ["query"]}]})
    assert error.reason == "NoMatchingParameters"


def test_a_template_without_the_roles_of_the_data_is_refused(bench):
    template = "{% for m in messages if m.role != 'system' %}{{ m.content }}<|end|>{% endfor %}"
    bench.model(template=template)
    assert bench.prepared()
    error = bench.refused(ConfigurationError, prompt={"system": "be brief"})
    assert error.reason == "TemplateUnsuitable"
    assert bench.prepared(prompt={"system": "be brief", "template": "ChatML"})


def test_a_model_without_a_template_uses_raw(bench):
    bench.model(template=None)
    assert bench.prepared()[0].plan.template == "Raw"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("config.json", '{"architectures": ["BertModel"]}', "UnsupportedModel"),
        ("config.json", "{", "UnsupportedModel"),
        ("tokenizer.json", "{}", "UnsupportedModel"),
        ("tokenizer_config.json", "[", "UnsupportedModel"),
        ("model.safetensors", "\x80\x04pickle-like content", "UnsafeModelFormat"),
    ],
    ids=["no causal model", "broken config", "broken tokenizer", "broken settings", "no tensors"],
)
def test_a_model_folder_that_cannot_be_used_is_refused(bench, name, content, reason):
    (bench.ground.claims / "models/tiny" / name).write_text(content, "latin-1")
    assert bench.refused(ConfigurationError).reason == reason


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(bench):
    path = bench.ground.claims / "models/tiny/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"vocab_size": 100}))
    assert "but the model has 100 embeddings" in str(bench.refused(ConfigurationError))


def test_the_summary_fits_a_termination_message(bench):
    summary, report = bench.prepared()
    outcome = Outcome(
        failure_class=FailureClass.COMPLETED, preparation=summary, artifacts=report.artifacts
    )
    encoded = outcome.encoded()
    assert len(encoded) <= MAX_BYTES
    assert Outcome.model_validate_json(encoded) == outcome
