"""etcd and an API server alone, on free loopback ports and in a folder of their own.

For tests that play the pods themselves: several can run side by side, beside the whole cluster
too. A user is whoever holds a token of the table; its groups decide what RBAC allows.
"""

import json
import signal
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.binaries import program
from harness.errors import NotReadyError
from harness.ports import free_ports

ADMIN = "admin"
_PATIENCE_SECONDS = 120
_STOP_SECONDS = 20


@dataclass
class BareApi:
    """A running pair of etcd and API server; `users` maps names to their groups."""

    folder: Path
    users: Mapping[str, Sequence[str]]
    controllers: bool
    port: int
    etcd_ports: tuple[int, int]
    controller_words: Sequence[str] = ()
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """The server's address; its certificate is signed by `authority`."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def authority(self) -> Path:
        """The certificate to trust."""
        return self.folder / "certificates" / "apiserver.crt"

    def token(self, user: str = ADMIN) -> str:
        """Return the bearer token of a user."""
        return f"token-of-{user}"

    def kubeconfig(self, user: str = ADMIN, *, server: str | None = None, token: str = "") -> Path:
        """Write and return a kubeconfig of a user, perhaps through another address."""
        path = self.folder / f"{user}{'-elsewhere' if server else ''}.kubeconfig"
        there = {"server": server or self.address}
        if there["server"].startswith("https"):
            there["certificate-authority"] = str(self.authority)
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "bare", "cluster": there}],
            "users": [{"name": user, "user": {"token": token or self.token(user)}}],
            "contexts": [{"name": "bare", "context": {"cluster": "bare", "user": user}}],
            "current-context": "bare",
        }
        path.write_text(json.dumps(document), encoding="utf-8")
        return path

    def kubectl(self, *words: str, text: str | None = None, user: str = ADMIN) -> str:
        """Run kubectl as a user and return what it prints; raises CalledProcessError."""
        command = [str(program("kubectl")), f"--kubeconfig={self.kubeconfig(user)}", *words]
        ran = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise subprocess.CalledProcessError(ran.returncode, words, ran.stdout, ran.stderr)
        return ran.stdout

    def apply(self, *manifests: Mapping[str, Any], words: Sequence[str] = ()) -> None:
        """Apply objects by server-side apply; raises CalledProcessError."""
        for manifest in manifests:
            text = json.dumps(manifest)
            self.kubectl("apply", "--server-side", *words, "-f", "-", text=text)

    def start_server(self) -> None:
        """Start the API server and return when it is ready."""
        self._start("kube-apiserver", self._server_words())
        self._wait_until_ready()

    def stop_server(self, *, kill: bool = False) -> None:
        """Stop the API server, as a restart of it would; etcd keeps everything."""
        self._stop("kube-apiserver", signal.SIGKILL if kill else signal.SIGTERM)

    def start(self) -> None:
        """Start all of it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_identities()
        client, peer = (f"http://127.0.0.1:{port}" for port in self.etcd_ports)
        self._start(
            "etcd",
            [
                f"--data-dir={self.folder / 'etcd'}",
                f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
                "--unsafe-no-fsync",
                "--log-level=warn",
            ],
        )
        self.start_server()
        if self.controllers:
            self._start(
                "kube-controller-manager",
                [
                    f"--kubeconfig={self.kubeconfig()}",
                    "--secure-port=0",
                    f"--service-account-private-key-file={self.folder / 'accounts.key'}",
                    f"--root-ca-file={self.authority}",
                    "--leader-elect=false",
                    *self.controller_words,
                ],
            )

    def stop(self) -> None:
        """End all processes; the folder is the caller's."""
        for name in reversed(tuple(self._running)):
            self._stop(name, signal.SIGKILL)

    def _server_words(self) -> list[str]:
        return [
            f"--etcd-servers=http://127.0.0.1:{self.etcd_ports[0]}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--cert-dir={self.authority.parent}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            f"--service-account-key-file={self.folder / 'accounts.key'}",
            f"--service-account-signing-key-file={self.folder / 'accounts.key'}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--service-cluster-ip-range=10.97.0.0/16",
            "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount",
        ]

    def _write_identities(self) -> None:
        everybody = {ADMIN: ("system:masters",), **self.users}
        rows = (
            f'{self.token(name)},{name},uid-{name},"{",".join(groups)}"'
            for name, groups in everybody.items()
        )
        (self.folder / "tokens.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        words = ["openssl", "genrsa", "-out", str(self.folder / "accounts.key"), "2048"]
        subprocess.run(words, check=True, capture_output=True)

    def _start(self, name: str, words: Sequence[str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [str(program(name)), *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _stop(self, name: str, number: signal.Signals) -> None:
        process = self._running.pop(name)
        process.send_signal(number)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if self._running["kube-apiserver"].poll() is not None:
                break
            with suppress(OSError):
                context = ssl.create_default_context(cafile=str(self.authority))
                asked = urllib.request.Request(f"{self.address}/readyz")
                asked.add_header("Authorization", f"Bearer {self.token()}")
                with urllib.request.urlopen(asked, timeout=3, context=context) as answer:
                    if answer.status == 200:
                        return
            time.sleep(0.2)
        raise NotReadyError(f"no API server; see {self.folder}/kube-apiserver.log")


@contextmanager
def bare_api(
    folder: Path,
    *,
    users: Mapping[str, Sequence[str]] | None = None,
    controllers: bool = False,
    controller_words: Sequence[str] = (),
) -> Iterator[BareApi]:
    """Run etcd and an API server, with the controllers of Kubernetes if asked for.

    `controller_words` are further flags of the controllers, which of them run for example.

    Raises NotReadyError when the server does not become ready.
    """
    port, *etcd_ports = free_ports(3)
    ports = (etcd_ports[0], etcd_ports[1])
    api = BareApi(folder, users or {}, controllers, port, ports, controller_words)
    try:
        api.start()
        yield api
    finally:
        api.stop()
