"""From a pydantic model to a structural schema: each test is a trap."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field, StringConstraints

from finetune_api.meta import ApiModel, ConfigModel, Name, Rule
from finetune_api.structural_schema import (
    RULES,
    SchemaError,
    structural_schema,
    without_defaults,
)


class Colour(StrEnum):
    """What it looks like."""

    RED = "Red"
    GREEN = "Green"


class Leaf(ApiModel):
    """A leaf."""

    colour: Colour = Colour.GREEN
    """colour of the leaf."""
    width: float = Field(default=1.0, gt=0, lt=10)
    """width in metres."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("self.colour != 'Red' || self.width > 1.0", "red leaves are wide, not 'self'"),
    )


class Branch(ApiModel):
    """A branch."""

    leaf: Leaf = Leaf()
    """leaf at the end."""
    others: list[Leaf] | None = Field(default=None, max_length=4)
    """others on the side."""

    rules: ClassVar[tuple[Rule, ...]] = (Rule("!has(self.others) || size(self.others) > 1", "b"),)


class Tree(ApiModel):
    """A tree."""

    branch: Branch = Branch()
    """branch of the tree."""
    spare: Leaf | None = None
    """spare leaf."""
    kind: Literal["Oak"] = "Oak"
    """kind of the tree."""
    names: dict[Name, Annotated[str, StringConstraints(max_length=5)]] | None = Field(
        default=None, max_length=3
    )
    """names by language."""


def schema_of(annotation: Any, **settings: Any) -> dict[str, Any]:
    """Return the schema of a model with one field `it`."""
    namespace = {"__annotations__": {"it": annotation}, "it": Field(**settings), "__doc__": "One."}
    schema = structural_schema(type("Holder", (ApiModel,), {"__module__": __name__, **namespace}))
    node: dict[str, Any] = schema["properties"]["it"]
    return node


TREE = structural_schema(Tree)


def node(*path: str) -> dict[str, Any]:
    """Return a node of the tree's schema."""
    found = TREE
    for part in path:
        found = found[part] if part == "items" else found["properties"][part]
    return found


def test_a_reference_is_inlined_and_the_keys_beside_it_win() -> None:
    assert node("spare")["description"] == "spare leaf."
    assert node("branch", "others", "items")["description"] == "A leaf."
    assert "$ref" not in str(TREE)
    assert "$defs" not in str(TREE)


def test_an_optional_field_is_a_plain_field_that_is_not_required() -> None:
    assert node("spare")["type"] == "object"
    assert "default" not in node("spare")
    assert "required" not in TREE


def test_titles_are_dropped() -> None:
    assert "title" not in str(TREE)


def test_an_exclusive_bound_is_a_bound_with_a_flag() -> None:
    width = node("spare", "width")
    assert width["minimum"] == 0
    assert width["exclusiveMinimum"] is True
    assert width["maximum"] == 10
    assert width["exclusiveMaximum"] is True


def test_a_constant_is_an_enum_of_one_value() -> None:
    assert node("kind") == {
        "description": "kind of the tree.",
        "type": "string",
        "enum": ["Oak"],
        "default": "Oak",
    }


def test_closed_models_do_not_say_so() -> None:
    class Closed(ConfigModel):
        """Closed."""

        it: int = 1

    assert "additionalProperties" not in structural_schema(Closed)


def test_a_map_keeps_its_value_schema_and_its_bound() -> None:
    assert node("names")["additionalProperties"] == {"type": "string", "maxLength": 5}
    assert node("names")["maxProperties"] == 3


def test_the_bounds_of_map_keys_become_a_rule() -> None:
    (rule,) = node("names")[RULES]
    assert rule["rule"] == "self.all(key, key.size() >= 1 && key.size() <= 63)"
    assert "propertyNames" not in node("names")


def test_a_block_that_always_applies_has_the_default_of_an_empty_block() -> None:
    assert node("branch")["default"] == {}
    assert node("branch", "leaf")["default"] == {}
    assert node("branch", "leaf", "colour")["default"] == "Green"


def test_rules_of_a_block_with_a_default_are_lifted_to_where_no_default_is() -> None:
    lifted = {
        "rule": "self.branch.leaf.colour != 'Red' || self.branch.leaf.width > 1.0",
        "message": "red leaves are wide, not 'self'",
        "fieldPath": ".branch.leaf",
    }
    assert lifted in TREE[RULES]
    assert {rule["fieldPath"] for rule in TREE[RULES]} == {".branch", ".branch.leaf"}
    assert RULES not in node("branch")


