"""Jobs of a work directory run as processes, and end as a cluster would tell it."""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap
from contextlib import asynccontextmanager

from finetune_operator.child_facts import job_facts, pod_facts
from finetune_operator.cluster.local_cluster import LocalCluster
from finetune_operator.cluster.resources import JOBS, PODS

PREAMBLE = """
import json, os, pathlib, signal, sys, time
rank = int(os.environ["JOB_COMPLETION_INDEX"])
def end(code, **word):
    outcome = {"class": "Completed", "rank": rank, **word}
    pathlib.Path(os.environ["FINETUNE_TERMINATION_LOG"]).write_text(json.dumps(outcome))
    sys.exit(code)
"""


def job(name="demo-a1", *, pods=1, limits=None, volumes=(), env=(), grace=5):
    container = {
        "name": "trainer",
        "image": "this-machine",
        "command": ["python", "-m", "finetune_trainer", "train"],
        "env": [
            {"name": "FINETUNE_TERMINATION_LOG", "value": "/dev/termination-log"},
            {"name": "FINETUNE_SCRATCH_DIR", "value": "/scratch"},
            {"name": "FINETUNE_CLAIMS_DIR", "value": "/mnt/claims"},
            {"name": "MASTER_ADDR", "value": "demo-a1-0.demo"},
            {"name": "MASTER_PORT", "value": "29500"},
            *env,
        ],
        "volumeMounts": [
            {"name": "scratch", "mountPath": "/scratch"},
            *({"name": v["name"], "mountPath": v["mount"]} for v in volumes),
        ],
        "resources": {"limits": limits or {}},
    }
    spec = {
        "terminationGracePeriodSeconds": grace,
        "containers": [container],
        "volumes": [
            {"name": "scratch", "emptyDir": {}},
            *({k: part for k, part in v.items() if k != "mount"} for v in volumes),
        ],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"completions": pods, "template": {"metadata": {}, "spec": spec}},
    }


@asynccontextmanager
async def cluster_running(tmp_path, script, **options):
    path = tmp_path / "program.py"
    path.write_text(PREAMBLE + textwrap.dedent(script))
    cluster = LocalCluster(
        tmp_path, program=[sys.executable, "-S", str(path)], **{"devices": [], **options}
    )
    async with cluster.running():
        yield cluster


async def until(look):
    """Wait until `look` gives something; the test's own limit ends a vain wait."""
    while not (found := look()):  # noqa: ASYNC110 - files and processes set no Event
        await asyncio.sleep(0.02)
    return found


def pods_of(cluster):
    return [pod_facts(pod) for pod in cluster.objects.items("Pod")]


def facts(cluster):
    (found,) = cluster.objects.items("Job")
    return job_facts(found, pods_of(cluster))


async def ended(cluster):
    await until(lambda: facts(cluster).complete or facts(cluster).failed)
    return facts(cluster)


def living(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_job_completes_when_every_index_does_and_keeps_their_last_words(tmp_path):
    async with cluster_running(tmp_path, "end(0, message=f'rank {rank}')") as cluster:
        await cluster.apply(job(pods=2), force=False)
        done = await ended(cluster)
    assert done.complete
    assert [(p.index, p.exit_code, p.outcome.message) for p in done.pods] == [
        (0, 0, "rank 0"),
        (1, 0, "rank 1"),
    ]


async def test_a_rank_that_fails_ends_the_others_with_sigterm(tmp_path):
    script = """
    ready = pathlib.Path(os.environ["READY"])
    if rank == 1:
        while not ready.exists():
            time.sleep(0.02)
        end(11, **{"class": "Data"})
    signal.signal(signal.SIGTERM, lambda *_: end(75, **{"class": "Checkpointed"}))
    ready.touch()
    time.sleep(60)
    """
    env = [{"name": "READY", "value": str(tmp_path / "ready")}]
    async with cluster_running(tmp_path, script) as cluster:
        watch = cluster.changes(PODS, since="0")
        await cluster.apply(job(pods=2, env=env), force=False)
        done = await ended(cluster)
        codes = {}
        while len(codes) < 2:
            seen = pod_facts((await anext(watch)).item)
            if seen.exit_code is not None:
                codes[seen.index] = seen.exit_code
    assert done.failed
    assert codes == {0: 75, 1: 11}


async def test_a_pod_that_ignores_sigterm_is_killed_after_its_grace_period(tmp_path):
    script = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\ntime.sleep(60)"
    )
    async with cluster_running(tmp_path, script) as cluster:
        await cluster.apply(job(grace=1), force=False)
        (pod,) = await until(lambda: [p for p in pods_of(cluster) if p.phase == "Running"])
        await until(lambda: "deaf" in cluster.jobs.log_file(pod.name).read_text())
        cluster.objects.delete(next(k for k in cluster.objects._items if k.kind == "Job"))
        await until(lambda: not cluster.objects.items("Pod"))
    assert await cluster.read(JOBS, "default", "demo-a1") is None


async def test_what_a_pod_leaves_running_is_killed_with_it(tmp_path):
    script = """
    if os.fork() == 0:
        os.setsid()
        time.sleep(60)
    end(0)
    """
    async with cluster_running(tmp_path, script + "\n") as cluster:
        await cluster.apply(job(), force=False)
        assert (await ended(cluster)).complete  # the supervisor waits for the whole tree


async def test_no_process_outlives_the_cluster(tmp_path):
    script = """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(os.getpid(), flush=True)
    time.sleep(60)
    """
    async with cluster_running(tmp_path, script) as cluster:
        await cluster.apply(job(), force=False)
        (pod,) = await until(lambda: [p for p in pods_of(cluster) if p.phase == "Running"])
        text = await until(lambda: cluster.jobs.log_file(pod.name).read_text().strip())
    await until(lambda: not living(int(text)))


