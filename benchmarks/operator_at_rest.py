"""What the operator costs with finished experiments: memory, CPU, API writes per minute.

Runs against the test cluster (`make cluster-up images`) with the operator installed there:

    PYTHONPATH=tests/cluster .venv/bin/python benchmarks/operator_at_rest.py --experiments 100

Prints one JSON line per figure with name, value, unit, target and met.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from typing import Any

from harness import kubectl as kube
from harness.containers import pod_pids
from harness.namespaces import namespace
from installation import NAMESPACE, install_operator, operator_pod
from scenarios.stories import experiment

MUTATING = "apply|create|delete|patch|post|update"
WRITES = re.compile(
    rf'^finetune_operator_api_requests_total\{{.*?verb="({MUTATING})".*?\}} (\S+)$',
    re.MULTILINE | re.IGNORECASE,
)


def finished(number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a finished experiment and the status that its operator left."""
    body = experiment(f"rest-{number:03d}")
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    verdicts = {
        "Ready": "True", "Reconciling": "False", "Stalled": "False", "Complete": "True",
        "Failed": "False", "Suspended": "False",
    }  # fmt: skip
    conditions = [
        {
            "type": kind,
            "status": verdict,
            "reason": "Completed" if verdict == "True" else "NotApplicable",
            "message": "",
            "observedGeneration": 1,
            "lastTransitionTime": moment,
        }
        for kind, verdict in verdicts.items()
    ]
    attempt = {"number": 1, "generation": 1, "ended": "Completed", "endedTime": moment}
    status = {
        "observedGeneration": 1,
        "revision": 1,
        "attempt": attempt,
        "conditions": conditions,
        "completionTime": moment,
    }
    return body, status


def create(count: int, where: str) -> None:
    """Create finished experiments while no operator runs, so that none of them is started."""
    for number in range(count):
        body, status = finished(number)
        kube.apply(body, namespace=where)
        kube.kubectl(
            "patch", "finetuneexperiment", body["metadata"]["name"], "--subresource=status",
            "--type=merge", "-p", json.dumps({"status": status}), namespace=where,
        )  # fmt: skip


def scale(replicas: int) -> None:
    """Stop or start the operator."""
    kube.kubectl("scale", "deployment/finetune-operator", f"--replicas={replicas}",
                 namespace=NAMESPACE)  # fmt: skip
    kube.kubectl(
        "rollout", "status", "deployment/finetune-operator", namespace=NAMESPACE, timeout=150
    )
    if not replicas:
        kube.wait_until("the operator is gone", lambda: not _operator_pods(), timeout=60)


def _operator_pods() -> list[Any]:
    selector = "app.kubernetes.io/name=finetune-operator"
    pods: list[Any] = kube.fetch("pods", namespace=NAMESPACE, selector=selector)["items"]
    return pods


def writes() -> float:
    """Return how many mutating calls the operator has made, its Lease left out."""
    text = kube.kubectl(
        "get", "--raw", f"/api/v1/namespaces/{NAMESPACE}/pods/{operator_pod()}:8080/proxy/metrics"
    )
    return sum(
        float(match[2]) for match in WRITES.finditer(text) if 'resource="leases"' not in match[0]
    )


def usage(pid: int) -> tuple[float, float]:
    """Return resident MiB and CPU seconds of a process."""
    with open(f"/proc/{pid}/status") as lines:
        resident = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    with open(f"/proc/{pid}/stat") as line:
        fields = line.read().rsplit(")", 1)[1].split()
    return resident / 1024, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def report(name: str, value: float, unit: str, target: float) -> None:
    """Print one figure."""
    line = {"name": name, "value": round(value, 4), "unit": unit, "target": target}
    print(json.dumps(line | {"met": value <= target}), flush=True)


def main() -> None:
    """Create the objects, start the operator, let it settle, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiments", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=120)
    arguments = parser.parse_args()
    install_operator()
    scale(0)
    with namespace("rest") as where:
        create(arguments.experiments, where)
        scale(1)
        time.sleep(30)
        pid = pod_pids(NAMESPACE, operator_pod())[0]
        before, (_, busy) = writes(), usage(pid)
        time.sleep(arguments.seconds)
        after, (resident, busy_after) = writes(), usage(pid)
    report("operator_resident_memory", resident, "MiB", 256)
    report("operator_cpu", (busy_after - busy) / arguments.seconds, "cores", 0.1)
    report("operator_api_writes", (after - before) * 60 / arguments.seconds, "1/minute", 0)


if __name__ == "__main__":
    main()
