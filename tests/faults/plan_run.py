"""Runs one plan in a namespace of its own and judges it."""

from __future__ import annotations

import asyncio
import json
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from harness.fault_proxy import Fault, FaultProxy, Noted, fault_proxy

from builders import NAMES
from faults import fault_oracles as oracles
from faults import write_counts
from faults.admin_api import Json, RefusedByServerError
from faults.fault_ground import CANARY, OPERATORS, Ground
from faults.fault_modes import TIMES, StrikingFault, fault_of
from faults.fault_plan import Plan
from faults.fault_scenarios import SCENARIOS, Scenario, given_status
from faults.namespace_view import (
    PATIENCE_SECONDS,
    NamespaceView,
    NotReachedError,
    World,
    manifest,
)
from faults.normal_form import normal_form
from faults.operator_forks import OperatorFork
from faults.played_kubelet import Stage
from faults.played_store import PlayedStore, store_is_what_is_told
from faults.summaries import describe_call, describe_event
from finetune_api.names import PLURALS

QUIET_SECONDS, MOST_QUIET_SECONDS = 1.5, 45.0
RESTARTS_SECONDS = 0.3
COLLECTION_LOOKS = 200
"""Looks, half a second apart, that garbage collection is given."""
PAGE = ("Job", "Pod", "Service", "ConfigMap", "NetworkPolicy", *PLURALS)
STARVED = ("the Lease could not be renewed in time",)
"""A machine that is too busy for ten seconds ends the operator; the next one goes on."""
PROVOKED = {"errors": ("the operator ends", "Watcher for", "Multidimensional multitasker")}
"""Words of log lines that a mode provokes: the process says why it ends or waits."""


@dataclass
class Result:
    """What came of a plan."""

    plan: Plan
    broken: list[str] = field(default_factory=list)
    struck: bool = True
    noted: list[Noted] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    end: Json = field(default_factory=dict)


@dataclass(frozen=True)
class Known:
    """What is known of a story before it runs; a story that is learned has no end yet."""

    end: Json | None = None
    budget: write_counts.Budget | None = None


