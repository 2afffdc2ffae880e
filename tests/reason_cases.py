"""A story for every reason, by its name.

Sentences of the trainer are examples; that each of its refusals has a remedy is checked in its
code.
"""

from __future__ import annotations

from dataclasses import replace

import builders
from builders import (
    DATASET,
    EXPORT,
    attempt,
    ended_pod,
    ended_status,
    observed,
    our_object,
    outcome,
    pod,
    prepared,
    progress,
    ready_dataset,
)
from finetune_api.run_outcome import FailureClass
from finetune_operator.observed import Policy
from finetune_operator.planners import plan, stalled
from finetune_operator.reconciler import STALLED_REASONS
from observed_runs import ALL_RUN, CHECKPOINT, STOPPING, SUSPEND, running, seen, with_dataset
from reason_stories import (
    DATA,
    PREPARATION,
    RELEASE,
    RUN,
    Case,
    asleep,
    at,
    at_stage,
    deadline,
    done,
    held,
    in_queue,
    refused,
    said,
    shown,
    told_by_event,
    under_way,
    unsaid,
    waiting,
    without_volumes,
)

CONFIGURATION, DATA_CLASS = FailureClass.CONFIGURATION, FailureClass.DATA
ACCESS, EXHAUSTED = FailureClass.ACCESS, FailureClass.RESOURCES_EXHAUSTED
BUDGET = {"gpuHours": 0.1, "onExhausted": "Fail"}
SAID_BY_TRAINER: dict[str, Case] = {
    reason: said(reason, failure, work, *conditions, text=text)
    for reason, failure, work, conditions, text in (
        ("DeadSetting", CONFIGURATION, PREPARATION, ("Planned",),
         "spec.training.noiseAlpha: set, but nothing is augmented; remove it"),
        ("UnsupportedModel", CONFIGURATION, PREPARATION, ("Planned",),
         "spec.model: architecture XForLM is not supported; use another model"),
        ("UnsafeModelFormat", CONFIGURATION, PREPARATION, ("Planned",),
         "spec.model: has weights only as pickle; convert them to safetensors"),
        ("TemplateUnsuitable", CONFIGURATION, PREPARATION, ("Planned",),
         "spec.prompt: the tokenizer has no chat template; set prompt.template"),
        ("NoMatchingParameters", CONFIGURATION, PREPARATION, ("Planned",),
         "spec.adapter.targetModules: q_prj matches nothing; did you mean q_proj"),
        ("AdapterMismatch", CONFIGURATION, PREPARATION, ("Planned",),
         "spec.adapter.rank: the parent has 8; give 8, or set model.adapterHandover Merge"),
        ("WeightsMismatch", CONFIGURATION, PREPARATION, ("Planned",),
         "spec.model: lacks lm_head.weight; use the right model, or set model.strict false"),
        ("LengthAboveContext", CONFIGURATION, PREPARATION, ("Planned",),
         "spec.tokenizer.maxLength: 8192 is above the context of 2048; lower it"),
        ("MemoryPlanExceeded", CONFIGURATION, PREPARATION, ("Planned",),
         "spec.compute.gpuMemory: 31 GB are needed, 24 are there; set quantization NF4"),
        ("TruncationLimit", DATA_CLASS, PREPARATION, ("Planned",),
         "spec.tokenizer.maxTruncatedShare: 40 % are cut; raise tokenizer.maxLength"),
        ("TooLong", DATA_CLASS, PREPARATION, ("Planned",),
         "TooLong: train, 3 samples exceed 64 tokens; raise tokenizer.maxLength"),
        ("NothingSupervised", DATA_CLASS, PREPARATION, ("Planned",),
         "no train sample has a supervised token left; raise tokenizer.maxLength"),
        ("TooLarge", DATA_CLASS, DATA, ("Validated",),
         "the sources are larger than limits.maxSize; raise it or choose fewer files"),
        ("ModelNotFound", ACCESS, PREPARATION, ("Planned",),
         "spec.model: tiny/model does not exist; correct its name"),
        ("SourceNotFound", ACCESS, DATA, ("SourceResolved",),
         "faq.jsonl: not found; correct spec.sources"),
        ("AddressNotAllowed", ACCESS, DATA, ("SourceResolved",),
         "10.0.0.1 is a private address; ask the administrator for addressesAllowed"),
        ("StorageUnavailable", EXHAUSTED, RUN, (), "pvc://a cannot be written; repair the storage"),
        ("MergeFailed", CONFIGURATION, RELEASE, ("Merged",),
         "lora_A of layer 3 does not fit; use the base it was trained on"),
        ("VerificationFailed", CONFIGURATION, RELEASE, ("Verified",),
         "logits differ by 0.4; raise verification.maxLogitDifference if you know why"),
        ("TargetConflict", CONFIGURATION, RELEASE, ("Pushed",),
         "s3://m/x holds other content; set replace, or another prefix"),
        ("TargetUnavailable", FailureClass.EXTERNAL_SERVICE, RELEASE, ("Pushed",),
         "s3://m does not answer; repair it"),
    )
}  # fmt: skip
EXPLAINED_BY_OPERATOR: dict[str, Case] = {
    "ConfigurationError": unsaid(
        "ConfigurationError", CONFIGURATION, RUN, pod(0, "Failed", exit_code=10), "code 10"),
    "InvalidData": unsaid("InvalidData", DATA_CLASS, DATA, pod(0, "Failed", exit_code=11), "11"),
    "AccessDenied": unsaid("AccessDenied", ACCESS, DATA, pod(0, "Failed", exit_code=12), "12"),
    "OutOfGPUMemory": unsaid(
        "OutOfGPUMemory", FailureClass.GPU_OUT_OF_MEMORY, RUN, pod(0, "Failed", exit_code=20), "20"
    ),
    "OutOfHostMemory": unsaid(
        "OutOfHostMemory", EXHAUSTED, RUN, pod(0, "Failed", exit_code=137, out_of_memory=True),
        "memory limit",
    ),
    "NoSpace": unsaid("NoSpace", EXHAUSTED, RUN, pod(0, "Failed", reason="Evicted"), "local disk"),
    "NonFiniteLoss": unsaid(
        "NonFiniteLoss", FailureClass.NOT_FINITE, RUN, pod(0, "Failed", exit_code=22), "22"
    ),
    "ServiceUnavailable": unsaid(
        "ServiceUnavailable", FailureClass.EXTERNAL_SERVICE, RUN, pod(0, "Failed", exit_code=30),
        "exit code 30",
    ),
    "Disrupted": unsaid(
        "Disrupted", FailureClass.DISRUPTION, RUN, pod(0, "Failed", disrupted=True), "drained"
    ),
    "UnknownError": unsaid(
        "UnknownError", FailureClass.UNKNOWN, RUN, pod(0, "Failed", exit_code=139), "exit code 139"
    ),
    "PeerLost": unsaid(
        "PeerLost", FailureClass.PEER_LOST, RUN, ended_pod(0, FailureClass.PEER_LOST)),
    "Hang": unsaid(
        "Hang", FailureClass.PEER_LOST, RUN,
        ended_pod(0, FailureClass.PEER_LOST, outcome=outcome(
            FailureClass.PEER_LOST, reason="Hang", message="rank 0: no progress; the stacks are in "
            "the log")), "stacks",
    ),
    "StartTimeout": deadline(
        "StartTimeout", "runPolicy.startDeadlineSeconds 60", policy={"startDeadlineSeconds": 60},
        startedTime=at(-3600),
    ),
    "DeadlineExceeded": deadline(
        "DeadlineExceeded", "runPolicy.activeDeadlineSeconds 60",
        policy={"activeDeadlineSeconds": 60}, startedTime=at(-3600),
    ),
    "BudgetExhausted": deadline(
        "BudgetExhausted", "the budget is spent", "raise runPolicy.budget",
        policy={"budget": BUDGET}, startedTime=at(-450), gpus=8,
    ),
    "QueueDeadlineExceeded": deadline(
        "QueueDeadlineExceeded", "runPolicy.queueDeadlineSeconds 60",
        policy={"queueDeadlineSeconds": 60},
    ),
}  # fmt: skip
REFUSED_BY_OPERATOR: dict[str, Case] = {
    "InvalidSpec": Case(
        plan(seen(storage={})), refused("InvalidSpec", "Planned"),
        ("spec.storage", "set one"),
    ),
    "IncompatibleDataset": Case(
        plan(with_dataset(ready_dataset(recordType="Text"))),
        refused("IncompatibleDataset", "Planned"), ("Dataset questions", "use another Dataset"),
    ),
    "DigestMismatch": Case(
        plan(with_dataset(
            ready_dataset(), dataset={"name": "questions", "digest": builders.digest("0")})),
        refused("DigestMismatch", "Planned"),
        ("spec.dataset.digest", "restore its content or change the pin"),
    ),
    "ModelNotAllowed": Case(
        plan(replace(seen(), policy=Policy(image="x", models_allowed=("Qwen/*",)))),
        refused("ModelNotAllowed", "Planned"), ("spec.model", "allowed: Qwen/*"),
    ),
    "CheckpointNotFound": Case(
        plan(observed(EXPORT, our_object(EXPORT, source={
            "experiment": {"name": "assistant", "checkpoint": "Best"}}))),
        refused("CheckpointNotFound", "Merged"),
        ("spec.source.experiment.checkpoint", "choose another"),
    ),
    "NotAvailable": Case(
        plan(seen(compute={"gpusPerNode": 0, "networkProfile": "ib"})),
        refused("NotAvailable", "Planned"), ("spec.compute.networkProfile", "remove it"),
    ),
    "NameTaken": Case(
        plan(replace(seen(), foreign_names=frozenset({"Job assistant-p1"}))),
        refused("NameTaken", "Planned"), ("Job assistant-p1", "rename this object"),
    ),
} | {
    reason: Case(stalled(seen(), reason, "as the server says"), refused(reason), ("server says",))
    for reason in STALLED_REASONS.values() if reason != "NameTaken"
}  # fmt: skip
FAILED_DATASET = our_object(DATASET, status={"conditions": builders.conditions(
    Failed="True InvalidData", Ready="False InvalidData")})  # fmt: skip
