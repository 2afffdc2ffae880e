"""The Grafana dashboards of all experiments and of the operator itself."""

from __future__ import annotations

from typing import Any

from dashboards.board_layout import Panel, Rows, board, variable
from dashboards.queries import RATE, declared_name
from prometheus_client import Histogram
from prometheus_client.metrics import MetricWrapperBase

from finetune_operator import metrics

RUNS, OTHERS = 'kind="FineTuneExperiment"', 'kind!="FineTuneExperiment"'
FAILED = 'outcome="Failed"'
CHOSEN = 'namespace=~"$namespace"'


def of(metric: MetricWrapperBase | str, *matchers: str) -> str:
    """Return a metric of the chosen namespaces."""
    name = metric if isinstance(metric, str) else declared_name(metric)
    return f"{name}{{{','.join((CHOSEN, *matchers))}}}"


def rate(metric: MetricWrapperBase, by: str, *matchers: str) -> str:
    """Return the growth per second of a counter of the operator, by a label."""
    chosen = f"{{{','.join(matchers)}}}" if matchers else ""
    return f"sum by ({by}) (rate({declared_name(metric)}{chosen}[{RATE}]))"


def slowest(metric: Histogram, by: str) -> str:
    """Return the 95th percentile of a histogram's recent observations, by a label."""
    buckets = f"rate({declared_name(metric)}_bucket[{RATE}])"
    labels = ", ".join(filter(None, ("le", by)))
    return f"histogram_quantile(0.95, sum by ({labels}) ({buckets}))"


