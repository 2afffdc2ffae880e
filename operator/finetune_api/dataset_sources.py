"""Where a Dataset's rows come from: one model per source, exactly one per item."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from finetune_api.meta import ApiModel, Digest, Name, Repository, Rule, SecretRef, Url
from finetune_api.storage import S3, VolumeClaim


class Split(StrEnum):
    """A part of a Dataset."""

    TRAIN = "Train"
    VALIDATION = "Validation"
    TEST = "Test"


class Format(StrEnum):
    """How a file spells rows."""

    AUTO = "Auto"
    CSV = "CSV"
    TSV = "TSV"
    JSON = "JSON"
    JSONL = "JSONL"
    PARQUET = "Parquet"
    TEXT = "Text"


class Csv(ApiModel):
    """Reading of CSV and TSV."""

    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """delimiter between cells; absent = detected."""
    quote: str | None = Field(default=None, min_length=1, max_length=1)
    """quote around cells; absent = a double quote."""
    encoding: str = Field(default="utf-8", max_length=32)
    """encoding as declared; nothing is guessed."""


class Inline(ApiModel):
    """Data in the manifest."""

    data: str = Field(min_length=1, max_length=65536)
    """data is text in the given format."""


class Http(ApiModel):
    """Files behind HTTP(S) addresses."""

    urls: list[Url] = Field(min_length=1, max_length=64)
    """urls are the addresses; no redirect to another host, no private address unless allowed."""
    secret_ref: SecretRef | None = None
    """secretRef holds BEARER_TOKEN, or USERNAME and PASSWORD."""


class HuggingFaceDataset(ApiModel):
    """A dataset repository; data files only, never its code."""

    repository: Repository
    """repository on the Hub."""
    subset: str | None = Field(default=None, min_length=1, max_length=200)
    """subset is the configuration name."""
    revision: str | None = Field(default=None, min_length=1, max_length=200)
    """revision is a branch, tag or commit; the commit is recorded."""
    split: str | None = Field(default=None, min_length=1, max_length=200)
    """split of the repository; absent = all, with its validation and test splits used as such."""


Glob = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class Source(ApiModel):
    """One place that rows come from."""

    name: Name | None = None
    """name in reports and provenance; absent = its index."""
    split: Split | None = None
    """split takes all rows of this source; absent = divided by spec.split."""
    max_rows: int | None = Field(default=None, ge=1)
    """maxRows is a seeded sample of at most this many rows."""
    weight: float | None = Field(default=None, gt=0, le=1000)
    """weight is the share of an epoch relative to the other weights; an epoch keeps its size and
    repeats records only of a source that is used up; absent everywhere = every record once."""
    format: Format = Format.AUTO
    """format of the files; Auto = by extension, .gz is opened."""
    include: list[Glob] | None = Field(default=None, max_length=32)
    """include are globs on file names below the path or prefix."""
    exclude: list[Glob] | None = Field(default=None, max_length=32)
    """exclude are globs on file names to leave out."""
    csv: Csv | None = None
    """csv is the reading of CSV and TSV."""
    digest: Digest | None = None
    """digest refuses other content (DigestMismatch)."""
    inline: Inline | None = None
    """inline is data in the manifest."""
    volume_claim: VolumeClaim | None = None
    """volumeClaim is a file or folder on a volume."""
    s3: S3 | None = None
    """s3 is an object or prefix."""
    http: Http | None = None
    """http are files behind addresses."""
    hugging_face: HuggingFaceDataset | None = None
    """huggingFace is a dataset repository."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "[has(self.inline),has(self.volumeClaim),has(self.s3),has(self.http),"
            "has(self.huggingFace)].filter(x, x).size() == 1",
            "each source has exactly one of inline, volumeClaim, s3, http, huggingFace",
        ),
        Rule(
            "!has(self.inline) || self.format != 'Auto'",
            "inline data has no file name; set format",
        ),
        Rule(
            "!has(self.csv) || self.format in ['Auto', 'CSV', 'TSV']",
            "csv acts on formats CSV and TSV only",
        ),
        Rule(
            "!(has(self.include) || has(self.exclude)) || has(self.volumeClaim) || has(self.s3) "
            "|| has(self.huggingFace)",
            "include and exclude act on folders; inline data and addresses have none",
        ),
    )
