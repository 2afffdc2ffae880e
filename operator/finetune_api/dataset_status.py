"""What the operator and its Job observed of a Dataset."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from finetune_api.meta import ApiModel, Name
from finetune_api.status_parts import ObjectStatus


class DatasetProgress(ApiModel):
    """How far the Job is."""

    percentage: int = Field(ge=0, le=100)
    """percentage of the work done."""
    stage: str = Field(max_length=63)
    """stage is what the Job does now."""
    update_time: datetime | None = None
    """updateTime is when this was read."""


class SourceStatus(ApiModel):
    """What one source turned out to be."""

    name: Name
    """name of the source."""
    revision: str | None = Field(default=None, max_length=200)
    """revision is the commit, version or etag."""
    digest: str | None = Field(default=None, max_length=71)
    """digest of its content."""
    files: int = 0
    """files read."""
    rows: int = 0
    """rows read."""
    bytes: int = 0
    """bytes read."""
    format: str | None = Field(default=None, max_length=32)
    """format as resolved."""


class ColumnStatus(ApiModel):
    """Which column plays a role."""

    role: Name
    """role is the part of a record."""
    column: str = Field(max_length=256)
    """column in the data."""
    detected: bool = False
    """detected is false for a mapping given in the spec."""


class RecordCounts(ApiModel):
    """Counts of records."""

    read: int = 0
    """read from the sources."""
    dropped: int = 0
    """dropped by checks."""
    total: int = 0
    """total in the snapshot."""
    train: int = 0
    """train records."""
    validation: int = 0
    """validation records."""
    test: int = 0
    """test records."""


class Lengths(ApiModel):
    """Lengths of whole records."""

    unit: Literal["words", "tokens"] = "words"
    """unit of the numbers."""
    p50: int = 0
    """p50 is the median."""
    p95: int = 0
    """p95 is the 95th percentile."""
    p99: int = 0
    """p99 is the 99th percentile."""
    max: int = 0
    """max is the longest."""


class Finding(ApiModel):
    """One kind of problem found in the data."""

    id: str = Field(default="", max_length=16)
    """id of the check."""
    reason: Name
    """reason is the finding's name."""
    severity: Literal["Error", "Policy", "Notice"]
    """severity: errors fail, policies were settled by checks."""
    count: int
    """count of records."""
    rows: list[int] = Field(default_factory=list, max_length=5)
    """rows are the first record numbers, counted from 1."""
    message: str = Field(default="", max_length=256)
    """message says what is wrong and what to do."""
    action: str = Field(default="", max_length=63)
    """action taken: Failed, Dropped, Accepted."""


class DatasetStatus(ObjectStatus):
    """What the Dataset is."""

    record_type: str | None = Field(default=None, max_length=63)
    """recordType as resolved."""
    layout: str | None = Field(default=None, max_length=63)
    """layout as resolved."""
    progress: DatasetProgress | None = None
    """progress while running."""
    sources: list[SourceStatus] = Field(default_factory=list, max_length=16)
    """sources as read."""
    columns: list[ColumnStatus] = Field(default_factory=list, max_length=32)
    """columns as mapped."""
    records: RecordCounts | None = None
    """records counted."""
    lengths: Lengths | None = None
    """lengths of records."""
    findings: list[Finding] = Field(default_factory=list, max_length=20)
    """findings of the checks."""
    digest: str | None = Field(default=None, max_length=71)
    """digest is the snapshot's identity."""
    uri: str | None = Field(default=None, max_length=256)
    """uri of the snapshot."""
    size: str | None = Field(default=None, max_length=32)
    """size of the snapshot."""
    license: str | None = Field(default=None, max_length=256)
    """license of the data."""
