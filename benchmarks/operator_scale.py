"""What the operator costs with many objects, and how fast it is, against a real API server.

    make bench-operator
    PYTHONPATH=operator:trainer_image:tests:tests/cluster python benchmarks/operator_scale.py

etcd and the API server are real; Jobs and pods are played (`operator_pods`). Sizes are numbers of
experiments: one in a hundred trains and reports progress, the rest has finished, and each five
share a Dataset. Prints a table and JSON lines; `--out` takes the series of a plot.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import operator_figures as figures
import operator_objects as objects
from bench_report import Figure, report
from harness.bare_api import BareApi, bare_api
from operator_api import Api, Manifest, connected, each, until
from operator_churn import Phase, burst, churn, restart
from operator_pods import PlayedPods
from operator_runner import Runner
from operator_seeding import etcd, seed

from finetune_api.names import DATASET, EXPERIMENT, PLURALS

CRDS = Path(__file__).parents[1] / "crds"
SIZES = (100, 1000, 10_000)
ACTIVE_ONE_IN = 100
PHASES = {"burst": burst, "restart": restart, "churn": churn}
"""What may happen to the largest size, in this order."""


@dataclass
class World:
    """Everything a phase needs."""

    api: Api
    pods: PlayedPods
    runner: Runner
    server: BareApi
    arguments: argparse.Namespace
    finished: int = 0
    active: int = 0

    @property
    def total(self) -> int:
        """Return the number of objects of our kinds."""
        datasets = -(-self.finished // objects.PER_DATASET)
        return self.finished + self.active + datasets + len(objects.pattern())


async def measure(arguments: argparse.Namespace) -> tuple[list[Figure], dict[str, Any]]:
    """Run all phases and return figures and series."""
    found: list[Figure] = []
    series: dict[str, Any] = {"sizes": {}}
    with (
        tempfile.TemporaryDirectory() as folder,
        bare_api(Path(folder) / "api", users={"operator": ()}) as server,
    ):
        install(server)
        os.environ["KUBECONFIG"] = str(server.kubeconfig("operator"))
        runner = Runner(Path(folder), writes_per_second=str(arguments.writes_per_second))
        async with connected(server) as api, PlayedPods(api).playing() as pods, runner:
            world = World(api, pods, runner, server, arguments)
            await patterns(world)
            for size in arguments.sizes:
                await grow(world, size)
                known = await at_size(world, size)
                found += known
                series["sizes"][size] = {one.name.split(",")[0]: one.value for one in known}
                said(known)
            for phase in chosen(arguments):
                more, points = await phase(world)
                found += more
                series |= points
                said(more)
            found.append(Figure("operators that ended by themselves", runner.revived, "processes"))
            found.append(Figure("errors in the operator's log", len(runner.complaints()), "lines"))
            series["complaints"] = Counter(one["event"] for one in runner.complaints())
    return found, series


def chosen(arguments: argparse.Namespace) -> list[Callable[[World], Awaitable[Phase]]]:
    """Return the phases that are wanted; a churn of no length has no figures."""
    empty = {"churn"} if not arguments.churn_seconds else set()
    return [PHASES[name] for name in PHASES if name in set(arguments.phases) - empty]


def install(server: BareApi) -> None:
    """Install the CRDs and let the operator do what it wants; its rights are tested elsewhere."""
    server.kubectl("apply", "--server-side", "-f", str(CRDS))
    server.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    words = ("clusterrolebinding", "operator", "--clusterrole=cluster-admin", "--user=operator")
    server.kubectl("create", *words)
    server.kubectl("create", "namespace", "ops")


async def patterns(world: World) -> None:
    """Let the operator bring one Dataset and one experiment to their ends."""
    ours = objects.pattern()
    await world.api.create("/api/v1/namespaces", {"metadata": {"name": objects.PATTERN[0]}})
    await world.runner.start()
    for one in ours:
        await objects.create(world.api, one)
    for one in ours:
        await until(lambda one=one: is_true(world.api, one, "Complete"), "a finished pattern")
    await world.runner.stop()


async def grow(world: World, size: int) -> None:
    """Add running experiments by the operator, and finished ones by hand."""
    active = max(1, size // ACTIVE_ONE_IN)
    await seed_until(world, max(world.finished, active))  # their Datasets
    await world.runner.start()
    more = [objects.experiment(number, "active") for number in range(world.active, active)]
    await each(partial(objects.create, world.api, one) for one in more)
    await until(lambda: all_running(world, active), "runs that train")
    world.active = active
    await world.runner.stop()
    await seed_until(world, size - active)


async def seed_until(world: World, count: int) -> None:
    """Have so many finished experiments."""
    async with etcd(world.server.etcd_ports[0]) as store:
        await seed(store, world.finished, count)
    world.finished = count


async def at_size(world: World, size: int) -> list[Figure]:
    """Start the operator cold and let it rest."""
    last = size == max(world.arguments.sizes)
    before = await world.api.requests()
    seconds = await world.runner.cold_start(world.total)
    calls = await world.api.requests() - before
    beyond = sum(count for (verb, _), count in calls.items() if verb not in ("LIST", "WATCH"))
    idle_before = await versions(world.api)
    rest = await world.runner.rest(world.arguments.rest_seconds)
    idle_after = await versions(world.api)
    touched = [name for name in idle_before if idle_before[name] != idle_after[name]]
    idle = sum("active-" not in name for name in touched)
    spent = world.runner.operator.cpu_seconds() - rest.cores * rest.seconds
    if not last:
        await world.runner.stop()
    named = figures.at_size(size, is_goal=last)
    return [
        named("cold start", seconds, "s", 90),
        named("processor time of it", spent, "s", None),
        named("calls of it beyond lists", beyond, "calls", 200),
        named("memory at rest", rest.resident_mib, "MiB", 768),
        named("peak memory", rest.peak_mib, "MiB", 768),
        named("CPU at rest", rest.cores, "cores", 0.1),
        named("idle objects written", idle, "objects", 0),
    ]


def said(found: list[Figure]) -> None:
    """Print figures as they come: a long run may be cut short."""
    for one in found:
        print(one.line(), flush=True)


async def versions(api: Api) -> dict[str, str]:
    """Return the resourceVersion of all our objects."""
    found = {}
    for plural in (PLURALS[DATASET], PLURALS[EXPERIMENT]):
        listed = await api.get(f"/apis/finetune.dev/v1alpha1/{plural}")
        for item in listed["items"]:
            facts = item["metadata"]
            found[f"{plural} {facts['namespace']}/{facts['name']}"] = facts["resourceVersion"]
    return found


async def is_true(api: Api, manifest: Manifest, name: str) -> bool:
    """Tell whether a condition of an object is True."""
    return objects.condition(await api.get(objects.path(manifest)), name).get("status") == "True"


async def all_running(world: World, count: int) -> bool:
    """Tell whether so many runs train."""
    seen = await world.runner.metric_sum("finetune_experiment_status", status="Training")
    return seen >= count


def main() -> None:
    """Measure, print, keep the series."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--phases", nargs="*", choices=PHASES, default=list(PHASES))
    parser.add_argument("--rest-seconds", type=float, default=60)
    parser.add_argument("--writes-per-second", type=float, default=figures.default_budget())
    parser.add_argument("--burst", type=int, default=1000)
    parser.add_argument("--burst-per-second", type=float, default=100)
    parser.add_argument("--churn-seconds", type=float, default=3600)
    parser.add_argument("--churn-per-second", type=float, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    load = os.getloadavg()
    found, series = asyncio.run(measure(arguments))
    report(found, ("kopf", "kubernetes", "aiohttp"))
    print(json.dumps({"load before and after": [load[0], os.getloadavg()[0]]}))
    if arguments.out:
        arguments.out.write_text(json.dumps(series))


if __name__ == "__main__":
    main()
