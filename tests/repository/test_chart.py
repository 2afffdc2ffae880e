"""The Helm chart: what it renders in both scopes, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_cli.chart_files import CHART
from finetune_operator.cluster.api_transport import RIGHTS
from finetune_operator.settings import load_settings

ROOT = Path(__file__).parents[2]
CHART_FOLDER = ROOT / CHART
CACHE = Path(os.environ.get("FINETUNE_CACHE") or Path.home() / ".cache" / "finetune-operator")
HELM = CACHE / "bin" / "helm"
SCOPES = {
    "cluster": ("--set", "crds.install=false"),
    "namespaced": (
        *("--set", "crds.install=false", "--set", "scope=Namespaced"),
        *("--set", "watchNamespaces={team-a,team-b}"),
    ),
}
MONITORS = (
    "--set",
    "metrics.serviceMonitor.enabled=true,metrics.podMonitor.enabled=true",
)
needs_helm = pytest.mark.skipif(not HELM.exists(), reason="no helm: make cluster-up builds it")


def helm(*arguments: str) -> str:
    command = [HELM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(done.stderr)
    return done.stdout


def template(*settings: str) -> str:
    return helm("template", "ft", str(CHART_FOLDER), "-n", "finetune-system", *settings)


def rendered(*settings: str) -> list[dict[str, Any]]:
    return [one for one in yaml.load_all(template(*settings), yaml.SafeLoader) if one]


def of_kind(objects: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [one for one in objects if one["kind"] in kinds]


def granted(rules: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def wanted(scope: str, *switched_on: str) -> set[tuple[str, str, str]]:
    return {
        (right.group, resource, verb)
        for right in RIGHTS
        if right.scope == scope and (not right.setting or right.setting in switched_on)
        for resource in right.resources
        for verb in right.verbs
    }


@needs_helm
def test_the_chart_passes_helm_lint():
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART_FOLDER))


@needs_helm
@pytest.mark.parametrize("scope", SCOPES)
def test_a_render_is_the_golden_one(scope: str, golden: Callable[[str, str], None]):
    golden(f"chart/{scope}.yaml", template(*SCOPES[scope], "--set", "dashboards.enabled=false"))


@needs_helm
@pytest.mark.parametrize("scope", SCOPES)
def test_two_renders_are_equal(scope: str):
    assert template(*SCOPES[scope]) == template(*SCOPES[scope])


@needs_helm
def test_the_whole_cluster_is_watched_by_one_cluster_role_with_exactly_our_rights():
    objects = rendered(*SCOPES["cluster"])
    roles = [
        one
        for one in of_kind(objects, "ClusterRole")
        if not one["metadata"]["name"].endswith(("-viewer", "-editor"))
    ]
    assert [granted(role["rules"]) for role in roles] == [wanted("watched")]
    assert [granted(role["rules"]) for role in of_kind(objects, "Role")] == [wanted("own")]


@needs_helm
@pytest.mark.parametrize("setting", sorted({right.setting for right in RIGHTS} - {""}))
def test_a_right_that_a_feature_needs_comes_with_the_feature(setting: str):
    chosen = (*SCOPES["namespaced"], "--set", f"settings.{setting}=true")
    roles = {one["metadata"]["namespace"]: one for one in of_kind(rendered(*chosen), "Role")}
    for name in ("team-a", "team-b"):
        assert granted(roles[name]["rules"]) == wanted("watched", setting)
        assert wanted("watched", setting) > wanted("watched")


@needs_helm
def test_named_namespaces_are_watched_by_a_role_each_and_no_cluster_role():
    objects = rendered(*SCOPES["namespaced"])
    roles = {
        one["metadata"]["namespace"]: granted(one["rules"]) for one in of_kind(objects, "Role")
    }
    assert roles == {
        "team-a": wanted("watched"),
        "team-b": wanted("watched"),
        "finetune-system": wanted("own"),
    }
    assert not of_kind(objects, "ClusterRoleBinding")


@needs_helm
def test_no_role_has_secrets_wildcards_or_exec():
    for scope in SCOPES.values():
        for role in of_kind(rendered(*scope), "Role", "ClusterRole"):
            for group, resource, verb in granted(role["rules"]):
                assert "*" not in (group, resource, verb)
                assert resource not in {"secrets", "nodes", "pods/exec", "persistentvolumeclaims"}


@needs_helm
@pytest.mark.parametrize("scope", SCOPES)
def test_the_operator_reads_the_settings_that_the_chart_writes(scope: str, tmp_path: Path):
    storage = ("--set", "settings.defaultStorage.volumeClaim.claimName=artifacts")
    (config,) = of_kind(
        rendered(*SCOPES[scope], *storage, "--set", "dashboards.enabled=false"), "ConfigMap"
    )
    path = tmp_path / "settings.json"
    path.write_text(config["data"]["settings.json"])
    settings = load_settings({"FINETUNE_OPERATOR_CONFIG": str(path)})
    expected = ("team-a", "team-b") if scope == "namespaced" else ()
    assert settings.namespaces == expected
    assert settings.lease_namespace == "finetune-system"
    assert settings.trainer_image.startswith("finetune-trainer:")
    assert settings.default_storage is not None


@needs_helm
def test_the_pod_is_restricted():
    (deployment,) = of_kind(rendered(), "Deployment")
    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"livenessProbe", "readinessProbe", "resources"} <= set(container)


@needs_helm
def test_nothing_is_a_hook_or_a_webhook():
    text = template()
    assert "helm.sh/hook" not in text
    assert "WebhookConfiguration" not in text


@needs_helm
@pytest.mark.parametrize(
    ("setting", "expected"),
    [("crds.keep=true", {"helm.sh/resource-policy": "keep"}), ("crds.keep=false", None)],
)
def test_crds_outlive_the_release_unless_told_otherwise(setting: str, expected: Any):
    crds = of_kind(rendered("--set", setting), "CustomResourceDefinition")
    assert len(crds) == 3
    assert all(one["metadata"].get("annotations") == expected for one in crds)


@needs_helm
def test_the_crds_of_the_chart_are_the_crds_of_the_repository():
    found = of_kind(rendered("--set", "crds.keep=false"), "CustomResourceDefinition")
    plain = [
        yaml.load(path.read_text(), yaml.SafeLoader) for path in sorted((ROOT / "crds").iterdir())
    ]
    assert sorted(found, key=str) == sorted(plain, key=str)


@needs_helm
def test_monitors_are_rendered_only_where_their_kinds_exist():
    kinds = {"ServiceMonitor", "PodMonitor"}
    assert not of_kind(rendered(*MONITORS), *kinds)
    assert not of_kind(rendered("--api-versions", "monitoring.coreos.com/v1"), *kinds)
    found = of_kind(rendered(*MONITORS, "--api-versions", "monitoring.coreos.com/v1"), *kinds)
    assert {one["kind"] for one in found} == kinds


@needs_helm
@pytest.mark.parametrize("scope", SCOPES)
def test_policies_act_in_the_namespaces_that_are_watched(scope: str):
    chosen = ("--set", "admission.references.namespaceSelector.matchLabels.team=a")
    bindings = of_kind(rendered(*SCOPES[scope], *chosen), "ValidatingAdmissionPolicyBinding")
    name = "kubernetes.io/metadata.name"
    watched = [{"key": name, "operator": "In", "values": ["team-a", "team-b"]}]
    everywhere = {"matchExpressions": watched} if scope == "namespaced" else {}
    for binding in bindings:
        selector = binding["spec"].get("matchResources", {}).get("namespaceSelector", {})
        own = {"matchLabels": {"team": "a"}} if "-access" in binding["metadata"]["name"] else {}
        assert selector == everywhere | own
    assert len(bindings) == len({one["spec"]["policyName"] for one in bindings}) == 10


@needs_helm
def test_every_policy_can_be_switched_off():
    off = [f"admission.{name}.enabled=false" for name in ("references", "podOverrides", "owners")]
    objects = rendered("--set", ",".join(off))
    kinds = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
    assert not of_kind(objects, *kinds)


@needs_helm
def test_every_dashboard_reaches_the_sidecar_unchanged():
    boards = [
        one
        for one in of_kind(rendered(), "ConfigMap")
        if one["metadata"]["labels"].get("grafana_dashboard") == "1"
    ]
    found = {name: json.loads(text) for one in boards for name, text in one["data"].items()}
    assert found == {
        f"finetune-{path.name}": json.loads(path.read_text())
        for path in (ROOT / "dashboards").glob("*.json")
    }


@needs_helm
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("scope=Everywhere", "scope"),
        ("imag.tag=x", "imag"),
        ("settings.workers=0", "workers"),
        ("settings.leaseName=x", "leaseName"),
        ("watchNamespaces={a}", "watchNamespaces: does nothing with scope Cluster"),
        ("admission.endpoints.allowed={https://lake.example}", "/admission/endpoints/allowed"),
        ("admission.podSettings.images={registry.example}", "/admission/podSettings/images"),
        ("admission.ceilings.enabled=true", "admission.ceilings: enabled without a ceiling"),
    ],
)
def test_helm_itself_refuses_wrong_values(setting: str, message: str):
    with pytest.raises(AssertionError, match=message):
        template("--set", setting)


@needs_helm
def test_every_optional_value_of_the_pod_lands_in_it(tmp_path: Path):
    values = {
        "podAnnotations": {"a": "b"},
        "podLabels": {"c": "d"},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [{"maxSkew": 1}],
        "priorityClassName": "high",
        "imagePullSecrets": ["registry"],
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy"}],
        "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/ca"}],
        "image": {"repository": "r", "digest": f"sha256:{'a' * 64}"},
        "serviceAccount": {"annotations": {"e": "f"}},
    }
    path = tmp_path / "values.json"
    path.write_text(json.dumps(values))
    (deployment,) = of_kind(rendered("-f", str(path)), "Deployment")
    template_ = deployment["spec"]["template"]
    pod, (container,) = template_["spec"], template_["spec"]["containers"]
    assert template_["metadata"]["annotations"]["a"] == "b"
    assert template_["metadata"]["labels"]["c"] == "d"
    for name in ("nodeSelector", "tolerations", "affinity", "topologySpreadConstraints"):
        assert pod[name] == values[name]
    assert pod["priorityClassName"] == "high"
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert values["extraEnv"][0] in container["env"]
    assert values["extraVolumes"][0] in pod["volumes"]
    assert values["extraVolumeMounts"][0] in container["volumeMounts"]
    assert container["image"] == f"r@sha256:{'a' * 64}"
