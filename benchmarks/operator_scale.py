"""Memory, CPU and API calls of the operator at rest, with as many objects as you like.

    PYTHONPATH=operator:tests python benchmarks/operator_scale.py 100 30

The first number is how many finished experiments exist, the second for how many seconds to watch.
They live in the emulated API server of the tests; the operator is a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

from aiohttp import web

from emulated_api_server import EmulatedApiServer
from operator_process import OperatorProcess, operator_process

TRUE_WHEN_FINISHED = ("Ready", "Complete", "DependenciesReady", "Planned", "CheckpointAvailable")
CONDITIONS = (*TRUE_WHEN_FINISHED, "Reconciling", "Stalled", "Failed", "Suspended", "PodsReady")


def finished_experiment(number: int) -> dict:
    """Return an experiment that was trained."""
    conditions = [
        {
            "type": kind,
            "status": "True" if kind in TRUE_WHEN_FINISHED else "False",
            "reason": "Completed",
            "message": "the model is trained and verified",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        for kind in CONDITIONS
    ]
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneExperiment",
        "metadata": {"name": f"run-{number}", "namespace": f"team-{number % 10}"},
        "spec": {
            "model": {"name": "tiny"},
            "dataset": {"name": "faq"},
            "storage": {"volumeClaim": {"claimName": "results"}},
        },
        "status": {"observedGeneration": 1, "revision": 1, "conditions": conditions},
    }


async def measure(count: int, seconds: float) -> None:
    """Print what an operator with `count` finished experiments uses."""
    server = EmulatedApiServer()
    runner = web.AppRunner(server.app(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    for number in range(count):
        await server.put(finished_experiment(number))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KUBECONFIG"] = kubeconfig(Path(folder), runner.addresses[0][1])
        async with operator_process(Path(folder)) as operator:
            await operator.working()
            await settled(server)
            await watch(server, operator, seconds)
    await runner.cleanup()


async def settled(server: EmulatedApiServer) -> None:
    """Wait until five seconds pass without a write: every status was completed once."""
    written = -1
    while written != len(server.writes()):
        written = len(server.writes())
        await asyncio.sleep(5)


async def watch(server: EmulatedApiServer, operator: OperatorProcess, seconds: float) -> None:
    """Look at the process for a while and print the figures."""
    print(f"calls to get ready and complete every status: {len(server.requests)}")
    asked, written, used = len(server.requests), len(server.writes()), operator.cpu_seconds()
    await asyncio.sleep(seconds)
    calls = Counter(f"{r.verb} {r.resource}" for r in server.requests[asked:])
    print(f"resident: {operator.resident_bytes() / 2**20:.0f} MiB")
    print(f"CPU: {(operator.cpu_seconds() - used) / seconds:.4f} cores")
    print(f"writes per minute: {(len(server.writes()) - written) * 60 / seconds:.1f}")
    print(f"calls in {seconds:.0f} s: {dict(calls)}")
    print(f"log lines of errors: {len(operator.complaints())}")


def kubeconfig(folder: Path, port: int) -> str:
    """Write a kubeconfig of the emulated server and return its path."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "users": [{"name": "me", "user": {"token": "none"}}],
    }
    path = folder / "kubeconfig.json"
    path.write_text(json.dumps(config))
    return str(path)


if __name__ == "__main__":
    asyncio.run(measure(int(sys.argv[1]), float(sys.argv[2])))
