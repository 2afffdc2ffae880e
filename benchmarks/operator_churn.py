"""What happens to a large world: a burst, a restarted API server, runs that come and go."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import operator_figures as figures
import operator_objects as objects
from bench_report import Figure
from operator_api import Api, Manifest, each, until

from finetune_api.names import EXPERIMENT, OWNER_LABELS, preparation_job

if TYPE_CHECKING:
    from operator_scale import World

Phase = tuple[list[Figure], dict[str, Any]]
WRITES = frozenset({"POST", "PUT", "PATCH", "APPLY", "DELETE"})
CHILDREN = (
    "/apis/batch/v1/namespaces/{}/jobs", "/api/v1/namespaces/{}/pods",
    "/api/v1/namespaces/{}/configmaps", "/api/v1/namespaces/{}/services",
    "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
)  # fmt: skip
SAMPLE_SECONDS = 2.0
WARM_UP_SHARE = 0.25
CHANGES_PER_HOUR = 600
"""Ten changes a minute, the rate of the target."""


async def burst(world: World) -> Phase:
    """Create many experiments quickly; measure until the first Job of each exists."""
    arguments = world.arguments
    runs = [
        objects.experiment(number % world.finished, f"burst-{number}")
        for number in range(arguments.burst)
    ]
    before = await world.api.requests()
    began, used = time.monotonic(), world.runner.operator.cpu_seconds()
    sent = await asyncio.gather(
        *(
            _created(world.api, one, began + number / arguments.burst_per_second)
            for number, one in enumerate(runs)
        )
    )
    await asyncio.gather(*(_job_exists(world, one) for one in runs))
    used = world.runner.operator.cpu_seconds() - used
    calls = await world.api.requests() - before
    writes = sum(count for (verb, _), count in calls.items() if verb in WRITES) - 2 * len(runs)
    waited = sorted(
        world.pods.made[_first_job(one)] - at for one, at in zip(runs, sent, strict=True)
    )
    found = [
        figures.at_most("create to Job, p50", figures.percentile(waited, 0.5), "s", 5),
        figures.at_most("create to Job, p99", figures.percentile(waited, 0.99), "s", 30),
        Figure("creates in a second", len(runs) / (max(sent) - began), "1/s"),
        Figure("writes per create until the last Job", writes / len(runs), "writes"),
        Figure("processor time per create until then", 1000 * used / len(runs), "ms"),
        Figure("write budget", arguments.writes_per_second, "1/s"),
    ]
    return found, {"burst": waited}


async def restart(world: World) -> Phase:
    """Kill the API server, start it again, and wait until a new experiment gets its Job."""
    jobs = await _uids(world.api)
    revived, killed = world.runner.revived, time.monotonic()
    await asyncio.to_thread(world.server.stop_server, kill=True)
    await asyncio.to_thread(world.server.start_server)
    ready = time.monotonic()
    probe = objects.experiment(1, "burst-probe")
    reviving = asyncio.create_task(_revived(world))
    await until(partial(_reached, world.api, probe), "a server that takes a probe")
    await _job_exists(world, probe)
    recovered = time.monotonic()
    reviving.cancel()
    after = await _uids(world.api)
    doubled = len(after) - len(jobs) - 1
    replaced = sum(after.get(name) != uid for name, uid in jobs.items())
    found = [
        figures.at_most("API server restart, recovered after", recovered - ready, "s", 60),
        figures.at_most("Jobs doubled or replaced by it", doubled + replaced, "Jobs", 0),
        Figure("API server was away", ready - killed, "s"),
        Figure("operators ended by it", world.runner.revived - revived, "processes"),
    ]
    return found, {}


async def churn(world: World) -> Phase:
    """Let experiments come, finish and go at a steady rate, and watch the memory."""
    arguments = world.arguments
    seconds, rate = arguments.churn_seconds, arguments.churn_per_second
    watching = asyncio.create_task(_samples(world, seconds))
    began = time.monotonic()
    count = int(seconds * rate)
    await asyncio.gather(*(_lived(world, number, began + number / rate) for number in range(count)))
    samples = await watching
    steady = [sample for sample in samples if sample[0] >= seconds * WARM_UP_SHARE]
    memory = [(at / 3600, mib) for at, mib, _, _ in steady]
    per_change = figures.slope(memory) / (rate * 3600)
    found = [
        Figure("churn window", seconds, "s"),
        Figure("experiments that came and went in it", count, "runs"),
        Figure("memory slope at that rate", figures.slope(memory), "MiB/h"),
        figures.at_most(
            "memory slope at 10 changes/min", per_change * CHANGES_PER_HOUR, "MiB/h", 1
        ),
        Figure("sockets and files more after churn", steady[-1][2] - steady[0][2], "files"),
        Figure("threads more after churn", steady[-1][3] - steady[0][3], "threads"),
    ]
    return found, {"churn": [sample[:2] for sample in samples]}


async def _created(api: Api, run: Manifest, at: float) -> float:
    """Create a run at its moment; return when the server had it."""
    await asyncio.sleep(at - time.monotonic())
    await objects.create(api, run)
    return time.monotonic()


async def _reached(api: Api, run: Manifest) -> bool:
    """Create a run; connections kept from before a restart are reset one by one."""
    with suppress(aiohttp.ClientError):
        await objects.create(api, run)
        return True
    return False


async def _job_exists(world: World, run: Manifest) -> None:
    async def is_made() -> bool:
        return _first_job(run) in world.pods.made

    await until(is_made, f"the Job of {run['metadata']['name']}", every=0.1)


async def _revived(world: World) -> None:
    while True:
        await world.runner.revive()
        await asyncio.sleep(0.5)


async def _lived(world: World, number: int, at: float) -> None:
    """Create a run, wait for its end, and take it away with all its children."""
    run = objects.experiment(number % world.finished, f"churn-{number}")
    await _created(world.api, run, at)
    await until(partial(_is_complete, world.api, run), "the end of a run", every=1)
    await world.api.delete(objects.path(run))
    metadata = run["metadata"]
    chosen = f"?labelSelector={OWNER_LABELS[EXPERIMENT]}={metadata['name']}"
    paths = (path.format(metadata["namespace"]) + chosen for path in CHILDREN)
    await each(partial(world.api.delete, path) for path in paths)


async def _is_complete(api: Api, run: Manifest) -> bool:
    found = await api.get(objects.path(run))
    return objects.condition(found, "Complete").get("status") == "True"


async def _samples(world: World, seconds: float) -> list[tuple[float, float, int, int]]:
    """Return moments with memory, open files and threads of the operator."""
    began, found = time.monotonic(), []
    while (at := time.monotonic() - began) < seconds:
        pid = world.runner.operator.pid
        found.append(
            (at, figures.resident_mib(pid), figures.descriptors(pid), figures.threads(pid))
        )
        await asyncio.sleep(SAMPLE_SECONDS)
    return found


async def _uids(api: Api) -> dict[str, str]:
    """Return the UIDs of all Jobs by namespace and name."""
    listed = await api.get("/apis/batch/v1/jobs")
    metadata = (item["metadata"] for item in listed["items"])
    return {f"{one['namespace']}/{one['name']}": one["uid"] for one in metadata}


def _first_job(run: Manifest) -> str:
    metadata = run["metadata"]
    return f"{metadata['namespace']}/{preparation_job(metadata['name'], 1, 1)}"
