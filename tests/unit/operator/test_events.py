"""Events: one per transition, attached to the object, never worth failing a step."""

from __future__ import annotations

from finetune_operator.errors import UnavailableError
from finetune_operator.events import Events
from finetune_operator.observed import Event, Key
from recording_cluster import RecordingCluster

RUN = Key("FineTuneExperiment", "ml", "run")
QUEUED, TRAINING = Event("Normal", "Queued", "waits"), Event("Normal", "Training", "runs")


async def posted(events: Events, *told: Event) -> None:
    events.add(RUN, "u1", told)
    await events.post(RUN)


async def test_an_event_names_its_object_by_uid():
    cluster = RecordingCluster()
    await posted(Events(cluster), QUEUED)
    (event,) = cluster.events
    assert event["involvedObject"]["uid"] == "u1"
    assert (event["type"], event["reason"], event["message"]) == ("Normal", "Queued", "waits")


async def test_the_same_event_in_a_row_is_posted_once_and_a_new_one_again():
    cluster = RecordingCluster()
    events = Events(cluster)
    for event in (QUEUED, QUEUED, TRAINING, QUEUED):
        await posted(events, event)
    assert [event["reason"] for event in cluster.events] == ["Queued", "Training", "Queued"]


async def test_a_server_that_is_busy_costs_an_event_and_nothing_else():
    cluster = RecordingCluster()
    cluster.fail_next("post_event", UnavailableError("busy"))
    await posted(Events(cluster), QUEUED, TRAINING)
    assert [event["reason"] for event in cluster.events] == ["Training"]


async def test_events_of_an_object_that_was_deleted_are_not_posted():
    cluster = RecordingCluster()
    events = Events(cluster)
    events.add(RUN, "u1", (QUEUED,))
    events.forget(RUN)
    await events.post(RUN)
    assert cluster.events == []
