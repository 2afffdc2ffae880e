"""The FineTuneExperiment: one training run and what became of it."""

from __future__ import annotations

from typing import ClassVar

from finetune_api.experiment_status import (
    ExperimentStatus,
)
from finetune_api.meta import ApiModel, ObjectMeta, Rule
from finetune_api.run_policy import Scheduling, TrainingCompute, TrainingRunPolicy
from finetune_api.storage import Hub, Storage
from finetune_api.training_settings import (
    Adapter,
    Checkpoint,
    Evaluation,
    ExperimentDataset,
    Generation,
    Model,
    ProblemType,
    Prompt,
    Tokenizer,
    Tracking,
    Training,
)


class ExperimentSpec(ApiModel):
    """What is to be trained."""

    problem_type: ProblemType = ProblemType.CAUSAL_LM
    """problemType is what is learned."""
    model: Model
    """model is the starting weights; exactly one of name, volumeClaim, s3."""
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
    scheduling: Scheduling = Scheduling()
    """scheduling is where pods are placed."""
    run_policy: TrainingRunPolicy = TrainingRunPolicy()
    """runPolicy holds suspension and retries."""

    rules: ClassVar[tuple[Rule, ...]] = ()


class FineTuneExperiment(ApiModel):
    """FineTuneExperiment trains a model on a Dataset and keeps verified checkpoints."""

    metadata: ObjectMeta
    spec: ExperimentSpec
    status: ExperimentStatus = ExperimentStatus()
