"""The whole operator as a process, against an emulated API server that can fail."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from pathlib import Path

import pytest

import builders
from emulated_api_server import EmulatedApiServer, Fault
from finetune_api.conditions import CONDITION_TYPES
from finetune_operator.cluster.api_transport import RIGHTS
from finetune_operator.status import as_json
from operator_process import operator_process, until

pytestmark = pytest.mark.usefixtures("kubeconfig")


def dataset(name: str = "faq", namespace: str = "ml") -> dict:
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "Dataset",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "recordType": "Text",
            "sources": [{"name": "a", "inline": {"data": '{"text": "hello"}'}}],
            "storage": {"volumeClaim": {"claimName": "results"}},
        },
    }


def experiment(name: str = "run") -> dict:
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneExperiment",
        "metadata": {"name": name, "namespace": "ml"},
        "spec": {
            "problemType": "CausalLM",
            "model": {"name": "tiny"},
            "dataset": {"name": "faq"},
            "storage": {"volumeClaim": {"claimName": "results"}},
        },
    }


def finished(name: str) -> dict:
    """Return an experiment that was trained, with the status its operator left."""
    types = CONDITION_TYPES["FineTuneExperiment"]
    said = {one: "True" if one in ("Ready", "Complete") else "False" for one in types}
    conditions = builders.conditions(**said)
    left = builders.complete_experiment(conditions=conditions, observedGeneration=1)
    return experiment(name) | {"status": as_json(left.status)}


def ready_reason(server: EmulatedApiServer, kind: str, name: str) -> str | None:
    status = (server.find(kind, name) or {}).get("status") or {}
    return next((c["reason"] for c in status.get("conditions", ()) if c["type"] == "Ready"), None)


async def test_a_dataset_gets_its_job_and_a_status_and_then_there_is_rest(
    server: EmulatedApiServer, tmp_path: Path
):
    async with operator_process(tmp_path) as operator:
        await operator.working()
        await server.put(dataset())
        await until(lambda: server.find("Job", "faq-d1") and ready_reason(server, "Dataset", "faq"))
        await asyncio.sleep(1)
        writes = len(server.writes())
        await asyncio.sleep(2)
        assert server.writes()[writes:] == []
        assert (await operator.get("/livez"))[0] == 200
        assert (await operator.get("/readyz"))[0] == 200
        assert await operator.stop() == 0
        assert operator.complaints() == []
    made = server.find("Dataset", "faq") or {}
    assert not made["metadata"].keys() & {"annotations", "finalizers"}
    lease = server.find("Lease", "finetune-operator") or {}
    assert not lease["spec"]["holderIdentity"]
    granted = {
        (right.group, resource, verb)
        for right in RIGHTS
        for resource in right.resources
        for verb in right.verbs
    }
    used = {(r.group, r.resource, r.verb) for r in server.requests}
    assert {verb for verb in used if verb not in granted} == set()


async def test_an_experiment_that_came_before_its_dataset_is_woken_by_it(
    server: EmulatedApiServer, tmp_path: Path
):
    await server.put(experiment())
    async with operator_process(tmp_path) as operator:
        await until(lambda: ready_reason(server, "FineTuneExperiment", "run"))
        before = (server.find("FineTuneExperiment", "run") or {})["status"]
        await server.put(dataset())
        await until(lambda: (server.find("FineTuneExperiment", "run") or {})["status"] != before)
        assert operator.complaints() == []


async def test_an_operator_of_two_namespaces_serves_both_and_asks_for_no_other(
    server: EmulatedApiServer, tmp_path: Path
):
    await server.put(dataset("elsewhere", "other"))
    async with operator_process(tmp_path, namespaces='["ml", "nlp"]') as operator:
        await operator.working()
        await server.put(dataset("one", "ml"))
        await server.put(dataset("two", "nlp"))
        for name in ("one", "two"):
            await until(lambda name=name: server.find("Job", f"{name}-d1"))
            await until(lambda name=name: ready_reason(server, "Dataset", name))
        assert operator.complaints() == []
    assert {request.namespace for request in server.requests} == {"ml", "nlp", "ops"}
    assert server.find("Job", "elsewhere-d1") is None


async def test_a_killed_operator_makes_nothing_twice_when_it_is_back(
    server: EmulatedApiServer, tmp_path: Path
):
    await server.put(dataset())
    async with operator_process(tmp_path) as first:
        await until(lambda: server.find("Job", "faq-d1"))
        await first.stop(signal.SIGKILL)
    await server.remove("Lease", "finetune-operator")  # instead of waiting for its end
    made = (server.find("Job", "faq-d1") or {})["metadata"]
    async with operator_process(tmp_path) as second:
        await second.working()
        await until(lambda: ready_reason(server, "Dataset", "faq"))
        await asyncio.sleep(1)
        assert second.complaints() == []
    jobs = [o for o in server.objects.values() if o["kind"] == "Job"]
    assert [job["metadata"] for job in jobs] == [made]


async def test_why_a_job_gets_no_pod_is_quoted_from_its_events(
    server: EmulatedApiServer, tmp_path: Path
):
    async with operator_process(tmp_path) as operator:
        await operator.working()
        await server.put(dataset())
        await until(lambda: server.find("Job", "faq-d1"))
        uid = (server.find("Job", "faq-d1") or {})["metadata"]["uid"]
        event = {
            "kind": "Event",
            "metadata": {"name": "refused", "namespace": "ml"},
            "involvedObject": {"uid": uid},
            "type": "Warning",
            "reason": "FailedCreate",
            "message": 'Error creating: pods "faq-d1-0-x7x2q" is forbidden: exceeded quota: cpu',
        }
        await server.put(event)
        edited = dataset()
        edited["metadata"]["labels"] = {"edited": "yes"}
        await server.put({**(server.find("Dataset", "faq") or {}), **edited})
        quoted = "pods is forbidden: exceeded quota: cpu"
        await until(lambda: quoted in str((server.find("Dataset", "faq") or {}).get("status")))
        assert operator.complaints() == []


async def test_every_watch_losing_its_place_costs_nothing(
    server: EmulatedApiServer, tmp_path: Path
):
    async with operator_process(tmp_path) as operator:
        await operator.working()
        await server.put(dataset())
        await until(lambda: server.find("Job", "faq-d1"))
        await server.forget_history()
        await server.put(dataset("second"))
        await until(lambda: server.find("Job", "second-d1"))
        jobs = [o["metadata"]["name"] for o in server.objects.values() if o["kind"] == "Job"]
        assert sorted(jobs) == ["faq-d1", "second-d1"]


@pytest.mark.parametrize("status", [429, 503])
async def test_a_failing_server_delays_and_nothing_else(
    server: EmulatedApiServer, tmp_path: Path, status: int
):
    async with operator_process(tmp_path) as operator:
        await operator.working()
        headers = {"Retry-After": "1"} if status == 429 else {}
        fault = Fault(lambda r: r.verb == "patch" and r.resource != "leases", status, 1, headers)
        with server.failing(fault):
            await server.put(dataset())
            await until(lambda: ready_reason(server, "Dataset", "faq"))
            await until(lambda: server.find("Job", "faq-d1"))
        assert operator.complaints() == []


async def test_a_server_that_rejects_the_credentials_ends_the_process(
    server: EmulatedApiServer, tmp_path: Path
):
    async with operator_process(tmp_path) as operator:
        await operator.working()
        with server.failing(Fault(lambda r: r.resource == "leases", 401, 1000)):
            await server.put(dataset())
            with server.failing(Fault(lambda r: r.verb == "patch", 401, 1000)):
                async with asyncio.timeout(30):
                    assert await operator._process.wait() == 1
        assert "canary-token" not in operator._log.read_text()


async def test_a_second_operator_waits_and_takes_over(server: EmulatedApiServer, tmp_path: Path):
    async with operator_process(tmp_path) as first:
        await first.working()
        async with operator_process(tmp_path) as second:
            await second.ready()
            assert not any(line["event"] == "working" for line in second.log())
            await first.stop()
            await second.working()
            await server.put(dataset())
            await until(lambda: server.find("Job", "faq-d1"))
            await until(lambda: ready_reason(server, "Dataset", "faq"))
            status = (server.find("Dataset", "faq") or {})["status"]
            assert status["fence"] == 2


async def test_a_cold_start_makes_no_call_per_object(server: EmulatedApiServer, tmp_path: Path):
    for number in range(200):
        await server.put(finished(f"run-{number}"))
    async with operator_process(tmp_path) as operator:
        await operator.working()
        async with asyncio.timeout(60):
            known = 'status="AsExpected"} 200'
            while known not in (await operator.get("/metrics"))[1]:  # noqa: ASYNC110 - its process
                await asyncio.sleep(0.2)
        assert operator.complaints() == []
    calls = Counter((r.verb, r.resource) for r in server.requests if r.resource != "leases")
    ours = ("datasets", "finetuneexperiments", "modelexports")
    lists = {("list", kind): 2 for kind in ours}  # by kopf, and by the audit that opens the barrier
    lists |= {("list", kind): 1 for kind in ("jobs", "pods")}
    assert {call: n for call, n in calls.items() if call[0] != "watch"} == lists
    assert {call[1]: n for call, n in calls.items() if call[0] == "watch"} == dict.fromkeys(
        (*ours, "jobs", "pods"), 1
    )
