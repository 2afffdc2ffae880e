"""Volcano as processes beside an API server: its scheduler and its controllers, no webhooks."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from harness.binaries import program
from harness.commands import output
from harness.ports import free_ports
from harness.processes import answers, wait_until


@contextmanager
def volcano(sources: Path, kubeconfig: Path, folder: Path) -> Iterator[None]:
    """Run the programs of a folder; raises NotReadyError when they do not become ready."""
    folder.mkdir()
    kubectl = partial(output, program("kubectl"), f"--kubeconfig={kubeconfig}")
    kubectl("apply", "--server-side", "-f", sources / "crds.yaml")
    own = {
        "scheduler": (f"--scheduler-conf={sources / 'scheduler.conf'}", "--cache-dumper=false"),
        "controller-manager": (),
    }
    processes, ports = [], free_ports(len(own))
    try:
        for (name, words), port in zip(own.items(), ports, strict=True):
            common = ("--leader-elect=false", "--enable-healthz", "--listen-address=127.0.0.1:0")
            health = f"--healthz-address=127.0.0.1:{port}"
            with (folder / f"{name}.log").open("ab") as log:
                command = [sources / name, f"--kubeconfig={kubeconfig}", health, *common, *words]
                processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        for port in ports:
            wait_until("Volcano", partial(answers, f"http://127.0.0.1:{port}/healthz"))
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
