"""What `LocalCluster` must have in common with an API server, and what it refuses."""

from __future__ import annotations

import asyncio

import pytest

from finetune_operator.child_facts import child_ref
from finetune_operator.cluster.local_admission import AdmissionError
from finetune_operator.cluster.local_cluster import LocalCluster
from finetune_operator.cluster.resources import CONFIG_MAPS, DATASETS, SERVICES
from finetune_operator.errors import AbsentError, ConflictError, ExpiredError, RefusedError
from finetune_operator.observed import Key

KEY = Key("Dataset", "default", "questions")


def dataset(name="questions", rows="a,b\n", **spec):
    sources = [{"format": "CSV", "inline": {"data": rows}}]
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "Dataset",
        "metadata": {"name": name},
        "spec": {"sources": sources, **spec},
    }


def child(owner, name="questions-d1", kind="ConfigMap", **content):
    reference = {
        "apiVersion": owner["apiVersion"], "kind": owner["kind"],
        "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"], "controller": True,
    }  # fmt: skip
    metadata = {"name": name, "namespace": "default", "ownerReferences": [reference]}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **content}


def stored(cluster, kind="Dataset", name="questions"):
    return next(i for i in cluster.objects.items(kind) if i["metadata"]["name"] == name)


@pytest.fixture
def cluster(tmp_path):
    return LocalCluster(tmp_path, devices=[])


def test_a_submitted_object_gets_identity_defaults_and_a_namespace(cluster):
    assert cluster.submit(dataset()) == "created"
    item = stored(cluster)
    assert item["metadata"]["generation"] == 1
    assert item["metadata"]["namespace"] == "default"
    assert item["spec"]["split"]["validation"] == 0.05


def test_only_a_changed_spec_raises_the_generation(cluster):
    cluster.submit(dataset())
    assert cluster.submit(dataset()) == "unchanged"
    assert cluster.submit(dataset(license="MIT")) == "configured"
    assert stored(cluster)["metadata"]["generation"] == 2


async def test_a_status_write_leaves_the_generation_alone_and_takes_a_new_version(cluster):
    cluster.submit(dataset())
    before = stored(cluster)["metadata"]
    await cluster.write_status(KEY, {"revision": 1}, resource_version=before["resourceVersion"])
    after = stored(cluster)
    assert after["status"]["revision"] == 1
    assert after["metadata"]["generation"] == before["generation"]
    assert after["metadata"]["resourceVersion"] != before["resourceVersion"]


async def test_a_status_write_on_a_stale_version_is_a_conflict(cluster):
    cluster.submit(dataset())
    stale = stored(cluster)["metadata"]["resourceVersion"]
    cluster.submit(dataset(license="MIT"))
    with pytest.raises(ConflictError):
        await cluster.write_status(KEY, {"revision": 1}, resource_version=stale)


async def test_the_status_of_a_missing_object_is_absent(cluster):
    with pytest.raises(AbsentError):
        await cluster.write_status(KEY, {"revision": 1}, resource_version="1")


def test_a_submitted_manifest_does_not_touch_the_status(cluster):
    cluster.submit(dataset())
    cluster.objects.change(
        next(iter(cluster.objects._items)), lambda i: i.update(status={"revision": 3})
    )
    cluster.submit({**dataset(license="MIT"), "status": {"revision": 9}})
    assert stored(cluster)["status"] == {"revision": 3}


def test_an_unknown_field_is_refused_with_its_name(cluster):
    with pytest.raises(AdmissionError) as refused:
        cluster.submit(dataset(chekcs={}))
    assert "spec.chekcs" in refused.value.problems[0]


def test_a_custom_image_is_refused_because_nothing_here_runs_images(cluster):
    with pytest.raises(AdmissionError) as refused:
        cluster.submit(dataset(compute={"image": "mine:1"}))
    assert refused.value.problems[0].startswith("spec.compute.image: a local run uses")


