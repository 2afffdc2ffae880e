"""The FineTuneExperiment: one training run and what became of it."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from finetune_api.compute_settings import TrainingCompute, TrainingScheduling
from finetune_api.evaluation_settings import Checkpoint, Evaluation, Generation, Tracking
from finetune_api.experiment_status import ExperimentStatus
from finetune_api.meta import ApiModel, Name, ObjectMeta, Rule
from finetune_api.model_settings import Adapter, Model
from finetune_api.network_policy import NetworkPolicy
from finetune_api.pod_overrides import PodOverrides
from finetune_api.run_policy import TrainingRunPolicy
from finetune_api.storage import Hub, Storage
from finetune_api.strategy_settings import FSDP, DeepSpeed
from finetune_api.text_settings import Augmentation, ExperimentDataset, Prompt, Tokenizer
from finetune_api.training_settings import Mode, Preset, ProblemType, Training


class RerunFrom(StrEnum):
    """Where a new revision begins."""

    START = "Start"
    LAST_CHECKPOINT = "LastCheckpoint"


_QUANTISED = "(has(self.model.quantization) && self.model.quantization != 'None')"
_SHARDED = "self.compute.strategy in ['FSDP','ZeRO2','ZeRO3']"


class ExperimentSpec(ApiModel):
    """What is to be trained."""

    problem_type: ProblemType = ProblemType.CAUSAL_LM
    """problemType is what is learned: CausalLM from conversations, Pretraining from documents."""
    mode: Mode = Mode.TRAIN
    """mode Evaluate measures the starting weights and trains nothing; training and adapter keep
    their defaults."""
    preset: Preset = Preset.BALANCED
    """preset gives values to what is left open; a given value always wins."""
    model: Model
    """model is the starting weights."""
    dataset: ExperimentDataset
    """dataset is the data of the run."""
    tokenizer: Tokenizer = Tokenizer()
    """tokenizer is text to tokens."""
    prompt: Prompt = Prompt()
    """prompt is records to text."""
    adapter: Adapter = Adapter()
    """adapter is low-rank training."""
    training: Training = Training()
    """training is optimisation."""
    augmentation: Augmentation | None = None
    """augmentation changes training samples."""
    evaluation: Evaluation = Evaluation()
    """evaluation runs on the validation split, always once more at the end."""
    generation: Generation = Generation()
    """generation is how sample answers are generated."""
    checkpoint: Checkpoint = Checkpoint()
    """checkpoint is full resumable state, verified before it exists."""
    tracking: Tracking = Tracking()
    """tracking is how densely progress is recorded."""
    hub: Hub = Hub()
    """hub is access to the Hugging Face Hub."""
    storage: Storage = Storage()
    """storage is where results are written; absent = operator's default."""
    compute: TrainingCompute = TrainingCompute()
    """compute is pods, GPUs and processes of an attempt."""
    deepspeed: DeepSpeed | None = Field(default=None)
    """deepspeed holds settings of strategies ZeRO2 and ZeRO3."""
    fsdp: FSDP | None = Field(default=None)
    """fsdp holds settings of strategy FSDP."""
    scheduling: TrainingScheduling = TrainingScheduling()
    """scheduling is where pods are placed."""
    network_policy: NetworkPolicy = NetworkPolicy()
    """networkPolicy is who may connect to the pods, and where these may connect to."""
    pod_overrides: PodOverrides | None = None
    """podOverrides is part of a pod template, merged over every pod of the object."""
    run_policy: TrainingRunPolicy = TrainingRunPolicy()
    """runPolicy holds suspension, deadlines and retries."""
    rerun: Name | None = None
    """rerun is a free token: a new value ends what runs and starts a new revision."""
    rerun_from: RerunFrom = RerunFrom.START
    """rerunFrom is where a new rerun begins: with its preparation, or at the newest verified
    checkpoint of a run whose result fields stay as they were."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"self.mode != 'Train' || self.adapter.type != 'None' || !{_QUANTISED}",
            "quantised weights cannot be trained in full; choose an adapter or quantization None",
        ),
        Rule(
            f"self.compute.strategy != 'ZeRO3' || !{_QUANTISED}",
            "ZeRO3 cannot shard a quantised base; use strategy FSDP or DDP",
        ),
        Rule(
            "self.compute.strategy != 'FSDP' || !has(self.model.quantization) "
            "|| self.model.quantization != 'Int8'",
            "FSDP cannot shard an 8-bit base; use NF4, or strategy DDP",
        ),
        Rule(
            "!has(self.runPolicy.budget) || self.compute.gpusPerNode > 0",
            "a budget is one of GPU time, of which gpusPerNode 0 takes none; remove it",
        ),
        Rule(
            "!has(self.deepspeed) || self.compute.strategy in ['ZeRO2','ZeRO3']",
            "deepspeed acts with strategy ZeRO2 or ZeRO3 only",
        ),
        Rule(
            "!has(self.fsdp) || self.compute.strategy == 'FSDP'",
            "fsdp acts with strategy FSDP only",
        ),
        Rule(
            "!has(self.deepspeed) || (self.compute.strategy == 'ZeRO3' ? "
            "!has(self.deepspeed.allgatherBucketSize) : "
            "(self.deepspeed.offloadParameters == 'None' "
            "&& !has(self.deepspeed.stage3PrefetchBucketSize) "
            "&& !has(self.deepspeed.stage3ParamPersistenceThreshold) "
            "&& !has(self.deepspeed.stage3MaxLiveParameters) "
            "&& !has(self.deepspeed.stage3MaxReuseDistance)))",
            "allgatherBucketSize is for ZeRO2; stage3 fields and offloadParameters are for ZeRO3",
        ),
        Rule(
            f"!({_SHARDED}) || self.compute.nodes * (self.compute.gpusPerNode > 0 ? "
            "self.compute.gpusPerNode : (has(self.compute.processesPerNode) ? "
            "self.compute.processesPerNode : 1)) != 1 "
            "|| (has(self.deepspeed) && self.deepspeed.offloadOptimizer != 'None') "
            "|| (has(self.fsdp) && self.fsdp.offload != 'None')",
            "sharding on a single rank does nothing without offload; use strategy Auto",
        ),
        Rule(
            "self.compute.strategy in ['Auto','DDP'] || !self.compute.findUnusedParameters",
            "findUnusedParameters acts with DDP only",
        ),
        Rule(
            "!has(self.scheduling.topologyKey) || self.compute.nodes > 1",
            "topologyKey keeps several nodes together; with one there is nothing to keep",
        ),
        Rule(
            "!has(self.podOverrides) || !has(self.podOverrides.spec) "
            "|| !has(self.podOverrides.spec.affinity) "
            "|| (!has(self.compute.gpuProducts) && !has(self.scheduling.topologyKey))",
            "podOverrides.spec.affinity would replace that of gpuProducts and topologyKey; say it "
            "all in one place",
        ),
        Rule(
            "!has(self.augmentation) || self.mode == 'Train'",
            "augmentation acts when training only",
        ),
        Rule(
            "!has(self.augmentation) || self.problemType != 'Pretraining' || "
            "(self.augmentation.skipParentProbability == 0.0 "
            "&& self.augmentation.randomParentProbability == 0.0)",
            "documents have no earlier turns; remove the parent augmentations",
        ),
        Rule(
            "self.mode == 'Train' ? !has(self.dataset.evaluateSplit) : (!has(self.deepspeed) "
            "&& !has(self.fsdp) && !self.dataset.includeValidation)",
            "evaluateSplit is for mode Evaluate; deepspeed, fsdp and includeValidation are for "
            "Train",
        ),
        Rule(
            "!self.dataset.includeValidation || (self.evaluation.earlyStoppingPatience == 0 "
            "&& self.checkpoint.result != 'Best')",
            "validation data used for training cannot decide best or early stop",
        ),
        Rule(
            "self.prompt.template == 'Markers' || !self.tokenizer.addMarkerTokens",
            "addMarkerTokens acts with template Markers only",
        ),
        Rule(
            "self.tokenizer.overflow != 'Window' || self.problemType == 'Pretraining'",
            "windows are for Pretraining; choose Truncate, Drop or Fail",
        ),
        Rule(
            "self.problemType != 'Pretraining' || self.prompt.template in ['Auto','Raw']",
            "documents have no turns; use template Raw",
        ),
        Rule(
            "!has(self.training.freeze) || self.adapter.type == 'None'",
            "with an adapter the base is frozen anyway; use adapter.modulesToSave to train more",
        ),
        Rule(
            "self.rerunFrom == 'Start' || (has(self.rerun) && self.mode == 'Train' "
            "&& self.checkpoint.policy == 'Resumable')",
            "LastCheckpoint needs a rerun token, mode Train and resumable checkpoints",
        ),
        Rule(
            "self.checkpoint.policy == 'Resumable' || self.training.nonFinitePolicy != 'Rollback'",
            "Rollback needs resumable checkpoints",
        ),
    )


class FineTuneExperiment(ApiModel):
    """FineTuneExperiment trains a model on a Dataset and keeps verified checkpoints."""

    metadata: ObjectMeta
    spec: ExperimentSpec
    status: ExperimentStatus = ExperimentStatus()
