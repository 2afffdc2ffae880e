"""Command line of the test cluster: `python3 -m harness up|down|build|images|controllers|...`."""

import argparse
import fcntl
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from harness import binaries, cluster, images
from harness.controller_build import build_controllers, build_volcano
from harness.errors import HarnessError
from harness.locations import BIN, CACHE, KUBECONFIG, LOGS, PROMETHEUS
from harness.machine import install_packages, require_root
from harness.object_store import object_store

_READING = ("status", "env")


def main() -> int:
    """Carry out one command; an expected failure is one sentence and exit code 1."""
    commands = {
        "up": (_up, "start the cluster, or find it healthy"),
        "down": (cluster.down, "stop it and remove its state"),
        "status": (_status, "which processes run"),
        "build": (_build, "install packages and build programs, start nothing"),
        "images": (images.load_images, "build both images and give them to the cluster"),
        "controllers": (_controllers, "build those of JobSet and Kueue; print variables for tests"),
        "volcano": (_volcano, "build Volcano; print its variable for tests"),
        "env": (_env, "shell lines with KUBECONFIG, PATH and the S3 settings"),
    }
    parser = argparse.ArgumentParser(prog="harness", description=__doc__)
    choices = parser.add_subparsers(dest="command", required=True)
    for name, (_, help_text) in commands.items():
        choices.add_parser(name, help=help_text)
    command = parser.parse_args().command
    try:
        with alone() if command not in _READING else nullcontext():
            commands[command][0]()
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def alone() -> Iterator[None]:
    """Let nobody else change the cluster meanwhile: people and tests share it."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def environment() -> dict[str, str]:
    """Return what a shell needs to use the cluster, its tools and its store."""
    store = object_store()
    return {
        "KUBECONFIG": str(KUBECONFIG),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "FINETUNE_S3_ENDPOINT": store.endpoint,
        "FINETUNE_S3_BUCKET": store.bucket,
        "AWS_REGION": store.region,
        "AWS_ACCESS_KEY_ID": store.access_key,
        "AWS_SECRET_ACCESS_KEY": store.secret_key,
        "FINETUNE_PROMETHEUS": PROMETHEUS,
    }


def _up() -> None:
    cluster.up()
    store = object_store()
    print(f"  export KUBECONFIG={KUBECONFIG}")
    print(f'  export PATH={BIN}:"$PATH"     # kubectl, helm, kubeconform')
    print(f"  S3          {store.endpoint} bucket {store.bucket}; {store.faulty_endpoint} can fail")
    print(f"  Prometheus  {PROMETHEUS}")
    print(f"  logs        {LOGS}")


def _status() -> None:
    for name, pid in cluster.process_states().items():
        print(f"{name:20} {'down' if pid is None else f'pid {pid}'}")
    if not cluster.healthy():
        raise HarnessError("the cluster is not healthy; `up` starts it anew")
    print("healthy")


def _build() -> None:
    require_root()
    install_packages()
    binaries.build_all()


def _controllers() -> None:
    for name, folder in build_controllers().items():
        print(f"FINETUNE_TEST_{name.upper()}={folder}")


def _volcano() -> None:
    print(f"FINETUNE_TEST_VOLCANO={build_volcano()}")


def _env() -> None:
    if not KUBECONFIG.exists():
        raise HarnessError("the cluster is down; start it with `up`")
    for name, value in environment().items():
        if name == "PATH":
            print(f'export PATH={BIN}:"$PATH"')
        else:
            print(f"export {name}={shlex.quote(value)}")


if __name__ == "__main__":
    sys.exit(main())
