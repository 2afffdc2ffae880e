"""The object cache: last seen state, owners, references, and what is kept of vanished children."""

from __future__ import annotations

import json

import pytest

from finetune_api.names import ATTEMPT_LABEL, OWNER_LABELS
from finetune_operator import object_cache
from finetune_operator.object_cache import ObjectCache, owner_key
from finetune_operator.observed import Key

RUN = Key("FineTuneExperiment", "ml", "run")
DATA = Key("Dataset", "ml", "faq")


def body(version: str = "1", **status: object) -> dict:
    return {"metadata": {"uid": "u1", "resourceVersion": version}, "status": status}


def pod(name: str, *, attempt: str = "1", labels: dict | None = None) -> dict:
    owner = {OWNER_LABELS["FineTuneExperiment"]: "run", ATTEMPT_LABEL: attempt}
    metadata = {"namespace": "ml", "name": name, "uid": name, "labels": labels or owner}
    return {"kind": "Pod", "metadata": metadata}


def key_of(name: str) -> tuple[str, str, str]:
    return ("Pod", "ml", name)


@pytest.fixture
def cache() -> ObjectCache:
    found = ObjectCache()
    found.store(RUN, body())
    return found


def names(cache: ObjectCache) -> list[str]:
    return [child.name for child in cache.children(RUN, "Pod")]


def test_a_stored_object_comes_back_without_its_managed_fields(cache):
    cache.store(RUN, {"metadata": {"uid": "u1", "resourceVersion": "2", "managedFields": [1]}})
    assert json.loads(cache.text(RUN) or b"")["metadata"] == {"uid": "u1", "resourceVersion": "2"}


@pytest.mark.parametrize(
    ("again", "is_news"),
    [(body("7"), False), (body("8"), True), (body("10"), True), (body("6"), False)],
    ids=["the same version", "a later one", "a later one, as a number", "an earlier one"],
)
def test_only_a_later_version_is_news(cache, again, is_news):
    cache.store(RUN, body("7"))
    assert cache.store(RUN, again) is is_news


def test_a_version_that_is_no_number_is_news_when_it_differs(cache):
    assert cache.store(RUN, body("b"))
    assert cache.store(RUN, body("a"))
    assert not cache.store(RUN, body("a"))


def test_another_object_of_the_same_name_is_news_whatever_its_version(cache):
    cache.store(RUN, body("7"))
    other = body("3")
    other["metadata"]["uid"] = "u2"
    assert cache.store(RUN, other)


def test_the_owner_of_an_experiments_pod_is_the_experiment_though_it_names_its_dataset_too():
    labels = {OWNER_LABELS["Dataset"]: "faq", OWNER_LABELS["FineTuneExperiment"]: "run"}
    assert owner_key(pod("p", labels=labels)) == RUN


def test_a_child_without_an_owners_label_belongs_to_nobody(cache):
    assert cache.store_child(pod("p", labels={"app": "x"})) is None


def test_an_attempt_label_that_is_no_number_breaks_nothing(cache):
    assert cache.store_child(pod("p", attempt="newest")) == RUN


def test_a_vanished_pod_is_kept_until_the_end_of_its_attempt_is_recorded(cache):
    cache.store_child(pod("p"))
    assert cache.forget_child(key_of("p")) == RUN
    cache.store(RUN, body("2", attempt={"number": 1}))
    assert names(cache) == ["p"]
    cache.store(RUN, body("3", attempt={"number": 1, "ended": "PeerLost"}))
    assert names(cache) == []


def test_a_vanished_pod_of_an_earlier_attempt_is_dropped(cache):
    cache.store_child(pod("p"))
    cache.forget_child(key_of("p"))
    cache.store(RUN, body("2", attempt={"number": 2}))
    assert names(cache) == []


def test_a_pod_that_vanishes_twice_wakes_its_owner_once(cache):
    cache.store_child(pod("p"))
    assert cache.forget_child(key_of("p")) == RUN
    assert cache.forget_child(key_of("p")) is None


def test_nothing_is_kept_of_the_vanished_children_of_a_deleted_owner(cache):
    cache.store_child(pod("early"))
    cache.store_child(pod("late"))
    cache.forget_child(key_of("early"))
    cache.forget(RUN)
    assert names(cache) == ["late"]
    assert cache.forget_child(key_of("late")) == RUN
    assert names(cache) == []


def test_vanished_children_are_bounded(cache, monkeypatch):
    monkeypatch.setattr(object_cache, "MOST_DEPARTED", 3)
    for number in range(6):
        cache.store_child(pod(f"p{number}"))
        cache.forget_child(key_of(f"p{number}"))
    assert names(cache) == ["p3", "p4", "p5"]


def test_references_are_replaced_and_end_with_the_waiter(cache):
    cache.set_references(RUN, [DATA])
    assert cache.waiters(DATA) == {RUN}
    cache.set_references(RUN, [])
    assert cache.waiters(DATA) == frozenset()
    cache.set_references(RUN, [DATA])
    cache.forget(RUN)
    assert cache.waiters(DATA) == frozenset()


def test_the_highest_fence_is_found_among_all_statuses(cache):
    cache.store(RUN, body("2", fence=7))
    cache.store(DATA, body("2"))
    assert cache.highest_fence() == 7
