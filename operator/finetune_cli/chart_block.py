"""The form of every block of the chart's values."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class ChartBlock(BaseModel):
    """A block of values: camelCase, unknown fields refused, docstrings as descriptions."""

    model_config = ConfigDict(
        extra="forbid", alias_generator=to_camel, use_attribute_docstrings=True
    )
