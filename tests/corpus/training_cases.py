"""FineTuneExperiments whose settings of text, weights, strategy and evaluation meet or not."""

from __future__ import annotations

from typing import Any

from corpus.admission_case import ABSENT, Case
from finetune_api.names import EXPERIMENT

_PARENT = {"name": ABSENT, "fromExperiment": {"name": "parent"}}


def _of(says: str, refused: str = "", **spec: Any) -> Case:
    return Case(says, EXPERIMENT, spec, tuple(refused.split()))


def _model(says: str, refused: str = "", **model: Any) -> Case:
    return _of(says, refused, model=model)


def _training(says: str, refused: str = "", **training: Any) -> Case:
    return _of(says, refused, training=training)


def _strategy(says: str, refused: str = "", /, *, strategy: str, **spec: Any) -> Case:
    return _of(says, refused, **{"compute": {"strategy": strategy, "gpusPerNode": 2}, **spec})


TRAINING_CASES = [
    _model("weights of another experiment", **_PARENT),
    _model("a step of another experiment",
           name=ABSENT, fromExperiment={"name": "p", "checkpoint": "Step", "step": 5}),
    _model("a step without its number", "spec.model.fromExperiment",
           name=ABSENT, fromExperiment={"name": "p", "checkpoint": "Step"}),
    _model("an experiment beside a model", "spec.model", fromExperiment={"name": "p"}),
    _model("a 4-bit base", quantization="NF4"),
    _model("an 8-bit base with its threshold", quantization="Int8", int8Threshold=4),
    _model("a threshold without an 8-bit base", "spec.model", int8Threshold=4),
    _model("random weights", initialWeights="Random"),
    _model("random weights that are quantised", "spec.model",
           initialWeights="Random", quantization="NF4"),
    _of("a quantised base in full fine-tuning", "spec",
        model={"quantization": "NF4"}, adapter={"type": "None"}),
    _of("frozen parts in full fine-tuning",
        adapter={"type": "None"}, training={"freeze": ["embeddings"]}),
    _training("frozen parts beside an adapter", "spec", freeze=["embeddings"]),
    _of("modules saved in full fine-tuning", "spec.adapter",
        adapter={"type": "None", "modulesToSave": ["lm_head"]}),
    _of("a revision of the model's own tokenizer", "spec.tokenizer",
        tokenizer={"revision": "main"}),
    _of("options of the tokenizer", tokenizer={"options": {"add_prefix_space": "true"}}),
    _of("an option without a name", "spec.tokenizer.options",
        tokenizer={"options": {"": "true"}}),
    _of("an option that is no text", "spec.tokenizer.options.x",
        tokenizer={"options": {"x": True}}),
    _of("windows of conversations", "spec", tokenizer={"overflow": "Window"}),
    _of("windows of documents", problemType="Pretraining", tokenizer={"overflow": "Window"}),
    _of("a chat template for documents", "spec",
        problemType="Pretraining", prompt={"template": "ChatML"}),
    _of("markers as tokens", prompt={"template": "Markers"}, tokenizer={"addMarkerTokens": True}),
    _of("markers as tokens of another template", "spec", tokenizer={"addMarkerTokens": True}),
    _of("markers of another template", "spec.prompt", prompt={"markers": {"prompt": "Q:"}}),
    _of("an own template", prompt={"template": "Custom",
                                   "templateRef": {"name": "t", "key": "chat.jinja"}}),
    _of("an own template without its place", "spec.prompt", prompt={"template": "Custom"}),
    _of("end tokens of a chat template", "spec.prompt",
        prompt={"template": "ChatML", "endTokenAfter": ["Answer"]}),
    _of("a sample of the data", dataset={"sampleFraction": 0.5}),
    _of("a sample given twice", "spec.dataset", dataset={"sampleFraction": 0.5, "sampleRows": 9}),
    _of("validation records as training data", dataset={"includeValidation": True}),
    _of("early stop on records seen in training", "spec",
        dataset={"includeValidation": True}, evaluation={"earlyStoppingPatience": 1}),
    _of("a split to train on", "spec", dataset={"evaluateSplit": "Test"}),
    _of("a split to evaluate", mode="Evaluate", dataset={"evaluateSplit": "Test"}),
    _of("noise without training", "spec", mode="Evaluate", augmentation={"neftuneNoiseAlpha": 5}),
    _of("parents of documents", "spec",
        problemType="Pretraining", augmentation={"skipParentProbability": 0.1}),
    _training("tokens per step", globalBatchTokens=4096),
    _training("a step counted twice", "spec.training", globalBatchTokens=64, globalBatchSize=4),
    _training("cycles of another schedule", "spec.training", schedulerCycles=2),
    _training("a decay of another schedule", "spec.training", decayRatio=0.2),
    _training("momentum of SGD", optimizer="SGD", momentum=0.8),
    _training("momentum of AdamW", "spec.training", momentum=0.8),
    _training("a group of its own rate",
              parameterGroups=[{"match": ["head"], "learningRate": 1e-5}]),
    _training("a group of nothing", "spec.training.parameterGroups[0].match",
              parameterGroups=[{"match": []}]),
    _training("a rollback with its factor", nonFinitePolicy="Rollback", rollbackFactor=0.1),
    _training("a factor without rollback", "spec.training", rollbackFactor=0.1),
    _of("a rollback to nothing", "spec",
        training={"nonFinitePolicy": "Rollback"}, checkpoint={"policy": "None"}),
    _of("a run that goes on without a token", "spec", rerunFrom="LastCheckpoint"),
    _of("an objective that is measured",
        evaluation={"metrics": ["Loss", "TokenAccuracy"], "objective": "TokenAccuracy"}),
    _of("an objective that is not measured", "spec.evaluation",
        evaluation={"objective": "TokenAccuracy"}),
    _of("early stop without points", "spec.evaluation",
        evaluation={"everyEpochs": 0, "earlyStoppingPatience": 1}),
    _of("a threshold without patience", "spec.evaluation",
        evaluation={"earlyStoppingThreshold": 0.1}),
    _of("fewest new tokens above most", "spec.generation", generation={"minNewTokens": 129}),
    _of("topK for greedy decoding", "spec.generation", generation={"topK": 5}),
    _of("the best of a run that keeps nothing", "spec.checkpoint",
        checkpoint={"policy": "None", "result": "Best"}),
    _strategy("ZeRO2 with a bucket", strategy="ZeRO2", deepspeed={"allgatherBucketSize": 1000}),
    _strategy("ZeRO3 with offload", strategy="ZeRO3",
              deepspeed={"offloadOptimizer": "CPU", "offloadParameters": "CPU"}),
    _strategy("ZeRO3 with a setting of ZeRO2", "spec", strategy="ZeRO3",
              deepspeed={"allgatherBucketSize": 1000}),
    _strategy("ZeRO2 with a setting of ZeRO3", "spec", strategy="ZeRO2",
              deepspeed={"stage3PrefetchBucketSize": 0}),
    _strategy("DDP with settings of ZeRO", "spec", strategy="DDP", deepspeed={}),
    _strategy("ZeRO3 with a 4-bit base", "spec", strategy="ZeRO3", model={"quantization": "NF4"}),
    _strategy("FSDP with a 4-bit base", strategy="FSDP", model={"quantization": "NF4"}),
    _strategy("FSDP with an 8-bit base", "spec", strategy="FSDP", model={"quantization": "Int8"}),
    _strategy("FSDP in groups", strategy="FSDP", fsdp={"shardGroupSize": 2}),
    _strategy("groups without FSDP", "spec", strategy="Auto", fsdp={"shardGroupSize": 2}),
    _strategy("unused parameters under FSDP", "spec", strategy="FSDP",
              compute={"strategy": "FSDP", "gpusPerNode": 2, "findUnusedParameters": True}),
    _of("sharding on one GPU", "spec", compute={"strategy": "FSDP"}),
    _of("sharding on one GPU with offload", compute={"strategy": "FSDP"}, fsdp={"offload": "CPU"}),
    _of("sharding on two CPU ranks",
        compute={"strategy": "FSDP", "gpusPerNode": 0, "processesPerNode": 2}),
]  # fmt: skip
