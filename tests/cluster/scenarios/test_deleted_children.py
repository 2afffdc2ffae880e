"""What somebody deletes in the middle of a run: its Job, or the namespace with all of it."""

from __future__ import annotations

from datetime import UTC, datetime

from harness import kubectl as kube
from harness.namespaces import delete_namespace, namespace
from harness.writes import writes
from installation import ACCOUNT
from scenarios.after_faults import started, unharmed
from scenarios.stories import (
    Ground,
    dataset,
    furnish,
    newest_checkpoint,
    wait_for_condition,
)


def test_a_job_deleted_by_hand_ends_its_attempt_and_the_next_goes_on(
    sums: Ground, undisturbed: str
) -> None:
    started(sums, "jobless")
    kube.kubectl("delete", "job", "jobless-a1", "--wait=false", namespace=sums.namespace)

    unharmed(sums, "jobless", undisturbed, attempts=2, disruption=1)


def test_a_namespace_deleted_in_the_middle_goes_at_once_and_stored_data_stays(
    operator: None,
) -> None:
    with namespace("doomed") as place:
        ground = Ground(place, furnish(place))
        kube.apply(dataset(), namespace=place)
        wait_for_condition("dataset", "sums", place, "Ready")
        started(ground, "doomed")
        reached = newest_checkpoint(ground.files, "doomed")
        begun = datetime.now(UTC)
        delete_namespace(place)

        assert newest_checkpoint(ground.files, "doomed") >= reached
        made = [write for write in writes(place, since=begun) if write.code == 201]
        assert [write for write in made if write.user == ACCOUNT] == []
