"""Plays the controllers that run an attempt's pods: of Jobs, and of JobSets with the Job inside.

What is played is what the real ones were seen to do (Kubernetes 1.36, JobSet 0.10), on objects of
a `RecordingCluster`; the kubelet is played as well.
"""

from __future__ import annotations

import copy
from typing import Any

from finetune_api.names import JOB_SET, JOB_SET_NAME_LABEL, JOB_SET_UID_LABEL, RANKS
from finetune_api.run_outcome import EXIT_CODES, FailureClass, Outcome
from finetune_operator.child_facts import INDEX_ANNOTATION
from finetune_operator.observed import Manifest
from recording_cluster import RecordingCluster

_LOST = Outcome(failure_class=FailureClass.PEER_LOST, message="a peer is gone")
DISRUPTED = "Pod lab/{name} has condition DisruptionTarget matching FailJob rule at index 0"
EXITED = "Container trainer for pod lab/{name} failed with exit code {code} matching FailJob rule"


class PlayedJobs:
    """The Job controller and the kubelet."""

    kind = "Job"
    complete = "Complete"

    def __init__(self, cluster: RecordingCluster, namespace: str) -> None:
        self._cluster, self._namespace = cluster, namespace

    def child(self, name: str) -> Manifest:
        """Return the child of an attempt."""
        return self._cluster.objects[self.kind, self._namespace, name]

    def start(self, name: str) -> None:
        """Create the pods, as soon as the child is not suspended."""
        child = self.child(name)
        if child["spec"].get("suspend"):
            return
        job = self.made_job(child)
        for index in range(job["spec"]["completions"]):
            self._cluster.put(self._pod(job, index))

    def run(self, name: str) -> None:
        """Put all pods on nodes and start them."""
        for pod in self.pods(name):
            ready = {"type": "Ready", "status": "True"}
            status = {"phase": "Running", "podIP": "10.0.0.9", "conditions": [ready]}
            self._cluster.put(pod | {"spec": pod["spec"] | {"nodeName": "n1"}, "status": status})

    def succeed(self, name: str, outcome: Outcome) -> None:
        """End all pods well, then the child."""
        for pod in self.pods(name):
            self._end(pod, 0, outcome)
        self._conclude(name, self.complete, "")

    def fail(self, name: str, index: int, outcome: Outcome) -> None:
        """End one rank badly; the others lose their peer and end as well."""
        code = EXIT_CODES[outcome.failure_class]
        pods = self.pods(name)
        for pod in pods:
            self._end(pod, EXIT_CODES[FailureClass.PEER_LOST], _LOST)
        self._end(pods[index], code, outcome)
        self._conclude(
            name, "Failed", EXITED.format(name=pods[index]["metadata"]["name"], code=code)
        )

    def disrupt(self, name: str) -> None:
        """Evict a pod; all of them are gone a moment later."""
        pods = self.pods(name)
        self._conclude(name, "Failed", DISRUPTED.format(name=pods[0]["metadata"]["name"]))
        for pod in pods:
            self._cluster.remove(pod)

    def admit(self, name: str, *, suspend: bool) -> None:
        """Start or stop the child as its queue does; stopped pods go."""
        child = self.child(name)
        self._cluster.put(child | {"spec": child["spec"] | {"suspend": suspend}})
        if suspend:
            for pod in self.pods(name):
                self._cluster.remove(pod)
        else:
            self.start(name)

    def vanish(self, name: str) -> None:
        """Delete the child and everything below it, as somebody may."""
        for pod in self.pods(name):
            self._cluster.remove(pod)
        self._cluster.remove(self.child(name))

    def pods(self, name: str) -> list[Manifest]:
        """Return the pods of a child that exist."""
        return [
            pod for (kind, _, _), pod in sorted(self._cluster.objects.items())
            if kind == "Pod" and pod["metadata"]["name"].startswith(f"{name}-")
        ]  # fmt: skip

    def made_job(self, child: Manifest) -> Manifest:
        """Return the Job that makes the pods."""
        return child

    def _conclude(self, name: str, condition: str, message: str) -> None:
        self._judge(self.child(name), condition, message)

    def _judge(self, item: Manifest, condition: str, message: str) -> None:
        told = {"type": condition, "status": "True", "message": message}
        self._cluster.put(item | {"status": {"conditions": [told]}})

    def _pod(self, job: Manifest, index: int) -> Manifest:
        template, name = copy.deepcopy(job["spec"]["template"]), job["metadata"]["name"]
        metadata = template["metadata"]
        metadata["annotations"][INDEX_ANNOTATION] = str(index)
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata | {
                "name": f"{name}-{index}-x",
                "namespace": self._namespace,
                "ownerReferences": [_owner("Job", job)],
            },
            "spec": {},
            "status": {"phase": "Pending"},
        }  # fmt: skip

    def _end(self, pod: Manifest, code: int, outcome: Outcome) -> None:
        ended = {"exitCode": code, "message": outcome.encoded().decode(), "reason": "Error"}
        status = {
            "phase": "Failed" if code else "Succeeded",
            "containerStatuses": [{"name": "trainer", "state": {"terminated": ended}}],
        }
        self._cluster.put(pod | {"status": status})


class PlayedJobSets(PlayedJobs):
    """The controller of JobSets above that of Jobs."""

    kind = JOB_SET
    complete = "Completed"

    def made_job(self, child: Manifest) -> Manifest:
        """Make the only Job of the only replicated job, with the labels that all below it carry."""
        [ranks] = child["spec"]["replicatedJobs"]
        metadata, template = child["metadata"], copy.deepcopy(ranks["template"])
        labels = {JOB_SET_NAME_LABEL: metadata["name"], JOB_SET_UID_LABEL: metadata["uid"]}
        template["spec"]["template"]["metadata"]["labels"] |= labels
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {
                "name": self._inside(metadata["name"]),
                "namespace": self._namespace,
                "labels": template["metadata"]["labels"] | labels,
                "ownerReferences": [_owner(JOB_SET, child)],
            },
            "spec": template["spec"],
        }
        return self._cluster.put(job)

    def vanish(self, name: str) -> None:
        """Delete the JobSet, and so the Job inside and its pods."""
        inner = self._cluster.objects["Job", self._namespace, self._inside(name)]
        super().vanish(name)
        self._cluster.remove(inner)

    def _conclude(self, name: str, condition: str, message: str) -> None:
        """End the Job inside, then the JobSet, whose words are of its own."""
        inner = self._cluster.objects["Job", self._namespace, self._inside(name)]
        self._judge(inner, {"Completed": "Complete"}.get(condition, condition), message)
        super()._conclude(name, condition, "jobset failed due to reaching max number of restarts")

    @staticmethod
    def _inside(name: str) -> str:
        return f"{name}-{RANKS}-0"


def _owner(kind: str, of: Manifest) -> dict[str, Any]:
    metadata = of["metadata"]
    return {"kind": kind, "name": metadata["name"], "uid": metadata["uid"], "controller": True}
