"""The operator, installed once with its chart; a furnished namespace per module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness import kubectl as kube
from harness.cluster import healthy
from harness.namespaces import namespace
from installation import install_operator, operator_log
from scenarios.stories import Ground, dataset, furnish, wait_for_condition


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything below this folder, so that `-m "not cluster"` leaves it out."""
    for item in items:
        item.add_marker(pytest.mark.cluster)


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


@pytest.fixture(scope="module")
def sums(ground: Ground) -> Ground:
    """A namespace whose Dataset `sums` is Ready."""
    kube.apply(dataset(), namespace=ground.namespace)
    wait_for_condition("dataset", "sums", ground.namespace, "Ready")
    return ground


@pytest.fixture(scope="session", autouse=True)
def the_operator_logs_no_unexpected_exception(cluster: None) -> Iterator[None]:
    """After all stories: no traceback and no planted secret in the operator's log."""
    yield
    log = operator_log()
    assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:4000]