@pytest.mark.parametrize(
    ("field", "blocks"),
    [
        ("compute.gpuProducts", {"compute": {"gpuProducts": ["Tesla-T4"]}}),
        ("compute.networkProfile", {"compute": {"networkProfile": "roce"}}),
        ("scheduling.queueName", {"scheduling": {"queueName": "research"}}),
        ("scheduling.gang", {"scheduling": {"gang": "Volcano"}}),
        ("scheduling.engine", {"scheduling": {"engine": "JobSet"}}),
        ("podOverrides", {"podOverrides": {"metadata": {"labels": {"a": "b"}}}}),
    ],
)
def test_what_only_a_cluster_can_do_is_refused(cluster, field, blocks):
    spec = {"model": {"name": "org/model"}, "dataset": {"name": "questions"}, **blocks}
    experiment = {**dataset(), "kind": "FineTuneExperiment", "spec": spec}
    with pytest.raises(AdmissionError) as refused:
        cluster.submit(experiment)
    assert [problem.split(": ")[0] for problem in refused.value.problems] == [f"spec.{field}"]


def test_no_gang_is_what_a_local_run_has_anyway(cluster):
    spec = {"model": {"name": "org/model"}, "dataset": {"name": "questions"}}
    experiment = {**dataset(), "kind": "FineTuneExperiment"}
    cluster.submit({**experiment, "spec": {**spec, "scheduling": {"gang": "None"}}})


async def test_equal_content_applied_again_changes_no_version(cluster):
    cluster.submit(dataset())
    service = child(stored(cluster), kind="Service", name="questions", spec={"clusterIP": "None"})
    first = await cluster.apply(service, force=False)
    again = await cluster.apply(service, force=True)
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def test_an_immutable_child_cannot_be_changed(cluster):
    cluster.submit(dataset())
    await cluster.apply(child(stored(cluster), data={"a": "1"}), force=False)
    with pytest.raises(RefusedError):
        await cluster.apply(child(stored(cluster), data={"a": "2"}), force=True)


async def test_deleting_an_owner_deletes_what_it_owns(cluster):
    cluster.submit(dataset())
    await cluster.apply(child(stored(cluster), data={}), force=False)
    cluster.remove(KEY)
    assert await cluster.read(CONFIG_MAPS, "default", "questions-d1") is None
    assert await cluster.read(DATASETS, "default", "questions") is None


async def test_a_child_of_a_dead_owner_does_not_stay(cluster):
    cluster.submit(dataset())
    orphan = child(stored(cluster), data={})
    cluster.remove(KEY)
    await cluster.apply(orphan, force=False)
    assert await cluster.read(CONFIG_MAPS, "default", "questions-d1") is None


async def test_a_delete_holds_only_for_the_version_that_was_seen(cluster):
    cluster.submit(dataset())
    owner = stored(cluster)
    service = child(owner, kind="Service", name="questions", spec={"clusterIP": "None"})
    seen = child_ref(await cluster.apply(service, force=False))
    await cluster.apply({**service, "spec": {"clusterIP": "None", "a": 1}}, force=True)
    with pytest.raises(ConflictError):
        await cluster.delete(seen)
    await cluster.delete(child_ref(await cluster.read(SERVICES, "default", "questions")))
    assert await cluster.read(SERVICES, "default", "questions") is None


async def test_a_watch_tells_of_everything_after_the_list_it_begins_at(cluster):
    cluster.submit(dataset())
    page = await anext(cluster.pages(DATASETS))
    cluster.submit(dataset(license="MIT"))
    watch = cluster.changes(DATASETS, since=page.resource_version)
    assert (await anext(watch)).item["spec"]["license"] == "MIT"
    cluster.submit(dataset(name="more"))
    cluster.remove(KEY)
    assert [(await anext(watch)).type, (await anext(watch)).type] == ["ADDED", "DELETED"]


async def test_a_watch_sees_only_what_its_labels_select(cluster):
    cluster.submit(dataset())
    watch = cluster.changes(DATASETS, since="0", labels="team=a")
    pending = asyncio.ensure_future(anext(watch))
    labelled = dataset(name="labelled")
    labelled["metadata"]["labels"] = {"team": "a"}
    cluster.submit(labelled)
    assert (await pending).item["metadata"]["name"] == "labelled"


async def test_a_watch_from_before_the_memory_is_expired(cluster, tmp_path):
    cluster.submit(dataset())
    cluster.submit(dataset(license="MIT"))
    reopened = LocalCluster(tmp_path, devices=[])
    with pytest.raises(ExpiredError):
        await anext(reopened.changes(DATASETS, since="1"))


async def test_objects_are_still_there_in_the_next_process(cluster, tmp_path):
    cluster.submit(dataset())
    reopened = LocalCluster(tmp_path, devices=[])
    assert stored(reopened) == stored(cluster)
    assert reopened.submit(dataset()) == "unchanged"
