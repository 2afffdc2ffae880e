"""ModelExports, good and bad."""

from __future__ import annotations

from typing import Any

from corpus.admission_case import ABSENT, Case
from finetune_api.names import EXPORT

_BUCKET = {"s3": {"bucket": "models"}}


def _of(says: str, refused: str = "", **spec: Any) -> Case:
    return Case(says, EXPORT, spec, tuple(refused.split()))


EXPORT_CASES = [
    _of("ways out of an open network", "spec.networkPolicy",
        networkPolicy={"egressNamespaces": ["judges"]}),
    _of("a closed network with a way out",
        networkPolicy={"mode": "Restricted", "egressCidrs": ["10.0.0.0/8"]}),
    _of("a priority in no queue", "spec.scheduling",
        scheduling={"queuePriorityClassName": "high"}),
    _of("an experiment is enough"),
    _of("two targets", targets=[{"name": "a", **_BUCKET}, {"name": "b", **_BUCKET}]),
    _of("an adapter", format="Adapter"),
    _of("no source", "spec.source", source=ABSENT),
    _of("no experiment", "spec.source.experiment", source={"experiment": ABSENT}),
    _of("a format of another tool", "spec.format", format="GGUF"),
    _of("merging for an adapter", "spec", format="Adapter", merge={"dtype": "Float32"}),
    _of("two targets of one name", "spec.targets[1]",
        targets=[{"name": "a", **_BUCKET}, {"name": "a", **_BUCKET}]),
    _of("a target without a place", "spec.targets[0]", targets=[{"name": "a"}]),
    _of("a target with two places", "spec.targets[0]",
        targets=[{"name": "a", **_BUCKET, "volumeClaim": {"claimName": "c"}}]),
    _of("a target without a name", "spec.targets[0].name", targets=[_BUCKET]),
    _of("a target that climbs", "spec.targets[0].volumeClaim.path",
        targets=[{"name": "a", "volumeClaim": {"claimName": "c", "path": "../x"}}]),
    _of("a target with a password in its address", "spec.targets[0].s3.endpoint",
        targets=[{"name": "a", "s3": {"bucket": "abc", "endpoint": "http://a:b@c"}}]),
    _of("keys for an anonymous request", "spec.storage.s3",
        storage={"s3": {"bucket": "abc", "anonymous": True, "secretRef": {"name": "k"}}}),
    _of("one key where S3 needs two", "spec.targets[0].s3",
        targets=[{"name": "a", "s3": {"bucket": "abc", "secretRef": {"name": "k", "key": "o"}}}]),
    _of("two places for results", "spec.storage",
        storage={"volumeClaim": {"claimName": "a"}, "s3": {"bucket": "abc"}}),
    _of("offline with a hub", "spec.hub", hub={"offline": True, "endpoint": "https://hub"}),
    _of("a delay above the longest", "spec.runPolicy", runPolicy={"backoffSeconds": 700}),
    _of("a tolerance of zero", "spec.verification.maxLogitDifference",
        verification={"maxLogitDifference": 0}),
    _of("a variable of the operator", "spec.compute.env[0]",
        compute={"env": [{"name": "FINETUNE_PORT", "value": "1"}]}),
    _of("a secret as a variable", "spec.compute.env[0]",
        compute={"env": [{"name": "MY_PASSWORD", "value": "1"}]}),
    _of("label and resource names beyond their bounds",
        "spec.compute.nodeSelector spec.compute.resources.requests spec.compute.resources.limits",
        compute={"nodeSelector": {"x" * 317: "y"},
                 "resources": {"requests": {"": "1"}, "limits": {"": "1"}}}),
    Case("a name with an underscore", EXPORT, name="a_b", refused=("metadata.name",)),
]  # fmt: skip
