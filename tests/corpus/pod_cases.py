"""Objects that say where and how their pods run: overrides, engines, gangs, topology, GPUs."""

from __future__ import annotations

from typing import Any

from corpus.admission_case import Case
from finetune_api.names import DATASET, EXPERIMENT, EXPORT

_SPEC = "spec.podOverrides.spec"


def _pods(says: str, refused: str = "", **spec: Any) -> list[Case]:
    """Return the case of an override for every kind: all have the same field."""
    return [
        Case(f"{says} ({kind})", kind, {"podOverrides": {"spec": spec}}, tuple(refused.split()))
        for kind in (DATASET, EXPERIMENT, EXPORT)
    ]


def _marked(says: str, refused: str = "", **metadata: Any) -> list[Case]:
    overrides = {"podOverrides": {"metadata": metadata}}
    return [
        Case(f"{says} ({kind})", kind, overrides, tuple(refused.split()))
        for kind in (DATASET, EXPERIMENT, EXPORT)
    ]


def _placed(says: str, refused: str = "", /, nodes: int = 2, **scheduling: Any) -> Case:
    spec = {"compute": {"nodes": nodes}, "scheduling": scheduling}
    return Case(says, EXPERIMENT, spec, tuple(refused.split()))


def _compute(says: str, refused: str = "", **compute: Any) -> Case:
    return Case(says, EXPERIMENT, {"compute": compute}, tuple(refused.split()))


def _trainer(**fields: Any) -> list[dict[str, Any]]:
    return [{"name": "trainer", **fields}]


def _helper(**fields: Any) -> list[dict[str, Any]]:
    return [{"name": "helper", "image": "helper:1", **fields}]


def _with_affinity(zone: str) -> dict[str, Any]:
    return {"podOverrides": {"spec": {"affinity": {"nodeAffinity": {"anything": [zone]}}}}}


_RAN = {"attempt": {"number": 1}, "fence": 3}
_VOLUME = {"name": "cache", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}

