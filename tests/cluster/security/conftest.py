"""A real API server with the chart's objects and users of different rights; no cluster needed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from api_users import ROLES, SYSTEM, TEAM, WRITER, Users, rendered_chart
from harness.bare_api import BareApi, bare_api
from harness.processes import wait_until

from corpus.reference_cases import manifest
from finetune_api.names import EXPORT


@pytest.fixture(scope="session", autouse=True)
def cluster() -> None:
    """Nothing here needs the whole cluster."""


@pytest.fixture(scope="session", autouse=True)
def the_operator_logs_no_unexpected_exception() -> None:
    """No operator is installed here."""


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareApi]:
    """The server with the chart's default objects, and the team's namespace."""
    folder = tmp_path_factory.mktemp("api")
    with bare_api(folder, users=dict.fromkeys(ROLES, ()), controllers=True) as api:
        for name in (SYSTEM, TEAM):
            api.kubectl("create", "namespace", name)
        api.kubectl("label", "namespace", TEAM, "pod-security.kubernetes.io/enforce=restricted")
        for text in (rendered_chart(), WRITER):
            api.kubectl("apply", "--server-side", "-f", "-", text=text)
        for user, role in ROLES.items():
            words = ("create", "rolebinding", user, f"--clusterrole={role}", f"--user={user}")
            api.kubectl(*words, f"--namespace={TEAM}")
        yield api


@pytest.fixture(scope="session")
def users(api: BareApi) -> Iterator[Users]:
    """Its users, once the kinds are served, roles are aggregated and policies are in force."""
    users = Users(api)
    fine, foreign = manifest(EXPORT, {}), manifest(EXPORT, {"compute": {"image": "x"}})
    wait_until("roles are aggregated", lambda: users.try_out("alice", fine).status_code == 201)
    wait_until("policies act", lambda: users.try_out("bob", foreign).status_code == 403)
    yield users
    users.close()