def test_rules_of_an_optional_block_and_of_items_stay_where_they_are() -> None:
    assert "fieldPath" not in node("spare")[RULES][0]
    assert len(node("branch", "others", "items")[RULES]) == 1


def test_a_word_in_quotes_is_not_taken_for_the_object() -> None:
    class Quoting(ApiModel):
        """Quoting."""

        it: Name = "self"
        rules: ClassVar[tuple[Rule, ...]] = (Rule("self.it != 'self' || oldSelf.it == ''", "m"),)

    class Outer(ApiModel):
        """Outer."""

        inner: Quoting = Quoting()

    (rule,) = structural_schema(Outer)[RULES]
    assert rule["rule"] == "self.inner.it != 'self' || oldSelf.inner.it == ''"


def test_a_model_keeps_the_rules_of_the_model_it_extends() -> None:
    class Bigger(Leaf):
        """Bigger."""

        rules: ClassVar[tuple[Rule, ...]] = (Rule("self.width > 0.0", "wide"),)

    messages = [rule["message"] for rule in structural_schema(Bigger)[RULES]]
    assert messages == ["red leaves are wide, not 'self'", "wide"]


def test_a_status_has_no_defaults() -> None:
    assert "default" not in str(without_defaults(TREE))


class Endless(ApiModel):
    """A model that contains itself."""

    it: Endless | None = None


class Unlike(ApiModel):
    """A block whose default is not that of its fields."""

    leaf: Leaf = Leaf(colour=Colour.RED, width=2.0)


class Demanding(ApiModel):
    """A block with a required field."""

    it: int


class HalfGiven(ApiModel):
    """A block that has a default although a field of it is required."""

    block: Demanding = Demanding(it=1)


class Namespaced(ApiModel):
    """A field name that CEL has taken."""

    namespace: int = 1


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        pytest.param(Endless, "contains itself", id="recursion"),
        pytest.param(Unlike, "differs from the field's", id="a second copy of a default"),
        pytest.param(HalfGiven, "it is required", id="a default of a block that cannot be empty"),
        pytest.param(Namespaced, "CEL cannot spell", id="a reserved word"),
    ],
)
def test_a_model_without_a_structural_schema_is_refused(
    model: type[ApiModel], problem: str
) -> None:
    with pytest.raises(SchemaError, match=problem):
        structural_schema(model)


@pytest.mark.parametrize(
    ("annotation", "settings", "problem"),
    [
        pytest.param(int | str, {}, "a union", id="a union"),
        pytest.param(str, {}, "no maxLength", id="text without a bound"),
        pytest.param(list[int], {}, "no maxItems", id="a list without a bound"),
        pytest.param(dict[Name, int], {}, "no maxProperties", id="a map without a bound"),
        pytest.param(dict[str, int], {"max_length": 2}, "keys of a map", id="keys without a bound"),
        pytest.param(tuple[int, int], {}, "prefixItems", id="a tuple"),
        pytest.param(set[int], {"max_length": 2}, "uniqueItems", id="a set"),
        pytest.param(Any, {}, "no type", id="anything"),
        pytest.param(
            Annotated[str, StringConstraints(max_length=9)],
            {"json_schema_extra": {"pattern": "^(?!a)"}},
            "look around",
            id="look-ahead",
        ),
        pytest.param(
            Annotated[str, StringConstraints(max_length=9)],
            {"json_schema_extra": {"pattern": r"^(a)\1$"}},
            "look around",
            id="a back-reference",
        ),
    ],
)
def test_a_field_without_a_structural_schema_is_refused(
    annotation: Any, settings: dict[str, Any], problem: str
) -> None:
    with pytest.raises(SchemaError, match=problem):
        schema_of(annotation, **settings)


def test_enums_and_times_need_no_bound() -> None:
    from datetime import datetime

    assert schema_of(Colour) == {
        "description": "What it looks like.",
        "enum": ["Red", "Green"],
        "type": "string",
    }
    assert schema_of(datetime) == {"format": "date-time", "type": "string"}


def test_numbers_say_their_width() -> None:
    assert schema_of(int)["format"] == "int64"
    assert schema_of(float)["format"] == "double"