POD_CASES = [
    *_pods("a volume in the trainer", volumes=[_VOLUME],
           containers=_trainer(volumeMounts=[{"name": "cache", "mountPath": "/cache"}])),
    *_pods("a container beside the trainer",
           initContainers=_helper(restartPolicy="Always", command=["sh"], args=["-c", "sleep 1"],
                                  resources={"requests": {"cpu": "10m"}})),
    *_pods("an affinity of one's own", affinity={"nodeAffinity": {"anything": [1, {"a": "b"}]}}),
    *_pods("name servers and users",
           dnsPolicy="None", dnsConfig={"nameservers": ["10.0.0.10"]},
           securityContext={"runAsUser": 1000, "supplementalGroups": [2000]},
           hostAliases=[{"ip": "10.0.0.1", "hostnames": ["store"]}]),
    *_pods("a variable from the pod's own fields",
           containers=_trainer(env=[
               {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}])),
    *_marked("labels and annotations", labels={"team": "nlp"},
             annotations={"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}),
    *_marked("labels of the operator", "spec.podOverrides.metadata",
             labels={"finetune.dev/attempt": "1"}),
    *_marked("annotations of a queue", "spec.podOverrides.metadata",
             annotations={"kueue.x-k8s.io/podset-required-topology": "rack"}),
    *_marked("a label without a name", "spec.podOverrides.metadata.labels", labels={"": "x"}),
    *_pods("the host's network", f"{_SPEC}.hostNetwork", hostNetwork=True),
    *_pods("another service account", f"{_SPEC}.serviceAccountName", serviceAccountName="admin"),
    *_pods("another restart policy", f"{_SPEC}.restartPolicy", restartPolicy="OnFailure"),
    *_pods("another command", f"{_SPEC}.containers[0].command",
           containers=_trainer(command=["sh"])),
    *_pods("another image", f"{_SPEC}.containers[0].image", containers=_trainer(image="own:1")),
    *_pods("a container of another name", f"{_SPEC}.containers[0]",
           containers=[{"name": "sidecar"}]),
    *_pods("privileges", f"{_SPEC}.initContainers[0].securityContext",
           initContainers=_helper(securityContext={"privileged": True})),
    *_pods("the trainer's name for a helper", f"{_SPEC}.initContainers[0]",
           initContainers=_helper(name="trainer")),
    *_pods("root", f"{_SPEC}.securityContext.runAsUser", securityContext={"runAsUser": 0}),
    *_pods("a folder of the host", f"{_SPEC}.volumes[0].hostPath",
           volumes=[_VOLUME | {"hostPath": {"path": "/"}}]),
    *_pods("a volume of no type", f"{_SPEC}.volumes[0]", volumes=[{"name": "cache"}]),
    *_pods("a volume of the operator's", f"{_SPEC}.volumes[0]",
           volumes=[_VOLUME | {"name": "claim-0"}]),
    *_pods("the same volume twice", f"{_SPEC}.volumes[1]", volumes=[_VOLUME, _VOLUME]),
    *_pods("a mount over the operator's own", f"{_SPEC}.containers[0].volumeMounts[0]",
           containers=_trainer(volumeMounts=[{"name": "cache", "mountPath": "/scratch/tmp"}])),
    *_pods("a mount beside the operator's own",
           containers=_trainer(volumeMounts=[{"name": "cache", "mountPath": "/scratch-of-mine"}]),
           volumes=[_VOLUME]),
    *_pods("a variable of the operator's", f"{_SPEC}.containers[0].env[0]",
           containers=_trainer(env=[{"name": "MASTER_ADDR", "value": "x"}])),
    *_pods("a variable from a Secret", f"{_SPEC}.containers[0].env[0].valueFrom.secretKeyRef",
           containers=_trainer(env=[{"name": "X", "valueFrom": {"secretKeyRef": {"name": "s"}}}])),
    *_pods("a secret in a variable", f"{_SPEC}.initContainers[0].env[0]",
           initContainers=_helper(env=[{"name": "API_KEY", "value": "x"}])),
    _placed("a JobSet in a queue", engine="JobSet", queueName="research"),
    _placed("an engine nobody knows", "spec.scheduling.engine", engine="MPIJob"),
    _placed("Volcano with a queue", gang="Volcano", queueName="research", priorityClassName="low"),
    _placed("Volcano's own default queue", gang="Volcano"),
    _placed("Kueue by its name", gang="Kueue", queueName="research"),
    _placed("Kueue without a queue", "spec.scheduling", gang="Kueue"),
    _placed("a queue for no gang", "spec.scheduling", gang="None", queueName="research"),
    _placed("a class of Kueue's for Volcano", "spec.scheduling",
            gang="Volcano", queueName="research", queuePriorityClassName="high"),
    _placed("another scheduler for Volcano", "spec.scheduling",
            gang="Volcano", schedulerName="own"),
    _placed("nodes of one rack", topologyKey="example.com/rack", topologyMode="Required"),
    _placed("a mode without a topology", "spec.scheduling", topologyMode="Required"),
    _placed("a topology for one node", "spec", nodes=1, topologyKey="example.com/rack"),
    _compute("accepted GPUs", gpuProducts=["NVIDIA-H100-80GB-HBM3", "Tesla-T4"]),
    _compute("accepted GPUs without any", "spec.compute", gpusPerNode=0, gpuProducts=["Tesla-T4"]),
    _compute("NVIDIA's names for other GPUs", "spec.compute",
             gpuResourceName="amd.com/gpu", gpuProducts=["Tesla-T4"]),
    _compute("a name that is no label", "spec.compute.gpuProducts[0]", gpuProducts=["Tesla T4"]),
    _compute("a profile of the network", networkProfile="roce"),
    Case("an affinity beside accepted GPUs", EXPERIMENT,
         {"compute": {"gpuProducts": ["Tesla-T4"]},
          "podOverrides": {"spec": {"affinity": {"podAffinity": {}}}}}, ("spec",)),
    Case("a word inside an open object that changes under a run", EXPERIMENT,
         _with_affinity("b"), ("spec",), stored=_with_affinity("a"), stored_status=_RAN),
    Case("the same words of an open object", EXPERIMENT,
         _with_affinity("a"), stored=_with_affinity("a"), stored_status=_RAN),
]  # fmt: skip