WAITS: dict[str, Case] = {
    reason: Case(plan(with_dataset(dataset)),
                 waiting(reason, on="DependenciesReady", stage="Preparing"), words)
    for reason, dataset, words in (
        ("DependencyNotFound", None, ("Dataset questions", "create it")),
        ("DependencyNotReady", our_object(DATASET), ("waiting for Dataset questions",)),
        ("DependencyFailed", FAILED_DATASET, ("Dataset questions", "InvalidData", "repair it")),
    )
} | {
    "WaitingForQuota": Case(
        plan(in_queue(suspended=True, message="couldn't assign flavors: insufficient quota")),
        waiting("WaitingForQuota", on="QuotaReserved", stage="Queued"),
        ("no quota", "insufficient quota"),
    ),
    "Unschedulable": held(
        "Unschedulable", RUN, "0/3 nodes", stage="Queued",
        pods=(asleep("Unschedulable", "0/3 nodes are available: 3 Insufficient gpu", bound=False),),
    ),
    "ImagePullFailed": held(
        "ImagePullFailed", DATA, "trainer:1.2", stage="Starting",
        pods=(asleep("ImagePullBackOff", 'Back-off pulling image "trainer:1.2"'),),
    ),
    "SecretNotFound": held(
        "SecretNotFound", RUN, 'secret "s3"', stage="Starting", pods=(without_volumes(),),
        message='FailedMount: MountVolume.SetUp failed for volume "s3" : secret "s3" not found',
    ),
    "VolumeNotMounted": held(
        "VolumeNotMounted", PREPARATION, '"models"', stage="Preparing",
        pods=(asleep(
            "Unschedulable", 'persistentvolumeclaim "models" not found', bound=False),),
    ),
    "QuotaExceeded": held(
        "QuotaExceeded", RUN, "exceeded quota: lab", stage="Queued",
        message="FailedCreate: Error creating: pods is forbidden: exceeded quota: lab",
    ),
    "PodForbidden": held(
        "PodForbidden", RELEASE, "PodSecurity", stage="Queued",
        message='FailedCreate: Error creating: pods is forbidden: violates PodSecurity "restricted"'
    ),
}  # fmt: skip
PROGRESS: dict[str, Case] = {
    "Preparing": shown("Preparing", under_way(PREPARATION, pod(0)), "tokenised"),
    "Queued": shown("Queued", under_way(RUN, pod(0, "Pending", bound=False)), "on a node yet"),
    "Starting": shown("Starting", at_stage(RUN, "Starting"), "attempt 1", "ranks join"),
    "Training": shown("Training", at_stage(RUN, "Training"), "steps are taken"),
    "Evaluating": shown("Evaluating", at_stage(RUN, "Evaluating"), "validation split"),
    **{stage: shown(stage, at_stage(DATA, stage), stage.lower())
       for stage in ("Fetching", "Validating", "Writing")},
    **{stage: shown(stage, at_stage(RELEASE, stage), stage.lower())
       for stage in ("Merging", "Verifying", "Pushing")},
    "Restarting": shown("Restarting", seen(ended_status("Unknown"), running(pod(0), gone=True)),
                        "waiting for 1 pod of attempt 1"),
    "Suspended": shown("Suspended", seen(prepared(**attempt(), **STOPPING), **SUSPEND),
                       "runPolicy.suspend is true"),
    "Completed": shown("Completed", done(RUN), "step 90", Complete="True Completed"),
    "EarlyStopped": shown("EarlyStopped", done(RUN, reason="EarlyStopped"), "step 90",
                          Complete="True EarlyStopped"),
    "Ready": shown("Ready", done(DATA), "98 records", Complete="True Ready"),
}  # fmt: skip
DAMAGED = running(*ALL_RUN, progress=progress("Training", quarantined=1, checkpoint=CHECKPOINT))
NEUTRAL: dict[str, Case] = {
    "AsExpected": Case(plan(at_stage(RUN, "Training")), {"Planned": "True AsExpected"}),
    "Pending": Case(plan(seen()), {"Planned": "False Pending"}),
    "NotApplicable": Case(plan(done(RUN)), {"Reconciling": "False NotApplicable"}),
    "SuspendRequested": Case(plan(seen(prepared(**attempt(), **STOPPING), **SUSPEND)),
                             {"Suspended": "True SuspendRequested"}),
    "Quarantined": Case(plan(seen(prepared(**attempt()), DAMAGED)),
                        {"CheckpointAvailable": "True Quarantined"}, ("step 40", "set aside"),
                        events=("Training", "Quarantined")),
}  # fmt: skip
OFF_PLAN = prepared(**attempt()) | {"plan": builders.PLAN | {"gpus": 1}}
BIG = progress("Training", memory_peak_bytes=20_000, memory_planned_bytes=10_000)
EVENTS: dict[str, Case] = {
    "RevisionStarted": told_by_event(
        "RevisionStarted", seen(prepared(**attempt(ended="Completed")), rerun="2"),
        ready="Preparing",
    ),
    "PreparationStarted": told_by_event("PreparationStarted", seen(), ready="Preparing"),
    "AttemptStarted": told_by_event("AttemptStarted", seen(prepared()), ready="Queued"),
    "RanksLost": told_by_event(
        "RanksLost",
        seen(prepared(**attempt()), running(pod(0, "Failed", exit_code=139), failed=True)),
        "Unknown (rank 0, exit code 139)", ready="Restarting",
    ),
    "Preempted": told_by_event(
        "Preempted",
        seen(prepared(**attempt(startedTime=at(-60))), running(suspended=True),
             scheduling={"queueName": "gpus"}),
        "queue gpus took its quota back", ready="Queued",
    ),
    "BudgetNotice": Case(
        plan(seen(
            prepared(**attempt(gpus=8, startedTime=at(-42))), running(*ALL_RUN),
            compute={"nodes": 2, "gpusPerNode": 4, "strategy": "DDP"},
            runPolicy={"budget": BUDGET},
        )),
        {"Ready": "False Starting"}, events=("BudgetNotice",),
    ),
    "MemoryOffPlan": Case(
        plan(seen(OFF_PLAN, running(*ALL_RUN, progress=BIG))), {"Ready": "False Training"},
        events=("Training", "MemoryOffPlan"),
    ),
}  # fmt: skip
CASES: dict[str, Case] = {
    **SAID_BY_TRAINER, **EXPLAINED_BY_OPERATOR, **REFUSED_BY_OPERATOR, **WAITS, **PROGRESS,
    **NEUTRAL, **EVENTS,
}  # fmt: skip
