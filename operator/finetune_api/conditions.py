"""Condition types and every reason, each with the situation it names.

The reference page of reasons is generated from this module.
"""

from __future__ import annotations

from finetune_api.names import DATASET, EXPERIMENT, EXPORT

READY = "Ready"
RECONCILING = "Reconciling"
STALLED = "Stalled"
COMPLETE = "Complete"
FAILED = "Failed"
SUSPENDED = "Suspended"
DEPENDENCIES_READY = "DependenciesReady"
SOURCE_RESOLVED = "SourceResolved"
VALIDATED = "Validated"
PLANNED = "Planned"
QUOTA_RESERVED = "QuotaReserved"
PODS_READY = "PodsReady"
CHECKPOINT_AVAILABLE = "CheckpointAvailable"
MERGED = "Merged"
VERIFIED = "Verified"
PUSHED = "Pushed"

_ALL = (READY, RECONCILING, STALLED, COMPLETE, FAILED, SUSPENDED, QUOTA_RESERVED, PODS_READY)
CONDITION_TYPES: dict[str, tuple[str, ...]] = {
    DATASET: (*_ALL, SOURCE_RESOLVED, VALIDATED),
    EXPERIMENT: (*_ALL, DEPENDENCIES_READY, PLANNED, CHECKPOINT_AVAILABLE),
    EXPORT: (*_ALL, DEPENDENCIES_READY, MERGED, VERIFIED, PUSHED),
}

PROGRESS_REASONS: dict[str, str] = {
    "Preparing": "references are awaited, or the preparation Job runs on CPU",
    "Queued": "the Job exists and no pod is bound to a node yet; the message says why",
    "Starting": "pods are bound; images are pulled, or ranks join",
    "Training": "steps are taken",
    "Evaluating": "the validation split is evaluated",
    "Fetching": "sources are read",
    "Validating": "records are checked",
    "Writing": "the snapshot and report are written",
    "Merging": "the artifact is written",
    "Verifying": "the artifact is loaded again and compared",
    "Pushing": "the artifact is copied to its targets",
    "Restarting": "an attempt ended; the next one starts from the newest verified checkpoint",
    "Suspended": "runPolicy.suspend is true, or its budget is spent; nothing runs",
    "Completed": "the model is trained and verified, or evaluated",
    "EarlyStopped": "the objective stopped improving; the model is trained and verified",
    "Ready": "the result exists and is verified",
}

NEUTRAL_REASONS: dict[str, str] = {
    "AsExpected": "the condition is True and nothing more is to be said",
    "Pending": "not judged yet",
    "NotApplicable": "the condition does not concern this object",
    "SuspendRequested": "runPolicy.suspend is true",
    "Quarantined": "a damaged checkpoint was set aside, an older one is used; nothing to do",
}

EVENT_REASONS: dict[str, str] = {
    "RevisionStarted": "spec.rerun began a new revision",
    "PreparationStarted": "a preparation is created",
    "AttemptStarted": "an attempt is created; the message names the step it goes on from",
    "RanksLost": "an attempt of training ended and is repeated; the message names class and rank",
    "Preempted": "the queue took its quota back; the same attempt waits for it again",
    "BudgetNotice": "most of runPolicy.budget is spent",
    "MemoryOffPlan": "the first peak of GPU memory is more than 15 % off the memory plan",
}
"""Events beside those that a new reason of Ready is."""

WAITING_REASONS: dict[str, tuple[str, str, str]] = {
    "DependencyNotFound": (
        "DependenciesReady",
        "a referenced object does not exist",
        "create it; this goes on by itself",
    ),
    "DependencyNotReady": (
        "DependenciesReady",
        "a referenced object is still working",
        "wait; this goes on by itself",
    ),
    "DependencyFailed": (
        "DependenciesReady",
        "a referenced object has failed",
        "repair it, or refer to another",
    ),
    "WaitingForQuota": (
        "QuotaReserved",
        "the queue has no quota for it yet",
        "wait, or use another queue",
    ),
    "Unschedulable": (
        "PodsReady",
        "the scheduler finds no node",
        "as the quoted message says",
    ),
    "ImagePullFailed": (
        "PodsReady",
        "the image cannot be pulled",
        "correct the image or its Secret",
    ),
    "SecretNotFound": (
        "PodsReady",
        "a Secret, key or ConfigMap cannot be mounted",
        "create it",
    ),
    "VolumeNotMounted": (
        "PodsReady",
        "a claim is missing, not bound or cannot be mounted",
        "create or repair it",
    ),
    "QuotaExceeded": (
        "PodsReady",
        "a ResourceQuota of the namespace refuses a pod",
        "make room, or ask for less",
    ),
    "PodForbidden": (
        "PodsReady",
        "admission refuses a pod",
        "as the quoted message says",
    ),
}
"""Waiting is no failure: each with its condition, what is waited for, and what to do."""

