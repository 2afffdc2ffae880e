"""Every panel says what it shows, and asks for metrics that exist."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from prometheus_client import Counter, Gauge, Histogram

from finetune_operator import metrics
from repository.test_chart import CACHE
from repository.tree import ROOT

BOARDS = sorted((ROOT / "dashboards").glob("*.json"))
PROMTOOL = CACHE / "bin" / "promtool"
UNITS = {"none", "string", "s", "sci", "cps", "bytes", "percentunit"}
KINDS = {"timeseries", "stat", "gauge", "row"}
NAME = re.compile(r"finetune_\w+")


def panels(board: Path) -> list[dict]:
    return [one for one in json.loads(board.read_text())["panels"] if one["type"] != "row"]


def expressions() -> list[tuple[str, str]]:
    return [
        (panel["title"], target["expr"])
        for board in BOARDS
        for panel in panels(board)
        for target in panel["targets"]
    ]


def operator_names() -> set[str]:
    return {
        sample
        for value in vars(metrics).values()
        if isinstance(value, Counter | Gauge | Histogram)
        for family in value.describe()
        for sample in (family.name, f"{family.name}_total", f"{family.name}_bucket")
    }


def trainer_names() -> set[str]:
    """Return the names the trainer's board is asked to show; they stand in its code as texts."""
    source = "".join(
        path.read_text() for path in (ROOT / "trainer_image" / "finetune_trainer").glob("*.py")
    )
    return {f"finetune_{name}" for name in re.findall(r'"(train_[a-z_]+)"', source)}


@pytest.mark.parametrize("board", BOARDS, ids=lambda path: path.stem)
def test_every_panel_has_title_description_unit_and_legend(board: Path):
    assert panels(board)
    for panel in panels(board):
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["type"] in KINDS, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        assert all(target["legendFormat"] for target in panel["targets"])
    titles = [panel["title"] for panel in panels(board)]
    assert len(titles) == len(set(titles))


VARIABLES = {
    "experiment": (("namespace", "experiment"), 'namespace="$namespace",experiment="$experiment"'),
    "fleet": (("namespace",), 'namespace=~"$namespace"'),
    "operator": ((), ""),
}
"""Variables of each board beside its data source, and the matchers of all its queries."""


@pytest.mark.parametrize("board", BOARDS, ids=lambda path: path.stem)
def test_what_is_looked_at_is_chosen_by_variables(board: Path):
    content, (wanted, matchers) = json.loads(board.read_text()), VARIABLES[board.stem]
    variables = [one["name"] for one in content["templating"]["list"]]
    assert variables == ["datasource", *wanted]
    for panel in panels(board):
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "$datasource"
            for name in NAME.findall(target["expr"]):
                assert not matchers or f"{name}{{{matchers}" in target["expr"]


def test_every_metric_of_the_operator_is_on_a_board_or_in_an_alert():
    shown = " ".join(expression for _, expression in expressions())
    shown += (ROOT / "dashboards" / "alerts.yaml").read_text()
    families = {
        family.name
        for value in vars(metrics).values()
        if isinstance(value, Counter | Gauge | Histogram)
        for family in value.describe()
    }
    assert {name for name in families if name not in shown} == set()


@pytest.mark.parametrize("board", BOARDS, ids=lambda path: path.stem)
def test_panels_do_not_overlap_and_fit_the_grid(board: Path):
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(board.read_text())["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        taken |= cells
    numbers = [panel["id"] for panel in json.loads(board.read_text())["panels"]]
    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize(("title", "expression"), expressions())
def test_every_metric_of_a_query_exists(title: str, expression: str):
    found = NAME.findall(expression)
    assert found, title
    for name in found:
        plain = re.sub(r"_(total|bucket|sum|count)$", "", name)
        known = name in operator_names() or plain in trainer_names()
        assert known, f"{title}: nobody exports {name}"


def test_rates_use_the_interval_of_the_dashboard():
    for title, expression in expressions():
        for window in re.findall(r"rate\([^[]*\[([^]]+)\]", expression):
            assert window == "$__rate_interval", title


@pytest.mark.skipif(not PROMTOOL.exists(), reason="no promtool: make cluster-up builds it")
def test_every_query_is_promql(tmp_path: Path):
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "1m")}
        for number, (_, expression) in enumerate(expressions())
    ]
    path = tmp_path / "rules.json"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run([PROMTOOL, "check", "rules", path], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
