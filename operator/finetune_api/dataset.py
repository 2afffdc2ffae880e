"""The Dataset: where rows come from, what they mean, how they are checked and split."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from finetune_api.compute_settings import Compute, Scheduling
from finetune_api.dataset_sources import Source
from finetune_api.dataset_status import (
    DatasetStatus,
)
from finetune_api.meta import ApiModel, Column, Name, ObjectMeta, Quantity, Rule
from finetune_api.network_policy import NetworkPolicy
from finetune_api.pod_overrides import PodOverrides
from finetune_api.run_policy import RunPolicy
from finetune_api.storage import Hub, Storage


class RecordType(StrEnum):
    """What a record is."""

    AUTO = "Auto"
    CONVERSATION = "Conversation"
    TEXT = "Text"


class Layout(StrEnum):
    """How rows spell a record."""

    AUTO = "Auto"
    MESSAGES = "Messages"
    COLUMNS = "Columns"
    PARENT_CHAIN = "ParentChain"
    PLAIN_TEXT = "PlainText"


class Role(StrEnum):
    """Who speaks in a turn."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class Columns(ApiModel):
    """Column mapping; what is absent is detected from a documented list of names."""

    messages: Column | None = None
    """messages is the column with the list of turns."""
    system: str | None = Field(default=None, max_length=256)
    """system is the column with the system text; "" = none although one would be detected."""
    prompt: list[Column] | None = Field(default=None, min_length=1, max_length=16)
    """prompt columns, joined in this order; blank parts are skipped with their separator."""
    prompt_separator: str = Field(default="\n\n", max_length=256)
    """promptSeparator between prompt columns, literally."""
    answer: Column | None = None
    """answer is the column with the answer."""
    text: Column | None = None
    """text is the column with the document."""
    id: str | None = Field(default=None, max_length=256)
    """id is the column with the row's id; "" = none although one would be detected."""
    parent_id: str | None = Field(default=None, max_length=256)
    """parentId is the column with the id of the turn before; "" = none although one would be
    detected."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.parentId) || self.parentId == '' "
            "|| (has(self.id) && self.id != self.parentId)",
            "parentId needs id, another column that names each row",
        ),
    )


class SplitShares(ApiModel):
    """Division of records without an own split; groups and exact copies never cross."""

    validation: float = Field(default=0.05, ge=0, le=0.95)
    """validation is the share of groups held out; 0 = none."""
    test: float = Field(default=0.0, ge=0, le=0.95)
    """test is the share of groups held out for the final number; 0 = none."""
    max_validation_rows: int | None = Field(default=None, ge=1)
    """maxValidationRows bounds the validation split."""
    column: Column | None = None
    """column holds train, validation or test and replaces the shares."""
    group_by: Column | None = None
    """groupBy keeps rows of equal value together."""
    seed: int = Field(default=1337, ge=0, le=2147483647)
    """seed of the hash order; appending rows hardly moves old ones."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.validation + self.test < 1.0",
            "nothing is left for training; lower validation or test",
        ),
    )


class Policy(StrEnum):
    """What happens to a record with a finding."""

    FAIL = "Fail"
    DROP = "Drop"


class LenientPolicy(StrEnum):
    """What happens to a record with a finding that may be accepted."""

    FAIL = "Fail"
    DROP = "Drop"
    ACCEPT = "Accept"


class Checks(ApiModel):
    """What to do about findings; all findings of a pass are reported together."""

    policy: Policy = Policy.FAIL
    """policy is the rule for every check below that is not set."""
    invalid_row: Policy | None = None
    """invalidRow: a row that cannot be read, or a cell of the wrong type."""
    empty_answer: Policy | None = None
    """emptyAnswer: an answer without text."""
    empty_prompt: Policy | None = None
    """emptyPrompt: a prompt or document without text."""
    no_answer_turn: Policy | None = None
    """noAnswerTurn: a conversation without an assistant turn."""
    turn_order: LenientPolicy | None = None
    """turnOrder: roles out of order; Accept keeps the record."""
    unknown_parent: LenientPolicy | None = None
    """unknownParent: a parent id without a row; Accept makes the row a root."""
    row_too_large: Policy | None = None
    """rowTooLarge: a record above maxRowSize."""
    duplicates: LenientPolicy = LenientPolicy.ACCEPT
    """duplicates: exact copies inside the data; Drop keeps the first."""
    max_dropped_share: float = Field(default=0.1, ge=0, le=1)
    """maxDroppedShare fails with TooFewRows when more rows than this are dropped."""
    min_rows: int = Field(default=2, ge=1, le=1000000)
    """minRows is the fewest training records."""
    max_row_size: Quantity = "8Mi"
    """maxRowSize is the largest record."""


