"""A real API server with the controllers of Kubernetes, and of JobSets where there are any."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from api_users import SYSTEM, rendered_chart
from harness.bare_api import BareApi, bare_api
from harness.controller import JOBSET_SETTINGS, controller

from finetune_api.compute_settings import Engine

JOBSET = os.environ.get("FINETUNE_TEST_JOBSET", "")
WORDS = ("--controllers=*,-pod-garbage-collector-controller,-node-lifecycle-controller",)
"""They delete the pods of nodes that do not exist, and shun nodes without a heartbeat: nodes are
played here."""
NEEDED = (
    "FINETUNE_TEST_JOBSET names no folder of a JobSet controller; "
    "`python3 -m harness controllers` in tests/cluster builds one"
)


@pytest.fixture(scope="session", autouse=True)
def cluster() -> None:
    """Nothing here needs the whole cluster."""


@pytest.fixture(scope="session", autouse=True)
def the_operator_logs_no_unexpected_exception() -> None:
    """Every story looks at the log of its own operator."""


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareApi]:
    """The server with the chart's default objects and the right to JobSets and PodGroups."""
    with ExitStack() as stack:
        api = stack.enter_context(
            bare_api(tmp_path_factory.mktemp("api"), controllers=True, controller_words=WORDS)
        )
        if JOBSET:
            folder = api.folder / "jobset"
            stack.enter_context(controller(Path(JOBSET), JOBSET_SETTINGS, api.kubeconfig(), folder))
        api.kubectl("create", "namespace", SYSTEM)
        chart = rendered_chart("--set", "settings.jobSets=true,settings.volcano=true")
        api.kubectl("apply", "--server-side", "-f", "-", text=chart)
        api.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        api.stop_server()  # watches of a CRD just installed were seen to stay silent
        api.start_server()
        yield api


@pytest.fixture(
    params=[
        Engine.JOB,
        pytest.param(Engine.JOB_SET, marks=pytest.mark.skipif(not JOBSET, reason=NEEDED)),
    ],
    ids=str,
)
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine whose controller is there."""
    found: Engine = request.param
    return found