WORK = (
    Panel(
        "Experiments by state", "How many experiments stand at each reason of Ready.", "none",
        (("{{status}}",
          f"sum by (status) ({of(metrics.OBJECTS, RUNS)})"),), width=12,
    ),
    Panel(
        "Datasets and exports by state", "The same for Datasets and ModelExports.", "none",
        (("{{kind}} {{status}}",
          f"sum by (kind, status) ({of(metrics.OBJECTS, OTHERS)})"),),
        width=12,
    ),
    Panel(
        "GPUs held", "GPUs that pods of runs hold now, by namespace.", "none",
        (("{{namespace}}", f"sum by (namespace) ({of(metrics.EXPERIMENT_GPUS)})"),),
    ),
    Panel(
        "Longest wait for nodes", "Age of the oldest run that waits for nodes, by namespace.", "s",
        (("{{namespace}}",
          f"time() - min by (namespace) ({of(metrics.EXPERIMENT_QUEUED)})"),),
    ),
    Panel(
        "Progress", "Share of all steps that each active run has done.", "percentunit",
        (("{{namespace}}/{{experiment}}",
          f"max by (namespace, experiment) ({of(metrics.EXPERIMENT_PROGRESS_RATIO)})"),),
    ),
)  # fmt: skip
COST = (
    Panel(
        "GPU time by use", "GPU time of the runs shown, by what it was for: steps that count, "
        "steps lost, starts, evaluations, and the rest (checkpoints, waits).", "s",
        (("{{use}}", f"sum by (use) ({of(metrics.EXPERIMENT_GPU_SECONDS)})"),),
    ),
    Panel(
        "GPU time by namespace", "GPU time of the runs shown, by namespace.", "s",
        (("{{namespace}}", f"sum by (namespace) ({of(metrics.EXPERIMENT_GPU_SECONDS)})"),),
    ),
    Panel(
        "Forecast of GPU time", "What each whole run will take at its present speed.", "s",
        (("{{namespace}}/{{experiment}}",
          f"max by (namespace, experiment) ({of(metrics.EXPERIMENT_FORECAST)})"),),
    ),
)  # fmt: skip
LEARNING = (
    Panel(
        "Training loss", "Last training loss of each active run, in nats per supervised token.",
        "none",
        (("{{namespace}}/{{experiment}}",
          f"max by (namespace, experiment) ({of(metrics.EXPERIMENT_LOSS)})"),), width=12,
    ),
    Panel(
        "Steps", "Optimizer steps each active run has done.", "none",
        (("{{namespace}}/{{experiment}}",
          f"max by (namespace, experiment) ({of(metrics.EXPERIMENT_STEP)})"),), width=12,
    ),
)  # fmt: skip
TROUBLE = (
    Panel(
        "Useful time", "Share of the time on nodes that became part of each run's result. Low "
        "values mean long starts, many restarts or slow checkpoints.", "percentunit",
        (("{{namespace}}/{{experiment}}",
          f"min by (namespace, experiment) ({of(metrics.EXPERIMENT_EFFECTIVE_TIME)})"),),
    ),
    Panel(
        "Lost steps", "Steps that had to be taken again, by run.", "none",
        (("{{namespace}}/{{experiment}}",
          f"sum by (namespace, experiment) ({of(metrics.EXPERIMENT_LOST_STEPS)})"),),
    ),
    Panel(
        "Time to recover", "Typical time from a fault to the first step beyond it, by run.", "s",
        (("{{namespace}}/{{experiment}}",
          f"max by (namespace, experiment) ({of(metrics.EXPERIMENT_RECOVERY_SECONDS)})"),),
    ),
    Panel(
        "Restarts by class", "Attempts that ended and were repeated, by what ended them.", "none",
        (("{{class}}", f"sum by (class) (increase({of(metrics.EXPERIMENT_RESTARTS)}[{RATE}]))"),),
    ),
    Panel(
        "Failures by class", "Runs that failed for good, by the class of the last attempt.",
        "none",
        (("{{class}}",
          "sum by (class) (increase("
          f"{of(metrics.FINISHED, FAILED)}[{RATE}]))"),),
    ),
    Panel(
        "Age of the newest checkpoint", "Work that a kill would lose now, by run, in seconds.", "s",
        (("{{namespace}}/{{experiment}}",
          "time() - max by (namespace, experiment) "
          f"({of(metrics.EXPERIMENT_CHECKPOINT_TIMESTAMP)})"),),
    ),
)  # fmt: skip
QUEUE = (
    Panel(
        "Leader", "1 while this operator holds the Lease.", "none",
        (("leader", f"max({declared_name(metrics.LEADER)})"),), kind="stat", width=6, height=4,
    ),
    Panel(
        "Release", "Version that runs.", "string",
        (("{{version}}", f"max by (version) ({declared_name(metrics.INFO)})"),), kind="state",
        width=6, height=4,
    ),
    Panel(
        "Oldest key", "How long the oldest object waits for a worker.", "s",
        (("wait", f"max({declared_name(metrics.QUEUE_OLDEST_SECONDS)})"),), kind="stat", width=6,
        height=4,
    ),
    Panel(
        "Fencing number", "Number of this leadership; it only rises.", "none",
        (("number", f"max({declared_name(metrics.FENCING_NUMBER)})"),), kind="stat", width=6,
        height=4,
    ),
    Panel(
        "Queue", "Objects ready for a worker.", "none",
        (("ready", f"max({declared_name(metrics.QUEUE_DEPTH)})"),),
    ),
    Panel(
        "Duration of a step", "95th percentile of one observe, plan and write, by kind.", "s",
        (("{{kind}}", slowest(metrics.RECONCILE_SECONDS, "kind")),),
    ),
    Panel(
        "Errors", "Steps that failed, by class; user means that a user's spec or right is wrong.",
        "cps", (("{{kind}} {{class}}", rate(metrics.RECONCILE_ERRORS, "kind, class")),),
    ),
)  # fmt: skip
SERVER = (
    Panel(
        "Calls of the API server", "Calls per second by verb and answer; 429 means that the "
        "server asks to slow down.", "cps",
        (("{{verb}} {{code}}", rate(metrics.API_REQUESTS, "verb, code")),), width=12,
    ),
    Panel(
        "Latency of the API server", "95th percentile of a call by verb.", "s",
        (("{{verb}}", slowest(metrics.API_REQUEST_SECONDS, "verb")),), width=12,
    ),
    Panel(
        "Age of watches", "Silence of each watch; three minutes are too long.", "s",
        (("{{resource}}", f"max by (resource) ({declared_name(metrics.WATCH_AGE_SECONDS)})"),),
    ),
    Panel(
        "Watches begun again", "Restarts of watches, and changes only the audit found.", "cps",
        (
            ("{{resource}} {{class}}", rate(metrics.WATCH_RESTARTS, "resource, class")),
            ("missed {{kind}}", rate(metrics.AUDIT_MISSES, "kind")),
        ),
    ),
    Panel(
        "Lag of the event loop", "95th percentile of how late the loop was.", "s",
        (("lag", slowest(metrics.LOOP_LAG_SECONDS, "")),),
    ),
    Panel(
        "Status writes", "Writes per second by kind; nothing is written at rest.", "cps",
        (("{{kind}}", rate(metrics.STATUS_WRITES, "kind")),), width=12,
    ),
    Panel(
        "Progress questions", "Questions to job pods per second, by how they ended.", "cps",
        (("{{outcome}}", rate(metrics.PROGRESS_PULLS, "outcome")),), width=12,
    ),
)  # fmt: skip
FLEET: Rows = (("Work", WORK), ("Cost", COST), ("Learning", LEARNING), ("Trouble", TROUBLE))
OPERATOR: Rows = (("Queue", QUEUE), ("API server and watches", SERVER))


def fleet_board() -> dict[str, Any]:
    """Return the dashboard of all experiments."""
    namespaces = f"label_values({declared_name(metrics.OBJECTS)}, namespace)"
    chosen = variable("namespace", namespaces, multi=True, includeAll=True, allValue=".*")
    return board("fleet", "All experiments: what runs, what waits, what is lost.", FLEET, chosen)


def operator_board() -> dict[str, Any]:
    """Return the dashboard of the operator."""
    return board("operator", "The operator: queue, errors, API server and watches.", OPERATOR)
