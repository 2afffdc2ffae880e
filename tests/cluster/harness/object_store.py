"""S3 for tests: versitygw on the bridge, the same behind a fault proxy, and the bucket as a folder.

The gateway keeps objects as plain files, honours conditional puts and checksums, and its root
account is made for each cluster. s3fs mounts the bucket: that folder is what volume claims of
tests are made of, so that "a claim backed by S3" is one.
"""

import json
import secrets
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.binaries import program
from harness.bucket_mount import mount_bucket
from harness.kubectl import apply
from harness.locations import (
    BUCKET,
    BUCKETS,
    FAULTY_S3_ENDPOINT,
    REGION,
    S3_ENDPOINT,
    STATE,
    TOXIPROXY,
)
from harness.processes import start, wait_for_answer

PROCESSES = ("toxiproxy", "versitygw")
_CREDENTIALS = STATE / "s3.json"


@dataclass(frozen=True)
class ObjectStore:
    """How to reach the bucket: path-style requests, from pods and from the host alike."""

    endpoint: str
    faulty_endpoint: str
    """The same store through the proxy that `outage` cuts."""
    region: str
    bucket: str
    access_key: str
    secret_key: str


def object_store() -> ObjectStore:
    """Return address and keys of the running cluster's store."""
    return ObjectStore(**json.loads(_CREDENTIALS.read_text(encoding="utf-8")))


def start_object_store() -> None:
    """Start gateway and proxy, create the bucket and mount it."""
    store = _new_store()
    (BUCKETS / BUCKET).mkdir(parents=True, exist_ok=True)
    keys = {"ROOT_ACCESS_KEY": store.access_key, "ROOT_SECRET_KEY": store.secret_key}
    listen = S3_ENDPOINT.removeprefix("http://")
    gateway: list[str | Path] = [
        program("versitygw"),
        "--port",
        listen,
        "--region",
        REGION,
        "--health",
        "/health",
    ]
    start("versitygw", [*gateway, "--quiet", "posix", BUCKETS], env=keys)
    host, _, port = TOXIPROXY.removeprefix("http://").rpartition(":")
    start("toxiproxy", [program("toxiproxy"), "-host", host, "-port", port])
    wait_for_answer("versitygw", f"{S3_ENDPOINT}/health")
    wait_for_answer("toxiproxy", f"{TOXIPROXY}/version")
    proxy = {"name": "s3", "listen": FAULTY_S3_ENDPOINT.removeprefix("http://"), "upstream": listen}
    _proxy_api("/proxies", {**proxy, "enabled": True})
    mount_bucket(store.endpoint, f"{store.access_key}:{store.secret_key}")


def s3_secret(
    namespace: str,
    name: str = "finetune-s3",
    *,
    access_key: str | None = None,
    secret_key: str | None = None,
) -> None:
    """Create a Secret with the store's keys, or with others: wrong ones make a forbidden bucket."""
    store = object_store()
    values = {
        "AWS_ACCESS_KEY_ID": access_key or store.access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key or store.secret_key,
    }
    metadata = {"name": name, "namespace": namespace}
    apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values})


def bucket_directory() -> Path:
    """Return the folder where the gateway keeps the bucket's objects as files."""
    return BUCKETS / BUCKET


@contextmanager
def outage() -> Iterator[None]:
    """Cut every connection through `faulty_endpoint` and refuse new ones while inside."""
    _proxy_api("/proxies/s3", {"enabled": False})
    try:
        yield
    finally:
        _proxy_api("/proxies/s3", {"enabled": True})


def outage_for(seconds: float) -> threading.Thread:
    """Begin an outage of this length and return at once; `join()` waits for its end."""
    begun = threading.Event()

    def run() -> None:
        with outage():
            begun.set()
            time.sleep(seconds)

    thread = threading.Thread(target=run, name="s3-outage")
    thread.start()
    begun.wait(timeout=10)
    return thread


def _new_store() -> ObjectStore:
    keys = {"access_key": secrets.token_hex(10), "secret_key": secrets.token_hex(20)}
    addresses = {"endpoint": S3_ENDPOINT, "faulty_endpoint": FAULTY_S3_ENDPOINT}
    store = ObjectStore(**addresses, region=REGION, bucket=BUCKET, **keys)
    _CREDENTIALS.touch(mode=0o600)
    _CREDENTIALS.write_text(json.dumps(asdict(store)), encoding="utf-8")
    return store


def _proxy_api(path: str, body: dict[str, object]) -> None:
    request = urllib.request.Request(
        f"{TOXIPROXY}{path}", data=json.dumps(body).encode(), method="POST"
    )
    with urllib.request.urlopen(request, timeout=10):
        pass
