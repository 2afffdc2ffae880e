"""Where everything of the test cluster lies: paths, addresses and fixed names.

All state is under one cache folder, so that removing that folder removes the cluster, and
everything listens on loopback or on the bridge, so that nothing is exposed.
"""

import os
from pathlib import Path

_XDG_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
CACHE = Path(os.environ.get("FINETUNE_CACHE") or _XDG_CACHE / "finetune-operator")
BIN = CACHE / "bin"
IMAGES = CACHE / "images"
STATE = CACHE / "cluster"
"""Everything `down` removes."""
LOGS = STATE / "logs"
RUN = STATE / "run"
KUBECONFIG = STATE / "admin.kubeconfig"
CONTAINERD_ROOT = IMAGES / "containerd"
"""Outside of STATE: a new cluster finds the images of the last one, 6 GB need no second import."""
CONTAINERD_SOCKET = STATE / "containerd.sock"
BUCKETS = STATE / "s3"
MOUNT = STATE / "artifacts"
"""The bucket as a folder, through s3fs."""

REPOSITORY = Path(__file__).resolve().parents[3]

BRIDGE = "finetune0"
BRIDGE_ADDRESS = "10.244.0.1"
POD_NETWORK = "10.244.0.0/24"
SERVICE_NETWORK = "10.96.0.0/16"
NODE_NAME = "finetune-node"

API_SERVER = f"https://{BRIDGE_ADDRESS}:6443"
ETCD = "http://127.0.0.1:12379"
ETCD_PEER = "http://127.0.0.1:12380"
DNS_READY = "http://127.0.0.1:18181/ready"
S3_ENDPOINT = f"http://{BRIDGE_ADDRESS}:7070"
FAULTY_S3_ENDPOINT = f"http://{BRIDGE_ADDRESS}:7071"
TOXIPROXY = "http://127.0.0.1:18474"
PROMETHEUS = "http://127.0.0.1:19090"
REGISTRY = "127.0.0.1:15000"

BUCKET = "finetune"
REGION = "us-east-1"
