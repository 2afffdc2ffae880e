"""Each alert exists where it leads to, fires on what it is for, and is silent otherwise."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from alert_series import FIRE, SILENT
from repository.test_chart import CACHE, needs_helm, of_kind, rendered
from repository.test_dashboards import NAME, operator_names, trainer_names
from repository.tree import ROOT

RULES = ROOT / "dashboards" / "alerts.yaml"
ALERTS = [rule for group in json.loads(RULES.read_text())["groups"] for rule in group["rules"]]
NAMES = [rule["alert"] for rule in ALERTS]
PROMTOOL = CACHE / "bin" / "promtool"
needs_promtool = pytest.mark.skipif(
    not PROMTOOL.exists(), reason="no promtool: make cluster-up builds it"
)


def promtool(*words: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROMTOOL, *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("rule", ALERTS, ids=NAMES)
def test_an_alert_says_what_is_wrong_and_leads_to_its_section(rule: dict[str, Any]):
    assert rule["labels"]["severity"] in {"info", "warning", "critical"}
    assert rule["annotations"]["summary"].endswith(".")
    page, _, section = rule["annotations"]["runbook_url"].partition("#")
    titles = re.findall(r"^### (\w+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert section in {title.lower() for title in titles}


def test_every_section_of_an_alert_has_its_alert():
    text = (ROOT / "docs" / "runbook.md").read_text().split("\n## Alerts\n")[1]
    assert re.findall(r"^### (\w+)$", text, re.MULTILINE) == NAMES


@pytest.mark.parametrize("rule", ALERTS, ids=NAMES)
def test_every_metric_of_an_alert_exists(rule: dict[str, Any]):
    for name in NAME.findall(rule["expr"]):
        plain = re.sub(r"_(total|bucket|sum|count)$", "", name)
        assert name in operator_names() or plain in trainer_names(), name


def test_every_alert_has_a_story_that_fires_it_and_one_that_does_not():
    assert list(FIRE) == NAMES
    assert list(SILENT) == NAMES


@needs_promtool
@pytest.mark.parametrize("stories", [FIRE, SILENT], ids=["fire", "silent"])
def test_alerts_fire_when_they_should_and_only_then(stories: dict[str, Any], tmp_path: Path):
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": one, "values": values} for one, values in series.items()],
            "alert_rule_test": [{"eval_time": when, "alertname": name, "exp_alerts": expected}],
        }
        for name, (when, series, expected) in stories.items()
    ]
    path = tmp_path / "tests.yaml"
    path.write_text(json.dumps({"rule_files": [str(RULES)], "tests": tests}))
    done = promtool("test", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_the_rules_are_accepted():
    done = promtool("check", "rules", RULES)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_helm
def test_the_chart_renders_the_rules_with_the_address_of_the_runbook():
    given = "metrics.alerts.enabled=true,metrics.alerts.runbook=https://wiki/runbook"
    assert not of_kind(rendered("--set", given), "PrometheusRule")
    (found,) = of_kind(
        rendered("--set", given, "--api-versions", "monitoring.coreos.com/v1"), "PrometheusRule"
    )
    text = RULES.read_text().replace("docs/runbook.md", "https://wiki/runbook")
    assert found["spec"] == yaml.load(text, yaml.SafeLoader)
