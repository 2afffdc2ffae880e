"""Values of the chart: documented, used, checked against one schema."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from finetune_cli.chart_files import CHART, crd_template
from finetune_cli.chart_values import SET_BY_THE_CHART, ChartValues, values_schema
from finetune_operator.settings import Settings
from repository.tree import ROOT

CHART_FOLDER = ROOT / CHART
VALUES = CHART_FOLDER / "values.yaml"


def test_the_values_fit_their_own_schema_and_name_every_field_of_it():
    values = yaml.load(VALUES.read_text(), yaml.SafeLoader)
    settings = values["settings"] | {"trainerImage": "x"}
    ChartValues.model_validate(values | {"settings": settings})
    assert set(values) == set(values_schema()["properties"]) - {"global"}


@pytest.mark.parametrize(
    "values", [{"unknown": 1}, {"scope": "Everywhere"}, {"image": {"repo": "x"}}], ids=str
)
def test_wrong_values_are_refused(values: dict[str, Any]):
    given = yaml.load(VALUES.read_text(), yaml.SafeLoader)
    with pytest.raises(ValidationError):
        ChartValues.model_validate(given | values)


def test_every_object_of_the_values_schema_refuses_unknown_fields():
    schema = values_schema()
    objects = [schema, *schema["$defs"].values()]
    named = [one for one in objects if "properties" in one]
    assert named
    assert all(one["additionalProperties"] is False for one in named)


def test_settings_that_follow_from_other_values_cannot_be_given_twice():
    offered = set(values_schema()["$defs"]["Settings"]["properties"])
    declared = {field.alias or name for name, field in Settings.model_fields.items()}
    assert declared - offered == SET_BY_THE_CHART


def test_every_value_is_used_by_a_template():
    text = "".join(path.read_text() for path in CHART_FOLDER.rglob("templates/**/*.*"))
    for name in yaml.load(VALUES.read_text(), yaml.SafeLoader):
        assert re.search(rf"Values\.{name}\b", text), name


def test_every_value_is_explained_in_the_schema():
    for name, node in values_schema()["properties"].items():
        assert node.get("description"), name


def test_a_description_that_helm_would_evaluate_is_refused():
    with pytest.raises(ValueError, match="reword"):
        crd_template("\nmetadata:\n  name: x\ndescription: '{{ .Values }}'\n")
