"""The operator, installed once with its chart; a furnished namespace per module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness import kubectl as kube
from harness.cluster import healthy
from harness.namespaces import namespace
from installation import install_operator, operator_log
from scenarios.after_faults import KIND, STEPS
from scenarios.stories import (
    Ground,
    dataset,
    experiment,
    furnish,
    wait_for_condition,
    weights_digest,
)

LONGEST_SECONDS = 1200
"""Of one story, what its fixtures wait for included: this machine may be busy."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything below this folder, so that `-m "not cluster"` leaves it out."""
    for item in items:
        item.add_marker(pytest.mark.cluster)
        item.add_marker(pytest.mark.timeout(LONGEST_SECONDS))


@pytest.fixture(scope="session", autouse=True)
def cluster() -> None:
    """Refuse to start without the cluster, in one sentence."""
    if not healthy():
        pytest.exit("the test cluster is not up: run `make cluster-up images`", returncode=3)


@pytest.fixture(scope="session")
def operator(cluster: None) -> None:
    """The operator, watching every namespace."""
    install_operator()


@pytest.fixture(scope="module")
def ground(operator: None, request: pytest.FixtureRequest) -> Iterator[Ground]:
    """A furnished namespace for the stories of one module."""
    prefix = request.module.__name__.rsplit(".", 1)[-1].removeprefix("test_").replace("_", "-")[:20]
    with namespace(prefix) as name:
        yield Ground(name, furnish(name))


@pytest.fixture(scope="session")
def sums(operator: None) -> Iterator[Ground]:
    """A namespace for the runs of all modules; its Dataset `sums` is Ready."""
    with namespace("sums") as name:
        ground = Ground(name, furnish(name))
        kube.apply(dataset(), namespace=name)
        wait_for_condition("dataset", "sums", name, "Ready")
        yield ground


@pytest.fixture(scope="session")
def undisturbed(sums: Ground) -> str:
    """The digest of the weights of a run that nothing happened to."""
    kube.apply(experiment("calm", steps=STEPS), namespace=sums.namespace)
    body = wait_for_condition(KIND, "calm", sums.namespace, "Complete")
    assert body["status"]["attempt"]["number"] == 1
    return weights_digest(sums.files, body)


@pytest.fixture(scope="session", autouse=True)
def the_operator_logs_no_unexpected_exception(cluster: None) -> Iterator[None]:
    """After all stories: no traceback and no planted secret in the operator's log."""
    yield
    log = operator_log()
    assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:4000]
