"""Cases of admission put to a real API server, as kinds of a group that no operator watches."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from kubernetes import client

from corpus.admission_case import Case
from finetune_api.crds import crds
from finetune_api.names import GROUP, PLURALS, VERSION

TRIAL_GROUP = f"admission.{GROUP}"
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_FOLLOWING = ("some validation rules were not checked", "Checked value must be of type")
"""What the server says on top of a problem that it has named already."""


@dataclass(frozen=True)
class Answer:
    """What the API server said; `problems` are pairs of field and message."""

    accepted: bool
    problems: tuple[tuple[str, str], ...] = ()
    stored: dict[str, Any] | None = None

    @property
    def spec(self) -> dict[str, Any]:
        """Return the spec as the server stores it, defaults included."""
        spec: dict[str, Any] = (self.stored or {}).get("spec", {})
        return spec

    @property
    def fields(self) -> set[str]:
        """Return the fields that were refused."""
        return {field for field, _ in self.problems}


def trial_crds() -> list[dict[str, Any]]:
    """Return the generated CRDs with nothing changed but group and names.

    Other names, so that `kubectl get dataset` still finds the operator's kind meanwhile.
    """
    definitions = deepcopy(list(crds().values()))
    for definition in definitions:
        spec = definition["spec"]
        plural, singular = (f"trial{spec['names'][form]}" for form in ("plural", "singular"))
        names = {"kind": spec["names"]["kind"], "plural": plural, "singular": singular}
        definition["metadata"]["name"] = f"{plural}.{TRIAL_GROUP}"
        spec.update(group=TRIAL_GROUP, names=names)
    return definitions


class AdmissionServer:
    """Creates and updates in one namespace, field validation strict, creates as a dry run."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self._api = api
        self._namespace = namespace

    def define(self, definition: dict[str, Any]) -> Answer:
        """Apply a CRD."""
        path = f"{_CRDS}/{definition['metadata']['name']}"
        return self._ask(
            "PATCH", path, definition, fieldManager="test", content="application/apply-patch+yaml"
        )

    def defined(self, definition: dict[str, Any]) -> bool:
        """Tell whether a CRD is served."""
        answer = self._ask("GET", f"{_CRDS}/{definition['metadata']['name']}", None)
        # A definition just created has `conditions: null`.
        conditions = (answer.stored or {}).get("status", {}).get("conditions") or []
        return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)

    def forget(self, definition: dict[str, Any]) -> None:
        """Delete a CRD."""
        self._ask("DELETE", f"{_CRDS}/{definition['metadata']['name']}", None)

    def create(self, manifest: dict[str, Any]) -> Answer:
        """Ask for an object, as a dry run."""
        path = self._path(manifest["kind"])
        return self._ask("POST", path, _of_trial_group(manifest), dryRun="All")

    def answer(self, case: Case) -> Answer:
        """Put one case to the server."""
        path, stored = self._path(case.kind), case.stored_manifest()
        if stored is None:
            return self.create(case.manifest())
        one = f"{path}/{case.name}"
        existing = self._ask("POST", path, _of_trial_group(stored)).stored
        try:
            if case.stored_status:
                existing = {**(existing or {}), "status": case.stored_status}
                existing = self._ask("PUT", f"{one}/status", existing).stored
            assert existing is not None, f"the stored object of {case.says!r} is refused"
            if case.status is not None:
                return self._ask("PUT", f"{one}/status", {**existing, "status": case.status})
            changed = {**_of_trial_group(case.manifest()), "metadata": existing["metadata"]}
            return self._ask("PUT", one, changed)
        finally:
            self._ask("DELETE", one, None)

    def _path(self, kind: str) -> str:
        scope = f"/apis/{TRIAL_GROUP}/{VERSION}/namespaces/{self._namespace}"
        return f"{scope}/trial{PLURALS[kind]}"

    def _ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        content: str = "application/json",
        **query: str,
    ) -> Answer:
        strict = {"fieldValidation": "Strict"} if body is not None else {}
        request = self._api.param_serialize(
            method,
            path,
            query_params=list({**strict, **query}.items()),
            header_params={"Content-Type": content, "Accept": "application/json"},
            body=body,
            auth_settings=["BearerToken"],
        )
        response = self._api.call_api(*request)
        answer = json.loads(response.read())
        if response.status >= 400:
            return Answer(accepted=False, problems=_problems(answer))
        return Answer(accepted=True, stored=answer)


def _of_trial_group(manifest: dict[str, Any]) -> dict[str, Any]:
    return {**manifest, "apiVersion": f"{TRIAL_GROUP}/{VERSION}"}


def _problems(status: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return field and message of each cause; strict decoding only has one sentence for all."""
    causes = status.get("details", {}).get("causes", [])
    if not causes:
        parts = status["message"].split('unknown field "')[1:]
        return tuple((part.split('"')[0], "unknown field") for part in parts) or (
            ("", status["message"]),
        )
    return tuple(
        (cause.get("field", ""), cause["message"])
        for cause in causes
        if not any(words in cause["message"] for words in _FOLLOWING)
    )
