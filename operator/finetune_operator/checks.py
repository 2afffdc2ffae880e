"""Rules that need more than the object itself: other objects and the administrator's policy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from finetune_api.compute_settings import TrainingCompute, TrainingScheduling
from finetune_api.dataset import Dataset, RecordType
from finetune_api.finetune_experiment import FineTuneExperiment
from finetune_api.model_settings import Model
from finetune_api.names import JOB_SET, POD_GROUP
from finetune_api.storage import Storage
from finetune_api.training_settings import ProblemType
from finetune_operator.observed import Policy


@dataclass(frozen=True)
class Refusal:
    """A check that does not hold: the reason and the sentence people read."""

    reason: str
    message: str


def results_have_a_place(storage: Storage, policy: Policy) -> Refusal | None:
    """Somebody has to say where results are written."""
    if storage.volume_claim or storage.s3 or policy.default_location:
        return None
    message = (
        "spec.storage: neither volumeClaim nor s3 is set and the operator has no default; set one"
    )
    return Refusal("InvalidSpec", message)


def the_model_is_allowed(model: Model, policy: Policy) -> Refusal | None:
    """The administrator may name the models that can be used."""
    name = model_name(model)
    if model.from_experiment:
        return None  # its base model is checked in its place
    if not policy.models_allowed or any(
        fnmatchcase(name, pattern) for pattern in policy.models_allowed
    ):
        return None
    patterns = ", ".join(policy.models_allowed)
    message = f"spec.model: {name} is not allowed by the administrator; allowed: {patterns}"
    return Refusal("ModelNotAllowed", message)


def the_snapshot_is_the_pinned_one(
    experiment: FineTuneExperiment, dataset: Dataset
) -> Refusal | None:
    """A digest in the spec refuses any other content."""
    pin, digest = experiment.spec.dataset.digest, dataset.status.digest
    if pin is None or pin == digest:
        return None
    message = (
        f"spec.dataset.digest: Dataset {dataset.metadata.name} has digest {digest}, not {pin}; "
        "restore its content or change the pin"
    )
    return Refusal("DigestMismatch", message)


_RECORDS = {
    ProblemType.CAUSAL_LM: (RecordType.CONVERSATION, "give it an answer column"),
    ProblemType.PRETRAINING: (RecordType.TEXT, "give it recordType Text"),
}


def records_suit(problem_type: ProblemType, dataset: Dataset) -> Refusal | None:
    """Each problem type learns from one type of record."""
    found, (wanted, remedy) = dataset.status.record_type, _RECORDS[problem_type]
    if found == wanted.value:
        return None
    message = (
        f"Dataset {dataset.metadata.name} holds records of type {found}, problem type "
        f"{problem_type} needs {wanted}; use another Dataset, or {remedy}"
    )
    return Refusal("IncompatibleDataset", message)


def names_are_free(foreign: Iterable[str]) -> Refusal | None:
    """A child's name may belong to somebody else; it is never taken over."""
    taken = ", ".join(sorted(foreign))
    if not taken:
        return None
    message = f"{taken}: exists and is not ours; delete it or rename this object"
    return Refusal("NameTaken", message)


_OPTIONAL = {
    JOB_SET: ("spec.scheduling.engine", "JobSet", "settings.jobSets", "use engine Job"),
    POD_GROUP: ("spec.scheduling.gang", "Volcano", "settings.volcano", "use another gang"),
}
"""Field, its value, the administrator's switch and the way without, by kind of child."""


def the_kinds_are_there(
    scheduling: TrainingScheduling, policy: Policy, unserved: Iterable[str]
) -> Refusal | None:
    """An attempt may need kinds that an administrator allows and a cluster has to serve."""
    for kind in scheduling.kinds:
        field, value, switch, remedy = _OPTIONAL[kind]
        if kind not in policy.optional_kinds:
            why = f"the administrator has not switched {value} on ({switch})"
        elif kind in unserved:
            why = f"this cluster serves no {kind}s; install {value}"
        else:
            continue
        return Refusal("NotAvailable", f"{field}: {why}, or {remedy}")
    return None


def the_network_profile_is_known(compute: TrainingCompute, policy: Policy) -> Refusal | None:
    """Profiles are the administrator's; a spec only names one."""
    name, known = compute.network_profile, policy.network_profiles
    if name is None or name in known:
        return None
    message = (
        f"spec.compute.networkProfile: {name} is unknown; known: {', '.join(sorted(known))}"
        if known
        else "spec.compute.networkProfile: the administrator has set none; remove it"
    )
    return Refusal("NotAvailable", message)


def model_name(model: Model) -> str:
    """Return a model's name, or the address of its folder."""
    if model.name:
        return model.name
    if model.volume_claim:
        return f"pvc://{model.volume_claim.claim_name}/{model.volume_claim.path or ''}"
    return f"s3://{model.s3.bucket}/{model.s3.prefix or ''}" if model.s3 else ""
