"""All cases of admission."""

from __future__ import annotations

from corpus.change_cases import CHANGE_CASES
from corpus.dataset_cases import DATASET_CASES
from corpus.experiment_cases import EXPERIMENT_CASES
from corpus.export_cases import EXPORT_CASES
from corpus.pod_cases import POD_CASES
from corpus.training_cases import TRAINING_CASES

ADMISSION_CASES = [
    *DATASET_CASES, *EXPERIMENT_CASES, *TRAINING_CASES, *POD_CASES, *EXPORT_CASES, *CHANGE_CASES,
]  # fmt: skip
