"""FineTuneExperiments, good and bad."""

from __future__ import annotations

from typing import Any

from corpus.admission_case import ABSENT, Case
from finetune_api.names import EXPERIMENT


def _of(says: str, refused: str = "", **spec: Any) -> Case:
    return Case(says, EXPERIMENT, spec, tuple(refused.split()))


def _env(says: str, refused: str, *variables: dict[str, Any]) -> Case:
    return _of(says, refused, compute={"env": list(variables)})


EXPERIMENT_CASES = [
    _of("a priority in no queue", "spec.scheduling",
        scheduling={"queuePriorityClassName": "high"}),
    _of("model and data are enough"),
    _of("an integer where a number is asked", training={"learningRate": 1}),
    _of("half an epoch between evaluations", evaluation={"everyEpochs": 0.5}),
    _of("two epochs between evaluations", evaluation={"everyEpochs": 2}),
    _of("full fine-tuning", adapter={"type": "None"}),
    _of("full fine-tuning with values that are the defaults",
        adapter={"type": "None", "rslora": False, "dropout": 0}),
    _of("CPU ranks", compute={"gpusPerNode": 0, "processesPerNode": 2}),
    _of("sampling", generation={"doSample": True, "temperature": 0.7, "topP": 1}),
    _of("a list of modules", adapter={"targetModules": ["q_proj", "v_proj"]}),
    _env("two variables", "", {"name": "A", "value": "1"}, {"name": "B"}),
    _of("no model", "spec.model", model=ABSENT),
    _of("a model that is null", "spec.model", model=None),
    _of("no place for the model", "spec.model", model={"name": ABSENT}),
    _of("two places for the model", "spec.model", model={"volumeClaim": {"claimName": "m"}}),
    _of("a revision without a repository", "spec.model",
        model={"name": ABSENT, "revision": "main", "volumeClaim": {"claimName": "m"}}),
    _of("a model name with a blank", "spec.model.name", model={"name": "my model"}),
    _of("a misspelt field", "spec.training.lerningRate", training={"lerningRate": 1e-4}),
    _of("a field of another block", "spec.rank", rank=8),
    _of("a rate in quotes", "spec.training.learningRate", training={"learningRate": "1e-4"}),
    _of("a rate that is a boolean", "spec.training.learningRate", training={"learningRate": True}),
    _of("a negative rate", "spec.training.learningRate", training={"learningRate": -1e-4}),
    _of("a wrong scheduler", "spec.training.scheduler", training={"scheduler": "cosine"}),
    _of("no epochs at all", "spec.training.epochs", training={"epochs": 0}),
    _of("a beta of one", "spec.training.adamBeta1", training={"adamBeta1": 1}),
    _of("a rank above its bound", "spec.adapter.rank", adapter={"rank": 1025}),
    _of("a rank with a fraction", "spec.adapter.rank", adapter={"rank": 8.5}),
    _of("an empty list of modules", "spec.adapter.targetModules", adapter={"targetModules": []}),
    _of("LoRA settings with full fine-tuning", "spec.adapter", adapter={"type": "None", "rank": 8}),
    _of("LoRA dropout with full fine-tuning", "spec.adapter",
        adapter={"type": "None", "dropout": 0.1}),
    _of("the batch given twice", "spec.training",
        training={"globalBatchSize": 8, "gradientAccumulationSteps": 2}),
    _of("the length given twice", "spec.training", training={"epochs": 1, "maxSteps": 10}),
    _of("a constant schedule with a floor", "spec.training",
        training={"scheduler": "Constant", "minLearningRateRatio": 0.1}),
    _of("the warm-up given twice", "spec.training",
        training={"warmupSteps": 10, "warmupRatio": 0.1}),
    _of("an epoch and a half between evaluations", "spec.evaluation",
        evaluation={"everyEpochs": 1.5}),
    _of("a temperature for greedy decoding", "spec.generation", generation={"temperature": 1}),
    _of("the best of no kept checkpoints", "spec.checkpoint",
        checkpoint={"result": "Best", "keepBest": 0}),
    _of("processes beside GPUs", "spec.compute", compute={"processesPerNode": 2}),
    _of("a delay above the longest", "spec.runPolicy", runPolicy={"maxBackoffSeconds": 5}),
    _of("offline with a token", "spec.hub", hub={"offline": True, "secretRef": {"name": "t"}}),
    _of("two places for results", "spec.storage",
        storage={"volumeClaim": {"claimName": "a"}, "s3": {"bucket": "abc"}}),
    _of("an endpoint with a user name", "spec.storage.s3.endpoint",
        storage={"s3": {"bucket": "abc", "endpoint": "https://me@host"}}),
    _of("a prefix that climbs", "spec.model.s3.prefix",
        model={"name": ABSENT, "s3": {"bucket": "abc", "prefix": ".."}}),
    _of("keys for an anonymous request", "spec.storage.s3",
        storage={"s3": {"bucket": "abc", "anonymous": True, "secretRef": {"name": "k"}}}),
    _of("one key where S3 needs two", "spec.storage.s3",
        storage={"s3": {"bucket": "abc", "secretRef": {"name": "k", "key": "one"}}}),
    _of("an S3 place without a bucket", "spec.storage.s3.bucket", storage={"s3": {}}),
    _of("label and resource names beyond their bounds",
        "spec.compute.nodeSelector spec.compute.resources.requests spec.compute.resources.limits",
        compute={"nodeSelector": {"x" * 317: "y"},
                 "resources": {"requests": {"": "1"}, "limits": {"": "1"}}}),
    _env("the same variable twice", "spec.compute.env[1]", {"name": "A"}, {"name": "A"}),
    _env("a variable without a name", "spec.compute.env[0].name", {"value": "x"}),
    _env("a variable of the operator", "spec.compute.env[0]", {"name": "MASTER_ADDR"}),
    _env("a variable with the operator's prefix", "spec.compute.env[1]",
         {"name": "A"}, {"name": "PET_NNODES"}),
    _env("a secret as a variable", "spec.compute.env[0]", {"name": "WANDB_API_KEY"}),
    _env("a word that only contains a secret's name", "", {"name": "TOKENIZERS_PARALLELISM"}),
    Case("a name of 40 characters", EXPERIMENT, name="a" * 40),
    Case("a name of 41 characters", EXPERIMENT, name="a" * 41, refused=("metadata.name",)),
    Case("a name that begins with a digit", EXPERIMENT, name="7b", refused=("metadata.name",)),
    Case("a name with a dot", EXPERIMENT, name="a.b", refused=("metadata.name",)),
    Case("a field beside spec", EXPERIMENT, top={"specs": {}}, refused=("specs",)),
    Case("a field in metadata", EXPERIMENT, top={"metadata": {"label": {}}},
         refused=("metadata.label",)),
    Case("no spec", EXPERIMENT, top={"spec": ABSENT}, refused=("spec",)),
    Case("a status in the manifest is not taken", EXPERIMENT,
         top={"status": {"attempt": {"number": 3}}}),
    Case("an unknown field of a status that is not taken", EXPERIMENT,
         top={"status": {"phase": "Running"}}, refused=("status.phase",)),
]  # fmt: skip