FAILURE_REASONS: dict[str, tuple[str, str]] = {
    "InvalidSpec": ("a rule over several objects is broken", "edit the field in the message"),
    "DeadSetting": ("a setting cannot act in this combination", "remove it, or what disables it"),
    "IncompatibleDataset": (
        "the record type does not fit the problem type",
        "use another Dataset or problem type",
    ),
    "UnsupportedModel": ("the architecture is unknown to the trainer", "use another model"),
    "UnsafeModelFormat": ("the weights exist only as pickle", "convert them to safetensors"),
    "TemplateUnsuitable": (
        "the tokenizer has no chat template, or it drops a role the data uses",
        "set prompt.template, or adapt the data",
    ),
    "NoMatchingParameters": ("a name pattern matches nothing", "correct adapter.targetModules"),
    "AdapterMismatch": (
        "an adapter of the starting weights does not fit spec.adapter",
        "give equal adapter settings, or set model.adapterHandover Merge",
    ),
    "WeightsMismatch": (
        "tensors of the starting weights are missing, unknown or of another shape",
        "use the right model, or set model.strict false",
    ),
    "LengthAboveContext": ("tokenizer.maxLength exceeds the model's context", "lower it"),
    "ConfigurationError": ("the trainer refused its configuration", "see message and log"),
    "InvalidData": ("data findings; the message names them", "repair as each finding says"),
    "TruncationLimit": (
        "more samples cut than tokenizer.maxTruncatedShare",
        "raise tokenizer.maxLength, or allow it",
    ),
    "TooLong": (
        "samples are longer than tokenizer.maxLength and overflow is Fail",
        "raise tokenizer.maxLength, or set tokenizer.overflow",
    ),
    "NothingSupervised": (
        "no sample has a token left that is trained on",
        "raise tokenizer.maxLength, or look at roles and supervision",
    ),
    "TooLarge": ("the sources exceed limits.maxSize", "raise it, or choose fewer files"),
    "DigestMismatch": ("content differs from the pinned digest", "restore it or change the pin"),
    "AccessDenied": ("401 or 403 from a hub, bucket or server", "correct Secret or permission"),
    "ModelNotFound": ("the model does not exist", "correct spec.model"),
    "SourceNotFound": ("a data source does not exist", "correct spec.sources"),
    "CheckpointNotFound": ("the experiment keeps no such checkpoint", "choose another"),
    "NotAvailable": (
        "the cluster or its administrator does not offer what the spec names",
        "use what the message names, or ask the administrator",
    ),
    "AddressNotAllowed": ("the administrator's policy forbids the address", "use an allowed one"),
    "ModelNotAllowed": ("the administrator's policy forbids the model", "use an allowed one"),
    "MemoryPlanExceeded": (
        "the predicted peak is above compute.gpuMemory",
        "take one of the settings in the message",
    ),
    "OutOfGPUMemory": ("CUDA ran out of memory", "lower training.maxTokensPerDevice"),
    "OutOfHostMemory": ("the pod's memory limit was reached", "raise compute.resources"),
    "NoSpace": ("a disk or volume is full", "raise storage.scratchSize or the volume"),
    "NonFiniteLoss": ("NaN or Inf appeared", "lower the rate, clip, look at the data"),
    "ServiceUnavailable": ("a hub or store kept failing", "repair the service"),
    "PeerLost": ("a rank died, retries used up", "look at the node; raise retries.peerLost"),
    "BudgetExhausted": (
        "runPolicy.budget is spent; a checkpoint was written",
        "raise the budget: a suspended run goes on by itself, a failed one with rerun",
    ),
    "Hang": (
        "no rank gave a sign of life within the limit of hangTimeoutSeconds, retries used up",
        "look at the stacks in the log and at the nodes; raise the limit or retries.hang",
    ),
    "Disrupted": (
        "drained, evicted or preempted more often than retries.disruption",
        "raise it or use other nodes",
    ),
    "StartTimeout": (
        "not all of an attempt was up within runPolicy.startDeadlineSeconds, retries used up",
        "repair what the message names; raise the deadline or retries.startTimeout",
    ),
    "DeadlineExceeded": (
        "it ran longer than runPolicy.activeDeadlineSeconds",
        "raise the deadline; a checkpoint was written",
    ),
    "QueueDeadlineExceeded": (
        "no node within runPolicy.queueDeadlineSeconds",
        "repair what the message names, or raise the deadline",
    ),
    "UnknownError": ("unclassified exit, retries used up", "see the log"),
    "NameTaken": ("a child's name belongs to somebody else", "rename the object"),
    "RefusedByServer": ("the API server refuses a child", "as the quoted message says"),
    "InternalError": ("a bug of the operator", "report it with the operator's log"),
    "StorageUnavailable": ("storage cannot be written", "repair the storage"),
    "MergeFailed": ("shapes of adapter and base differ", "use the base it was trained on"),
    "VerificationFailed": ("reload, sample or comparison failed", "see the report"),
    "TargetConflict": ("other content is at the target", "set replace, or another path"),
    "TargetUnavailable": ("a target does not answer", "repair it"),
}

REMEDIES: dict[str, str] = {name: told[-1] for name, told in FAILURE_REASONS.items()} | {
    name: told[-1] for name, told in WAITING_REASONS.items()
}
"""What to do about a reason."""