async def test_a_pod_whose_process_died_with_finetune_counts_as_disrupted(tmp_path):
    async with cluster_running(tmp_path, "time.sleep(60)") as cluster:
        await cluster.apply(job(), force=False)
        await until(lambda: [p for p in pods_of(cluster) if p.phase == "Running"])
    async with cluster_running(tmp_path, "time.sleep(60)") as again:
        done = await ended(again)
    assert done.failed
    assert done.pods[0].disrupted


async def test_paths_of_the_pod_become_folders_of_this_machine(tmp_path):
    script = """
    claim = pathlib.Path(os.environ["FINETUNE_CLAIMS_DIR"]) / "data"
    (claim / "result.txt").write_text("here")
    (pathlib.Path(os.environ["FINETUNE_SCRATCH_DIR"]) / "draft").write_text("gone soon")
    end(0, message=os.environ["MASTER_ADDR"])
    """
    volume = {
        "name": "claim-0", "mount": "/mnt/claims/data",
        "persistentVolumeClaim": {"claimName": "data"},
    }  # fmt: skip
    async with cluster_running(tmp_path, script) as cluster:
        await cluster.apply(job(volumes=[volume]), force=False)
        done = await ended(cluster)
        assert done.pods[0].outcome.message == "127.0.0.1"
        assert (tmp_path / "claims" / "data" / "result.txt").read_text() == "here"
        await until(lambda: not list((tmp_path / "pods").glob("*")))


async def test_a_secret_comes_from_files_or_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_SECRET_HUB_KEYS_HF_TOKEN", "from-environment")
    (tmp_path / "secrets" / "hub-keys").mkdir(parents=True)
    (tmp_path / "secrets" / "hub-keys" / "OTHER").write_text("from-file")
    script = """
    folder = pathlib.Path(os.environ["WHERE"])
    end(0, message=(folder / "HF_TOKEN").read_text() + " " + (folder / "OTHER").read_text())
    """
    volume = {
        "name": "secret-0", "mount": "/mnt/secrets/hub-keys",
        "secret": {"secretName": "hub-keys"},
    }  # fmt: skip
    where = {"name": "WHERE", "value": "/mnt/secrets/hub-keys"}
    async with cluster_running(tmp_path, script) as cluster:
        await cluster.apply(job(volumes=[volume], env=[where]), force=False)
        done = await ended(cluster)
    assert done.pods[0].outcome.message == "from-environment from-file"


async def test_a_pod_does_not_inherit_the_tokens_of_its_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "canary")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    async with cluster_running(tmp_path, "end(0, message=str('canary' in str(os.environ)))") as c:
        await c.apply(job(), force=False)
        assert (await ended(c)).pods[0].outcome.message == "False"


async def test_a_missing_secret_is_named_and_the_pod_starts_once_it_is_there(tmp_path):
    volume = {"name": "s", "mount": "/mnt/secrets/keys", "secret": {"secretName": "keys"}}
    async with cluster_running(tmp_path, "end(0)") as cluster:
        await cluster.apply(job(volumes=[volume]), force=False)
        (pod,) = await until(lambda: [p for p in pods_of(cluster) if p.waiting])
        assert pod.waiting[0] == "FailedMount"
        assert 'secret "keys" not found' in pod.waiting[1]
        (tmp_path / "secrets" / "keys").mkdir(parents=True)
        (tmp_path / "secrets" / "keys" / "A").write_text("1")
        assert (await ended(cluster)).complete


async def test_a_job_that_wants_gpus_waits_and_says_what_to_change(tmp_path):
    async with cluster_running(tmp_path, "end(0)") as cluster:
        await cluster.apply(job(limits={"nvidia.com/gpu": "1"}), force=False)
        (pod,) = await until(lambda: [p for p in pods_of(cluster) if p.waiting])
    assert (pod.phase, pod.bound) == ("Pending", False)
    assert pod.waiting == ("Unschedulable", "no GPU on this machine; set compute.gpusPerNode: 0")


async def test_each_pod_of_a_job_sees_its_own_gpus(tmp_path):
    script = "end(0, message=os.environ['CUDA_VISIBLE_DEVICES'])"
    async with cluster_running(tmp_path, script, devices=["4", "5", "6"]) as cluster:
        await cluster.apply(job(pods=3, limits={"nvidia.com/gpu": "1"}), force=False)
        done = await ended(cluster)
    assert [pod.outcome.message for pod in done.pods] == ["4", "5", "6"]


async def test_a_second_job_waits_until_the_gpus_are_free(tmp_path):
    script = """
    while not pathlib.Path(os.environ["GO"]).exists():
        time.sleep(0.05)
    end(0)
    """
    gate = tmp_path / "go"
    env = [{"name": "GO", "value": str(gate)}]
    async with cluster_running(tmp_path, script, devices=["0"]) as cluster:
        limits = {"nvidia.com/gpu": "1"}
        await cluster.apply(job("one-a1", limits=limits, env=env), force=False)
        await until(lambda: [p for p in pods_of(cluster) if p.phase == "Running"])
        await cluster.apply(job("two-a1", limits=limits, env=env), force=False)
        (pod,) = await until(lambda: [p for p in pods_of(cluster) if p.waiting])
        assert pod.waiting[1] == "waits for 1 GPUs, 0 of 1 are free"
        gate.touch()
        await until(lambda: len([p for p in pods_of(cluster) if p.phase == "Succeeded"]) == 2)
