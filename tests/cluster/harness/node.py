"""The one node: kubelet and kube-proxy, and the GPUs it may pretend to have."""

import json
from pathlib import Path

from harness.binaries import program
from harness.certificates import CA, kubeconfig
from harness.container_runtime import remove_containers, start_container_runtime
from harness.kubectl import fetch, kubectl
from harness.locations import (
    BRIDGE_ADDRESS,
    CONTAINERD_SOCKET,
    NODE_NAME,
    POD_NETWORK,
    STATE,
)
from harness.pause_image import load_pause_image
from harness.processes import pid_of, start, stop, wait_until

KUBELET_ROOT = STATE / "kubelet"
PROCESSES = ("kube-proxy", "kubelet")
GPU = "nvidia.com/gpu"


def start_node() -> None:
    """Start runtime, kubelet and proxy; the node registers itself."""
    start_container_runtime()
    remove_containers()
    load_pause_image()
    start_kubelet()
    start("kube-proxy", [program("kube-proxy"), f"--config={_written(*_proxy())}"])


def start_kubelet() -> None:
    """Start the kubelet alone; a test that has stopped it brings the node back with this."""
    KUBELET_ROOT.mkdir(parents=True, exist_ok=True)
    start(
        "kubelet",
        [
            program("kubelet"),
            f"--config={_written(*_kubelet())}",
            f"--kubeconfig={kubeconfig('kubelet')}",
            f"--root-dir={KUBELET_ROOT}",
            f"--hostname-override={NODE_NAME}",
            f"--node-ip={BRIDGE_ADDRESS}",
        ],
    )


def stop_kubelet() -> None:
    """Stop the kubelet alone: containers go on, nobody speaks for the node any more."""
    stop("kubelet")


def wait_for_node(timeout: float = 240) -> None:
    """Wait until the node is Ready; after a crash the kubelet first clears what is left of pods.

    A kubelet that found containerd's port before its answers has ended: it is started again.
    """

    def ready() -> bool:
        if pid_of("kubelet") is None:
            start_kubelet()
        return node_is_ready()

    wait_until("the node to be Ready", ready, timeout, interval=0.5)


def node_is_ready() -> bool:
    """Whether the node's Ready condition is True."""
    for node in fetch("nodes")["items"]:
        for condition in node.get("status", {}).get("conditions", ()):
            if condition["type"] == "Ready":
                return bool(condition["status"] == "True")
    return False


def fake_gpus(count: int) -> None:
    """Let the node claim this many GPUs, 0 for none: the scheduler deals them, nothing uses them.

    The kubelet keeps them: it owns only the resources it knows.
    """
    patch = [
        {"op": "add", "path": f"/status/{part}/{GPU.replace('/', '~1')}", "value": str(count)}
        for part in ("capacity", "allocatable")
    ]
    arguments = ("--subresource=status", "--type=json", f"--patch={json.dumps(patch)}")
    kubectl("patch", "node", NODE_NAME, *arguments)


def _kubelet() -> tuple[str, dict[str, object]]:
    resolver = STATE / "resolv.conf"
    resolver.write_text(f"nameserver {BRIDGE_ADDRESS}\n", encoding="utf-8")
    return "kubelet", {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": BRIDGE_ADDRESS,
        "healthzBindAddress": "127.0.0.1",
        "authentication": {"x509": {"clientCAFile": str(CA)}, "webhook": {"enabled": True}},
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDNS": [BRIDGE_ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": str(resolver),
        "podLogsDir": str(STATE / "pods"),
        # The machine's disk is not the test's business: evict and collect only at the very end.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {"memory.available": "200Mi", "nodefs.available": "1%"},
        "maxPods": 200,
        "serializeImagePulls": False,
        # A container that was killed is back at once: tests kill on purpose.
        "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
        "oomScoreAdj": 0,
    }


def _proxy() -> tuple[str, dict[str, object]]:
    return "kube-proxy", {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig("kube-proxy"))},
        "bindAddress": BRIDGE_ADDRESS,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "hostnameOverride": NODE_NAME,
        "clusterCIDR": POD_NETWORK,
        "mode": "iptables",
        # Pods share one bridge: without it a Service's answer bypasses the translation back.
        "iptables": {"masqueradeAll": True},
        "conntrack": {"maxPerCore": 0, "min": 0},
        "oomScoreAdj": 0,
    }


def _written(name: str, configuration: dict[str, object]) -> Path:
    target = STATE / f"{name}.json"
    target.write_text(json.dumps(configuration, indent=1), encoding="utf-8")
    return target
