"""Errors a job raises on purpose; each class is one exit code, and so one decision of the operator.

TrainerError
├── ConfigurationError       10  a setting is wrong: the run fails, the message names the field
├── DataError                11  data or a file of ours is missing, damaged or unusable
├── AccessError              12  refused, or not there: repeating cannot help
├── GpuOutOfMemoryError      20  the device is too small for the settings
├── ResourcesExhaustedError  21  host memory, disk or storage is full or read-only
├── NotFiniteError           22  NaN or Inf in training: a repeat meets the same batch
├── ExternalServiceError     30  a hub or store keeps failing: try again later
├── PeerLostError            40  another rank is gone: all ranks restart
└── CheckpointedExit         75  stopped on request, the state is saved

Whatever else is raised ends as Unknown, exit 1.
"""

from __future__ import annotations

from typing import ClassVar

from finetune_api.run_outcome import EXIT_CODES, FailureClass


class TrainerError(Exception):
    """A failure with a class, a reason of the API and a remedy.

    `message` names what is wrong and what to do; `remedy` repeats the latter where it deserves a
    field of its own; `reason` is a name of `conditions.FAILURE_REASONS`, or empty for the class's.
    """

    failure: ClassVar[FailureClass] = FailureClass.UNKNOWN
    reason: str = ""

    def __init__(self, message: str, *, remedy: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.message, self.remedy = message, remedy
        if reason:
            self.reason = reason

    @property
    def exit_code(self) -> int:
        """Return the exit code of the failure's class."""
        return EXIT_CODES[self.failure]


class ConfigurationError(TrainerError):
    """A setting is wrong, or impossible together with another one."""

    failure = FailureClass.CONFIGURATION


class DataError(TrainerError):
    """Data is missing, damaged or unusable."""

    failure = FailureClass.DATA


class AccessError(TrainerError):
    """A server refuses, or what was asked for does not exist."""

    failure = FailureClass.ACCESS


class GpuOutOfMemoryError(TrainerError):
    """The device is too small for the settings."""

    failure = FailureClass.GPU_OUT_OF_MEMORY
    reason = "OutOfGPUMemory"


class ResourcesExhaustedError(TrainerError):
    """Host memory, disk or storage is full or cannot be written."""

    failure = FailureClass.RESOURCES_EXHAUSTED


class NotFiniteError(TrainerError):
    """NaN or Inf appeared in a step; no such update was applied."""

    failure = FailureClass.NOT_FINITE
    reason = "NonFiniteLoss"


class ExternalServiceError(TrainerError):
    """A hub or store keeps failing."""

    failure = FailureClass.EXTERNAL_SERVICE
    reason = "ServiceUnavailable"


class PeerLostError(TrainerError):
    """Another rank is gone, or this one hung."""

    failure = FailureClass.PEER_LOST
    reason = "PeerLost"


class CheckpointedExit(TrainerError):  # noqa: N818 - an end on request, not an error
    """The run was asked to stop and its state is saved."""

    failure = FailureClass.CHECKPOINTED
