"""Runs one pod of a local Job: volumes, environment, process tree, stop, last word."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from finetune_api import names
from finetune_operator.cluster import local_pod_status, pod_supervisor
from finetune_operator.cluster.local_devices import devices_asked_for
from finetune_operator.cluster.local_pod_status import INDEX, index_of
from finetune_operator.cluster.local_volumes import PodRoot
from finetune_operator.observed import Manifest

DEFAULT_GRACE_SECONDS = 30
LOOPBACK = "127.0.0.1"
_INHERITED = (
    *("PATH", "LANG", "LC_ALL", "TZ", "USER", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "CUDA_HOME", "NVIDIA_VISIBLE_DEVICES"),
)
"""What a pod inherits from this process; anything else, tokens above all, it does not see."""


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


class LocalPod:
    """One pod's process tree, from its start to its exit code."""

    def __init__(
        self, pod: Manifest, *, log: Path, port: int, master_port: int,
        devices: Callable[[], Sequence[str]] = tuple, program: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self._pod, self._log = pod, log
        self._ports = {
            names.PORT_ENV: str(port), "MASTER_PORT": str(master_port),
            "PET_MASTER_PORT": str(master_port), "MASTER_ADDR": LOOPBACK,
            "PET_MASTER_ADDR": LOOPBACK,
        }  # fmt: skip
        self._devices, self._program = devices, program
        self._process: asyncio.subprocess.Process | None = None
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Ask the pod to end: SIGTERM now, SIGKILL after its grace period."""
        self._stopped.set()

    async def is_stopped_within(self, seconds: float) -> bool:
        """Wait for `stop` and tell whether it came."""
        try:
            async with asyncio.timeout(seconds):
                return await self._stopped.wait()
        except TimeoutError:
            return False

    async def run(self, root: PodRoot, started: Callable[[], None]) -> Manifest:
        """Run the pod to its end and return its last status."""
        if self._stopped.is_set():
            return local_pod_status.ended(128 + signal.SIGKILL, b"")
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._supervised(root), stdin=asyncio.subprocess.PIPE, stdout=output,
                stderr=output, env=self._environment(root), cwd=root.folder,
                start_new_session=True,
            )  # fmt: skip
        started()
        stopper = asyncio.create_task(self._stop_when_asked(self._process))
        try:
            code = await self._process.wait()
        finally:
            stopper.cancel()
            self._kill()
            await self._process.wait()
        return local_pod_status.ended(code, _last_word(root))

    def _kill(self) -> None:
        """End the whole tree: the supervisor kills it when its input ends."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    async def _stop_when_asked(self, process: asyncio.subprocess.Process) -> None:
        await self._stopped.wait()
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        grace = self._pod["spec"].get("terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS)
        await asyncio.sleep(grace)
        self._kill()

    def _supervised(self, root: PodRoot) -> list[str]:
        container = self._pod["spec"]["containers"][0]
        given = [*container.get("command", []), *container.get("args", [])]
        command = [root.rewritten(part) for part in given]
        if self._program and command[:3] == ["python", "-m", "finetune_trainer"]:
            command = [*self._program, *command[3:]]
        elif command[0] in ("python", "python3"):
            command[0] = sys.executable
        return [sys.executable, "-I", "-S", str(pod_supervisor.__file__), *command]

    def _environment(self, root: PodRoot) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        inherited.setdefault("OMP_NUM_THREADS", str(self._threads()))
        inherited.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning starves other programs
        inherited["JOB_COMPLETION_INDEX"] = str(index_of(self._pod))
        inherited["PYTHONUNBUFFERED"] = "1"
        for variable in self._pod["spec"]["containers"][0].get("env", []):
            inherited[variable["name"]] = root.rewritten(self._value(variable))
        wanted = devices_asked_for(self._pod["spec"])
        inherited["CUDA_VISIBLE_DEVICES"] = ",".join(self._devices()) if wanted else ""
        return inherited | {k: v for k, v in self._ports.items() if k in inherited}

    def _value(self, variable: Mapping[str, object]) -> str:
        source = variable.get("valueFrom")
        if not isinstance(source, Mapping):
            return str(variable.get("value", ""))
        metadata = self._pod["metadata"]
        fields = {
            "metadata.name": metadata["name"],
            "metadata.namespace": metadata["namespace"],
            "metadata.uid": metadata["uid"],
            "status.podIP": LOOPBACK,
            f"metadata.annotations['{INDEX}']": metadata["annotations"][INDEX],
        }
        return str(fields[source["fieldRef"]["fieldPath"]])

    def _threads(self) -> int:
        """Return each rank's share of the cores, so that ranks do not fight for them."""
        variables = self._pod["spec"]["containers"][0].get("env", [])
        literal = {item["name"]: item.get("value", "1") for item in variables}
        ranks = int(literal.get("PET_NNODES", "1")) * int(literal.get("PET_NPROC_PER_NODE", "1"))
        return max(1, len(os.sched_getaffinity(0)) // ranks)


def _last_word(root: PodRoot) -> bytes:
    try:
        return root.termination_log.read_bytes()
    except OSError:
        return b""