class PlanRun:
    """One plan while it runs."""

    def __init__(self, ground: Ground, plan: Plan, name: str, known: Known) -> None:
        self._ground, self._plan, self._name, self._known = ground, plan, name, known
        self._scenario: Scenario = SCENARIOS[plan.scenario]
        self._modes = [part.mode for part in plan.parts()]
        self._invariants, self._store = oracles.Invariants(), PlayedStore()
        self._result = Result(plan)
        self._operators: list[OperatorFork] = []
        self._stopping = False
        self.folder: Path = ground.folder / name

    async def run(self) -> Result:
        """Run the story under the fault; what does not hold stands in the result."""
        ground, scenario = self._ground, self._scenario
        self.folder.mkdir()
        view = await ground.namespace(self._name, everywhere=scenario.everywhere)
        view.listeners += [self._invariants.seen, self._note]
        ground.kubelet.stages[self._name] = Stage(scenario.script, self._store)
        await self._give()
        async with fault_proxy(ground.api.address, ground.session, describe_call) as proxy:
            self._write_kubeconfig(proxy)
            fault = fault_of(self._plan, kill=self._kill, delete=self._delete)
            proxy.fault = fault or Fault()
            keeping = asyncio.create_task(self._keep_an_operator())
            try:
                await self._told(view, proxy, fault)
            except (NotReachedError, RefusedByServerError, aiohttp.ClientError) as error:
                self._result.broken.append(f"{error}; {self._state(view)}")
            finally:
                self._stopping = True
                keeping.cancel()
                for operator in self._operators:
                    operator.signal(signal.SIGKILL)
            self._result.noted = proxy.noted
            calls = (f"{n.seconds:8.2f} {n.status} {n.call}\n" for n in proxy.noted)
            (self.folder / "calls.log").write_text("".join(calls))
        self._leave(view)
        return self._result

    async def _told(
        self, view: NamespaceView, proxy: FaultProxy, fault: StrikingFault | None
    ) -> None:
        await self._operator_works()
        world = World(self._ground.admin, view)
        deletes = "delete" in self._modes
        driving = asyncio.create_task(self._scenario.drive(world))
        try:
            if deletes:
                await self._until_deleted(view, driving)
            else:
                await driving
        finally:
            driving.cancel()
        await self._operator_works()
        await self._rest(proxy)
        self._result.struck = fault is None or fault.struck
        await self._judge(deleted=self._deleted)
        self._count(proxy)

    async def _operator_works(self) -> None:
        """Wait until the operator is past its start; raises NotReachedError."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not (self._operators and self._operators[-1].works()):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise NotReachedError("not reached: the operator works") from None

    async def _until_deleted(self, view: NamespaceView, driving: asyncio.Task[None]) -> None:
        """The story ends with the object; or, if no moment came, as it always does."""
        kind = self._scenario.main
        key = (kind, NAMES[kind])
        gone = asyncio.create_task(
            view.until(lambda: self._deleted and key not in view.objects, "it is deleted")
        )
        await asyncio.wait([gone, driving], return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if not self._deleted:
            await driving

    _deleted = False

    async def _delete(self) -> None:
        """Delete the main object; the operator may be at work before the story creates it."""
        kind = self._scenario.main
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await self._ground.admin.read(kind, self._name, NAMES[kind]) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await self._ground.admin.delete(kind, self._name, NAMES[kind])
        self._deleted = True

    async def _kill(self) -> None:
        self._operators[-1].signal(signal.SIGKILL)

    async def _give(self) -> None:
        """Create the objects whose story is over."""
        for kind in self._scenario.given:
            await self._ground.admin.create(manifest(kind), self._name)
            await self._ground.admin.merge(
                kind, self._name, NAMES[kind], {"status": given_status(kind)}, sub="/status"
            )

    async def _keep_an_operator(self) -> None:
        """Start the operator, and another one whenever it ends, as Kubernetes would."""
        settings = {
            "trainer_image": "trainer:test", "namespaces": json.dumps([self._name]),
            "lease_namespace": OPERATORS, "lease_name": self._name,
            "progress_interval_seconds": "1",
        }  # fmt: skip
        delays = self._plan.where.get("delays", {})
        while not self._stopping:
            operator = await self._ground.forks.start(self.folder, settings, delays)
            self._operators.append(operator)
            await asyncio.shield(operator.ended)
            await asyncio.sleep(RESTARTS_SECONDS)
            await self._free_the_lease()

    async def _free_the_lease(self) -> None:
        """Spare the wait for the Lease of a dead process to end."""
        lease = {"spec": {"holderIdentity": None}}
        try:
            await self._ground.admin.merge("Lease", OPERATORS, self._name, lease)
        except RefusedByServerError:
            return

    async def _rest(self, proxy: FaultProxy) -> None:
        """Wait until the operator writes no more; one that never rests is broken."""
        waited, count = 0.0, -1
        while waited < MOST_QUIET_SECONDS:
            writes = sum(noted.call.writes for noted in proxy.noted)
            if writes == count and not proxy.under_way:
                return
            count = writes
            await asyncio.sleep(QUIET_SECONDS)
            waited += QUIET_SECONDS
        last = [noted.call for noted in proxy.noted if noted.call.writes][-3:]
        self._result.broken.append(f"there are writes at rest: {last}")

    async def _judge(self, *, deleted: bool) -> None:
        found = await self._everything()
        broken = self._result.broken
        self._result.end = normal_form(found, self._name)
        if deleted:
            kind = self._scenario.main
            if any(known["kind"] == kind for known in found):
                broken.append(f"the deleted {kind} is back")
        else:
            broken += oracles.end_is_the_same(self._known.end, found, self._name)
        broken += oracles.nothing_is_orphaned(found)
        broken += self._store.broken
        broken += store_is_what_is_told(self._store, found, self._scenario.given)
        events = await self._ground.admin.list("Event", self._name)
        texts = {"objects": json.dumps(found), "events": json.dumps(events)}
        status, texts["metrics"] = await self._operators[-1].get(self._ground.session, "/metrics")
        if status != 200:
            broken.append(f"/metrics answers {status}")
        lines = [line for operator in self._operators for line in operator.lines()]
        texts["log"] = "\n".join(lines)
        allowed = STARVED + tuple(word for mode in self._modes for word in PROVOKED.get(mode, ()))
        broken += oracles.the_log_is_clean(lines, allowed)
        token = self._ground.tokens[self._scenario.everywhere]
        broken += oracles.no_secret_is_told([CANARY, token], texts)
        broken += self._invariants.broken

    def _count(self, proxy: FaultProxy) -> None:
        """Compare the writes with the budget: each fault may cost some, each new operator too."""
        if not self._known.budget:
            return
        struck = (mode for mode in self._modes if mode != "learn")
        strikes = sum(TIMES if mode == "errors" else 1 for mode in struck)
        strikes += len(self._operators) - 1
        self._result.broken += write_counts.over_budget(self._known.budget, proxy.noted, strikes)

    async def _everything(self) -> list[Json]:
        """Return all objects of ours; garbage collection is given time to end."""
        for _ in range(COLLECTION_LOOKS):
            listed = await asyncio.gather(
                *(self._ground.admin.list(kind, self._name) for kind in PAGE)
            )
            found = [item for part in listed for item in part]
            if not oracles.nothing_is_orphaned(found):
                break
            await asyncio.sleep(0.5)
        return found

    def _note(self, event: Json) -> None:
        self._result.events.append(describe_event(event))

    def _write_kubeconfig(self, proxy: FaultProxy) -> None:
        token = self._ground.tokens[self._scenario.everywhere]
        config: dict[str, Any] = {
            "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
            "clusters": [{"name": "proxy", "cluster": {"server": proxy.address}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "operator"}}],
            "users": [{"name": "operator", "user": {"token": token}}],
        }  # fmt: skip
        (self.folder / "kubeconfig").write_text(json.dumps(config))

    def _state(self, view: NamespaceView) -> str:
        names = sorted({describe_event({"type": "", "object": o}) for o in view.objects.values()})
        return "; ".join(names)

    def _leave(self, view: NamespaceView) -> None:
        """Forget the namespace; nobody looks at it again."""
        view.listeners.clear()
        self._ground.views.pop(self._name, None)
        self._ground.kubelet.stages.pop(self._name, None)
