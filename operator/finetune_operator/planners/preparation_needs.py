"""What a preparation refers to: Datasets and a parent experiment, judged and pinned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from finetune_api.dataset import Dataset
from finetune_api.experiment_start import Ancestor, Start
from finetune_api.experiment_status import DatasetPin
from finetune_api.finetune_experiment import FineTuneExperiment
from finetune_api.model_settings import AdapterHandover, CheckpointChoice, FromExperiment
from finetune_api.names import DATASET, EXPERIMENT
from finetune_api.run_config import SnapshotRef
from finetune_api.run_outcome import CheckpointRef
from finetune_operator import checks
from finetune_operator.checks import Refusal
from finetune_operator.manifests.identity import location
from finetune_operator.manifests.prepare_job import Snapshots
from finetune_operator.observed import Observed, Policy
from finetune_operator.planners.experiment_of import experiment_of
from finetune_operator.planners.kept_checkpoints import kept_checkpoints
from finetune_operator.planners.recorded_attempt import first_refusal
from finetune_operator.planners.references import Reference, reference
from finetune_operator.planners.settled import is_a, settled
from finetune_operator.status import AS_EXPECTED, Verdict

MOST_ANCESTORS = 8


@dataclass(frozen=True)
class Needs:
    """The references of an experiment's spec as observed."""

    observed: Observed

    @property
    def all(self) -> tuple[Reference, ...]:
        """Every reference, the data first."""
        found = (self.dataset, self.validation, self.test, self.parent)
        return tuple(one for one in found if one is not None)

    @property
    def dataset(self) -> Reference:
        """The Dataset that is trained on."""
        return reference(self.observed, DATASET, self._spec.dataset.name)

    @property
    def validation(self) -> Reference | None:
        """The Dataset that serves as validation instead of a split."""
        return self._own(self._spec.dataset.validation_name)

    @property
    def test(self) -> Reference | None:
        """The Dataset that serves as test instead of a split."""
        return self._own(self._spec.dataset.test_name)

    @property
    def parent(self) -> Reference | None:
        """The experiment whose weights are the start."""
        source = self._spec.model.from_experiment
        return reference(self.observed, EXPERIMENT, source.name) if source else None

    @property
    def missing(self) -> Reference | None:
        """The first reference that cannot be used yet."""
        return next((one for one in self.all if one.object is None), None)

    @property
    def verdict(self) -> Verdict:
        """Whether everything can be used."""
        return self.missing.verdict if self.missing else AS_EXPECTED

    def refusal(self) -> Refusal | None:
        """Return why what is there cannot be used; call it when nothing is missing."""
        experiment, policy = experiment_of(self.observed), self.observed.policy
        data = [is_a(one.object, Dataset) for one in self.all if isinstance(one.object, Dataset)]
        return first_refusal(
            *(checks.records_suit(experiment.spec.problem_type, one) for one in data),
            checks.the_snapshot_is_the_pinned_one(experiment, data[0]),
            *(checks.results_have_a_place(one.spec.storage, policy) for one in data),
            self._parent_refusal(),
        )

    def pins(self) -> dict[str, Any]:
        """Return the status fields that pin what is used, as it is now."""
        return {
            "dataset": _pin(self.dataset),
            "validation_dataset": _pin(self.validation),
            "test_dataset": _pin(self.test),
            "start": self._start(),
        }

    def snapshots(self) -> Snapshots:
        """Return where the pinned data lies."""
        status, policy = experiment_of(self.observed).status, self.observed.policy
        return Snapshots(
            dataset=settled(_snapshot(status.dataset, self.dataset, policy), "status.dataset"),
            validation=_snapshot(status.validation_dataset, self.validation, policy),
            test=_snapshot(status.test_dataset, self.test, policy),
        )

    @property
    def _spec(self) -> Any:
        return experiment_of(self.observed).spec

    def _own(self, name: str | None) -> Reference | None:
        return reference(self.observed, DATASET, name) if name else None

    def _parent_refusal(self) -> Refusal | None:
        source, parent = self._spec.model.from_experiment, self._parent()
        if source is None or parent is None:
            return None
        if chosen(source, parent) is None:
            return Refusal(
                "CheckpointNotFound",
                f"spec.model.fromExperiment: FineTuneExperiment {source.name} keeps no checkpoint "
                f"{source.checkpoint}; choose another",
            )
        start = settled(self._start(), "spec.model.fromExperiment")
        if len(start.ancestors) > MOST_ANCESTORS:
            return Refusal(
                "InvalidSpec",
                f"spec.model.fromExperiment: more than {MOST_ANCESTORS} experiments build on each "
                "other; export the model and start from the export",
            )
        return checks.the_model_is_allowed(start.base, self.observed.policy)

    def _parent(self) -> FineTuneExperiment | None:
        found = self.parent.object if self.parent else None
        return found if isinstance(found, FineTuneExperiment) else None

    def _start(self) -> Start | None:
        source, parent = self._spec.model.from_experiment, self._parent()
        if source is None or parent is None:
            return None
        checkpoint = chosen(source, parent)
        if checkpoint is None:
            return None
        return start_from(
            parent, checkpoint, self._spec.model.adapter_handover, self.observed.policy
        )


def chosen(source: FromExperiment, parent: FineTuneExperiment) -> CheckpointRef | None:
    """Return the checkpoint of a parent, or None if it keeps no such one."""
    kept = kept_checkpoints(parent)
    if source.checkpoint is not CheckpointChoice.STEP:
        return kept.get(source.checkpoint)
    return next((one for one in kept.values() if one.step == source.step), None)


def start_from(
    parent: FineTuneExperiment,
    checkpoint: CheckpointRef,
    handover: AdapterHandover,
    policy: Policy,
) -> Start:
    """Return base and ancestors of a run that starts from a parent's checkpoint.

    Full weights replace everything before them, and an adapter that the parent continued is part
    of the parent's own checkpoint.
    """
    kind = settled(parent.status.result, "status.result").kind
    earlier = parent.status.start.ancestors if parent.status.start else []
    if kind == "Model":
        earlier = []
    elif earlier and earlier[-1].kind == "Adapter":
        earlier = earlier[:-1] if earlier[-1].handover is AdapterHandover.CONTINUE else earlier
    base = parent.status.start.base if parent.status.start else parent.spec.model
    commit = parent.status.model.commit if parent.status.model and base.name else None
    return Start(
        base=base.model_copy(update={"revision": commit}) if commit else base,
        ancestors=[
            *earlier,
            Ancestor(
                experiment=parent.metadata.name,
                uid=parent.metadata.uid,
                step=checkpoint.step,
                uri=checkpoint.uri,
                digest=checkpoint.digest,
                kind=kind,
                handover=handover,
                location=settled(
                    location(parent.spec.storage, policy.default_location), "spec.storage"
                ),
            ),
        ],
    )


def _pin(found: Reference | None) -> DatasetPin | None:
    dataset = found.object if found else None
    if not isinstance(dataset, Dataset):
        return None
    status = dataset.status
    return DatasetPin(name=dataset.metadata.name, digest=status.digest or "", uri=status.uri or "")


def _snapshot(
    pin: DatasetPin | None, found: Reference | None, policy: Policy
) -> SnapshotRef | None:
    dataset = found.object if found else None
    if pin is None or not isinstance(dataset, Dataset):
        return None
    source = settled(
        location(dataset.spec.storage, policy.default_location), "the Dataset's spec.storage"
    )
    return SnapshotRef(name=pin.name, uri=pin.uri, digest=pin.digest, location=source)