class Limits(ApiModel):
    """Guards against oversized input."""

    max_size: Quantity = "200Gi"
    """maxSize bounds the bytes read after unpacking."""


class Statistics(ApiModel):
    """Content of the report."""

    sample_rows: int = Field(default=200, ge=0, le=10000)
    """sampleRows rendered in the report; never copied to status."""


class DatasetSpec(ApiModel):
    """What data is wanted."""

    record_type: RecordType = RecordType.AUTO
    """recordType is what a record is; Auto = Conversation with answers or turns, else Text."""
    layout: Layout = Layout.AUTO
    """layout is how rows spell a record; Auto = detected from the columns."""
    sources: list[Source] = Field(min_length=1, max_length=16)
    """sources are where data comes from; exactly one connector per item."""
    columns: Columns | None = None
    """columns maps columns to parts of a record."""
    roles: dict[Annotated[str, StringConstraints(max_length=63)], Role] | None = Field(
        default=None, max_length=32
    )
    """roles maps spellings in the data to system, user, assistant or tool."""
    split: SplitShares = SplitShares()
    """split is the division of records without an own split."""
    checks: Checks = Checks()
    """checks decide what happens to findings."""
    limits: Limits = Limits()
    """limits guard against oversized input."""
    statistics: Statistics = Statistics()
    """statistics is the content of the report."""
    license: str | None = Field(default=None, max_length=256)
    """license of the data, for the model card."""
    hub: Hub = Hub()
    """hub is access to the Hugging Face Hub."""
    storage: Storage = Storage()
    """storage is where the snapshot and report are written; absent = operator's default."""
    compute: Compute = Compute()
    """compute is what the pod runs and needs."""
    scheduling: Scheduling = Scheduling()
    """scheduling is where the pod is placed."""
    network_policy: NetworkPolicy = NetworkPolicy()
    """networkPolicy is who may connect to the pods, and where these may connect to."""
    pod_overrides: PodOverrides | None = None
    """podOverrides is part of a pod template, merged over every pod of the object."""
    run_policy: RunPolicy = RunPolicy()
    """runPolicy holds suspension, deadlines and retries."""
    rerun: Name | None = None
    """rerun is a free token: a new value ends what runs and starts a new revision."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.sources.exists(s, !has(s.split) || s.split == 'Train')",
            "at least one source must feed the training split",
        ),
        Rule(
            "self.layout != 'Messages' || !has(self.columns) || (!has(self.columns.prompt) "
            "&& !has(self.columns.answer) && !has(self.columns.text))",
            "layout Messages reads columns.messages; remove prompt, answer and text",
        ),
        Rule(
            "self.layout != 'Columns' || !has(self.columns) || (!has(self.columns.messages) "
            "&& !has(self.columns.text))",
            "layout Columns reads prompt and answer; remove messages and text",
        ),
        Rule(
            "self.layout != 'ParentChain' || !has(self.columns) || (!has(self.columns.messages) "
            "&& !has(self.columns.text))",
            "layout ParentChain reads id, parentId, prompt and answer; remove messages and text",
        ),
        Rule(
            "self.layout != 'PlainText' || self.recordType in ['Auto', 'Text']",
            "layout PlainText gives records of type Text; set recordType Text",
        ),
        Rule(
            "self.recordType != 'Text' || self.layout in ['Auto', 'PlainText']",
            "records of type Text have layout PlainText; set layout PlainText or Auto",
        ),
    )


class Dataset(ApiModel):
    """Dataset fetches, checks and splits data into an immutable snapshot with a digest."""

    metadata: ObjectMeta
    spec: DatasetSpec
    status: DatasetStatus = DatasetStatus()
