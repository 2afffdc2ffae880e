"""GitOps tools judge health as docs/gitops.md says: its own snippets, on what the operator writes.

The script runs in the Lua that Argo CD itself embeds.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import cel
import pytest
import yaml

from builders import EXPERIMENT, NOW
from finetune_api.conditions import CONDITION_TYPES
from finetune_operator.status import Situation, judged, verdicts
from repository.test_chart import CACHE
from repository.tree import ROOT

LUA = CACHE / "bin" / "glua"
PAGE = (ROOT / "docs" / "gitops.md").read_text()
SNIPPETS = [
    yaml.load(text, yaml.SafeLoader) for text in re.findall(r"```yaml\n(.+?)```", PAGE, re.DOTALL)
]
HEALTH = {
    Situation.UNDER_WAY: ("Progressing", "Current"),
    Situation.STOPPING: ("Progressing", "Current"),
    Situation.SUSPENDED: ("Suspended", "Current"),
    Situation.FINISHED: ("Healthy", "Current"),
    Situation.REFUSED: ("Degraded", "Failed"),
    Situation.FAILED: ("Degraded", "Failed"),
}
"""HEALTH as Argo CD sees it, and as Flux does where being accepted is enough."""
needs_lua = pytest.mark.skipif(not LUA.exists(), reason="no glua: make cluster-up builds it")


def written(situation: Situation, *, generation: int = 3) -> dict[str, Any]:
    """Return an object whose status was written for its third generation."""
    said = verdicts(situation, "Reason", 'what "it" says\nin two lines')
    types = CONDITION_TYPES[EXPERIMENT]
    conditions = judged([], said, types=types, generation=3, now=NOW)
    told = [json.loads(one.model_dump_json(by_alias=True)) for one in conditions]
    status = {"observedGeneration": 3, "conditions": told}
    return {"metadata": {"name": "run", "generation": generation}, "status": status}


def lua(value: Any) -> str:
    """Return a value of JSON as Lua writes it."""
    if isinstance(value, dict):
        return "{" + ",".join(f"[{lua(key)}]={lua(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "{" + ",".join(map(lua, value)) + "}"
    if isinstance(value, str):
        return '"' + value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") + '"'
    return "nil" if value is None else json.dumps(value)


def argo(found: dict[str, Any], folder: Path) -> tuple[str, str]:
    """Return health and message that the documented script sees in an object."""
    ((kinds, custom),) = yaml.load(
        SNIPPETS[0]["data"]["resource.customizations"], yaml.SafeLoader
    ).items()
    assert kinds == "finetune.dev/*"
    script = folder / "health.lua"
    script.write_text(
        f"obj = {lua(found)}\nlocal function health()\n{custom['health.lua']}\nend\n"
        "local hs = health()\nprint(hs.status)\nprint(hs.message)\n"
    )
    done = subprocess.run([LUA, script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    status, _, message = done.stdout.partition("\n")
    return status, message.rstrip("\n")


def flux(found: dict[str, Any]) -> str:
    """Return what Flux concludes; it waits while an expression names what is absent."""
    (rule,) = SNIPPETS[1]["healthCheckExprs"]
    for name in ("failed", "current"):
        try:
            if cel.evaluate(rule[name], found):
                return name.capitalize()
        except (RuntimeError, KeyError):
            continue
    return "InProgress"


@needs_lua
@pytest.mark.parametrize("situation", Situation)
def test_argo_cd_sees_what_the_table_says(situation: Situation, tmp_path: Path):
    health, message = argo(written(situation), tmp_path)
    assert health == HEALTH[situation][0]
    assert message == 'Reason: what "it" says\nin two lines'


@needs_lua
@pytest.mark.parametrize(
    "found",
    [
        {"metadata": {"generation": 1}},
        {"metadata": {"generation": 1}, "status": {}},
        written(Situation.FINISHED, generation=4),
        written(Situation.FAILED, generation=4),
    ],
    ids=["new", "empty", "edited after its end", "edited after its failure"],
)
def test_argo_cd_waits_for_the_operator(found: dict[str, Any], tmp_path: Path):
    assert argo(found, tmp_path) == ("Progressing", "waiting for the operator")


@pytest.mark.parametrize("situation", Situation)
def test_flux_takes_what_was_accepted_for_healthy(situation: Situation):
    assert flux(written(situation)) == HEALTH[situation][1]


def test_flux_waits_for_the_operator():
    assert flux({"metadata": {"generation": 1}}) == "InProgress"
    assert flux(written(Situation.UNDER_WAY, generation=4)) == "InProgress"


def test_every_situation_is_judged():
    assert set(HEALTH) == set(Situation)
