"""Children: made once, never adopted from others, mutable ones kept as planned."""

from __future__ import annotations

import pytest

from finetune_operator.carrying_out import apply_child, delete_child
from finetune_operator.errors import ConflictError, NameTakenError, PredecessorError
from finetune_operator.observed import ChildRef, Key
from recording_cluster import RecordingCluster

RUN = Key("FineTuneExperiment", "ml", "run")
UID = "u1"


def owned_by(kind: str = RUN.kind, name: str = RUN.name, uid: str = UID) -> list[dict]:
    return [{"kind": kind, "name": name, "uid": uid, "controller": True}]


def child(kind: str, owners: list[dict] | None = None) -> dict:
    version = {"Job": "batch/v1"}.get(kind, "v1")
    metadata = {"name": "run-a1", "namespace": "ml", "ownerReferences": owners or owned_by()}
    return {"apiVersion": version, "kind": kind, "metadata": metadata}


async def applied(kind: str, present: list[dict] | None) -> list[tuple[str, str]]:
    cluster = RecordingCluster()
    if present is not None:
        cluster.put(child(kind, present))
    await apply_child(cluster, child(kind), owner=RUN, owner_uid=UID)
    return cluster.writes


GROUP = ChildRef("scheduling.volcano.sh/v1beta1", "PodGroup", "ml", "run-a1", "", "")


@pytest.mark.parametrize(
    ("owners", "deleted"),
    [
        pytest.param(owned_by(), True, id="ours"),
        pytest.param(owned_by(uid="old"), False, id="of a deleted object of this name"),
        pytest.param([], False, id="nobody's"),
        pytest.param(None, False, id="gone already"),
    ],
)
async def test_a_child_known_by_name_alone_goes_if_it_is_ours(owners, deleted):
    cluster = RecordingCluster()
    if owners is not None:
        found = child("PodGroup")
        found["metadata"]["ownerReferences"] = owners
        cluster.put(found | {"apiVersion": GROUP.api_version})
    await delete_child(cluster, GROUP, owner_uid=UID)
    assert cluster.writes == ([("delete", "run-a1")] if deleted else [])


async def test_an_absent_child_is_created():
    assert await applied("Job", None) == [("create", "run-a1")]


@pytest.mark.parametrize("kind", ["Job", "ConfigMap"])
async def test_a_child_that_exists_is_left_alone(kind):
    assert await applied(kind, owned_by()) == []


async def test_an_absent_mutable_child_is_applied_without_force():
    assert await applied("Service", None) == [("apply", "run-a1")]


async def test_a_mutable_child_is_applied_again_with_force():
    assert await applied("Service", owned_by()) == [("apply force", "run-a1")]


@pytest.mark.parametrize(
    ("owners", "error"),
    [
        pytest.param(
            [{"kind": "X", "name": "y", "uid": "z"}], NameTakenError, id="nobody controls"
        ),
        pytest.param(owned_by("StatefulSet", "db", "z"), NameTakenError, id="another controller"),
        pytest.param(owned_by(name="other", uid="z"), NameTakenError, id="another experiment"),
        pytest.param(owned_by(uid="old"), PredecessorError, id="a deleted object of this name"),
    ],
)
@pytest.mark.parametrize("kind", ["Service", "Job"])
async def test_a_childs_name_that_is_not_ours_is_never_adopted(kind, owners, error):
    with pytest.raises(error):
        await applied(kind, owners)


async def test_a_child_that_is_being_deleted_is_waited_for():
    cluster = RecordingCluster()
    going = child("Job")
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    cluster.put(going)
    with pytest.raises(PredecessorError):
        await apply_child(cluster, child("Job"), owner=RUN, owner_uid=UID)


async def test_a_child_that_was_in_the_way_and_is_gone_is_left_to_the_next_step():
    cluster = RecordingCluster()
    cluster.fail_next("create", ConflictError("exists", status=409))
    with pytest.raises(ConflictError):
        await apply_child(cluster, child("Job"), owner=RUN, owner_uid=UID)
    assert cluster.writes == []
