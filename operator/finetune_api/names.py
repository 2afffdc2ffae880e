"""Names that more than one side must spell alike: group, kinds, labels, environment, children."""

from __future__ import annotations

GROUP = "finetune.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
CATEGORY = "finetune"
FIELD_MANAGER = "finetune-operator"

DATASET = "Dataset"
EXPERIMENT = "FineTuneExperiment"
EXPORT = "ModelExport"
PLURALS = {DATASET: "datasets", EXPERIMENT: "finetuneexperiments", EXPORT: "modelexports"}
SHORT_NAMES = {DATASET: "ftds", EXPERIMENT: "ft", EXPORT: "ftx"}
OWNER_LABELS = {
    DATASET: f"{GROUP}/dataset",
    EXPERIMENT: f"{GROUP}/experiment",
    EXPORT: f"{GROUP}/export",
}
REVISION_LABEL = f"{GROUP}/revision"
ATTEMPT_LABEL = f"{GROUP}/attempt"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
COMPONENT_LABEL = "app.kubernetes.io/component"
FENCE_ANNOTATION = f"{GROUP}/fence"
PLAN_DIGEST_ANNOTATION = f"{GROUP}/plan-digest"
OWNER_UID_ANNOTATION = f"{GROUP}/owner-uid"

JOB_SET = "JobSet"
POD_GROUP = "PodGroup"
JOB_SET_NAME_LABEL = "jobset.sigs.k8s.io/jobset-name"
JOB_SET_UID_LABEL = "jobset.sigs.k8s.io/jobset-uid"
RANKS = "node"
"""The replicated job of a JobSet: one Job whose pods are the nodes of the attempt."""

CONTAINER = "trainer"
METRICS_PORT = 9400
METRICS_PORT_NAME = "metrics"
MASTER_PORT = 29500

CONFIG_ENV = "FINETUNE_CONFIG"
TEMPLATE_ENV = "FINETUNE_TEMPLATE"
CLAIMS_DIR_ENV = "FINETUNE_CLAIMS_DIR"
SECRETS_DIR_ENV = "FINETUNE_SECRETS_DIR"
SCRATCH_DIR_ENV = "FINETUNE_SCRATCH_DIR"
TERMINATION_LOG_ENV = "FINETUNE_TERMINATION_LOG"
PORT_ENV = "FINETUNE_PORT"

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
QUEUE_PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
CONFIG_DIR = "/etc/finetune/config"
CONFIG_KEY = "config.json"
TEMPLATE_DIR = "/etc/finetune/template"
TEMPLATE_KEY = "template.jinja"
CLAIMS_DIR = "/mnt/claims"
SECRETS_DIR = "/mnt/secrets"
SCRATCH_DIR = "/scratch"
TERMINATION_LOG = "/dev/termination-log"
SHARED_MEMORY_DIR = "/dev/shm"  # noqa: S108 - the path NCCL and torch look for


def dataset_job(name: str, attempt: int) -> str:
    """Return the name of a Dataset's Job and ConfigMap."""
    return f"{name}-d{attempt}"


def preparation_job(name: str, revision: int, attempt: int) -> str:
    """Return the name of an experiment's preparation Job and ConfigMap.

    A preparation that is tried again gets a new name, so that its predecessor's pods stay
    readable: the first one of a revision is `<name>-p<revision>`.
    """
    return f"{name}-p{revision}" if attempt <= 1 else f"{name}-p{revision}-{attempt}"


def attempt_job(name: str, attempt: int) -> str:
    """Return the name of the Job and ConfigMap of an experiment's attempt."""
    return f"{name}-a{attempt}"


def export_job(name: str, attempt: int) -> str:
    """Return the name of a ModelExport's Job and ConfigMap."""
    return f"{name}-x{attempt}"


def master_address(name: str, attempt: int) -> str:
    """Return the host name of rank 0: fresh per attempt, so no rank meets an old one."""
    return f"{attempt_job(name, attempt)}-0.{name}"


def job_set_master_address(name: str, attempt: int) -> str:
    """Return the host name of rank 0 in a JobSet, below the Service that the JobSet makes."""
    return f"{attempt_job(name, attempt)}-{RANKS}-0-0.{attempt_job(name, attempt)}"


def storage_prefix(kind: str, namespace: str, name: str, uid: str) -> str:
    """Return the object's own folder below its storage location; the UID prevents collisions."""
    return f"{PLURALS[kind]}/{namespace}/{name}-{uid}"
