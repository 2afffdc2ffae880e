"""The job of a Dataset: fetch, check, split, write the snapshot and the report."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api.dataset import RecordType
from finetune_api.dataset_status import RecordCounts
from finetune_api.run_outcome import DatasetSummary
from finetune_trainer.byte_size import byte_size
from finetune_trainer.dataset_records import Reading, SourceReader
from finetune_trainer.dataset_report import ReportContent, write_report
from finetune_trainer.dataset_statistics import statistics
from finetune_trainer.errors import DataError
from finetune_trainer.findings import MAX_FINDINGS, Findings, Problem, only_failed
from finetune_trainer.mounts import scratch_folder
from finetune_trainer.record import Record
from finetune_trainer.snapshot import Written, write_snapshot
from finetune_trainer.sources import fetch_source
from finetune_trainer.sources.fetched_files import Desk, Fetched
from finetune_trainer.split import TEST, TRAIN, VALIDATION, Divided, divided
from finetune_trainer.store import Store, free_folder, open_store

if TYPE_CHECKING:
    from finetune_api.dataset import DatasetSpec
    from finetune_api.dataset_sources import Source
    from finetune_api.run_config import DatasetJobConfig
    from finetune_trainer.stage_report import StageReporter

USUAL_START = 1000


class InvalidDataError(DataError):
    """The data has findings that its checks do not forgive; `summary` lists them."""

    def __init__(self, summary: DatasetSummary) -> None:
        failed = only_failed(summary.findings)
        more = f" And {len(failed) - 1} more findings; see the report." if len(failed) > 1 else ""
        super().__init__(failed[0].message + more, reason=failed[0].reason)
        self.summary = summary


def run(config: DatasetJobConfig, report: StageReporter) -> DatasetSummary:
    """Write the snapshot and the report of a Dataset and return what status shows of it."""
    home = open_store(config.location, config.prefix)
    report.stage("Fetching")
    with tempfile.TemporaryDirectory(dir=_scratch()) as folder:
        fetched = _fetch(config, Path(folder), report)
        report.stage("Validating", 0.4)
        reading = read(config.spec, fetched)
    parts = divided(reading.records, config.spec.split)
    check_whole(reading, parts, config.spec)
    report.stage("Writing", 0.7)
    return _write(config, home, reading, parts, report)


def read(spec: DatasetSpec, fetched: Sequence[tuple[str, Source, Fetched]]) -> Reading:
    """Return the records and findings of all sources, exact copies treated as `checks` says."""
    reading = Reading(Findings(spec.checks))
    for name, source, files in fetched:
        SourceReader(name, source, spec, reading).read(files)
    kinds = {mapping.record_type for mapping in reading.mappings}
    if len(kinds) > 1:
        detail = f"sources hold {' and '.join(sorted(kinds))}"
        reading.findings.add(Problem("AmbiguousColumns", "sources", detail=detail))
        reading.records.clear()
    reading.records = _without_copies(reading)
    return reading


def _without_copies(reading: Reading) -> list[Record]:
    seen: set[bytes] = set()
    kept = []
    for record in reading.records:
        content = record.content()
        if content in seen:
            problem = Problem("Duplicates", record.place.file, record.place.row)
            if reading.findings.add(problem) != "Accepted":
                reading.reject([problem])
                continue
        seen.add(content)
        kept.append(record)
    return kept


def check_whole(reading: Reading, parts: Divided, spec: DatasetSpec) -> None:
    """Add the findings that no single row shows: too few rows, leaks, empty splits."""
    train, checks = len(parts.members(TRAIN)), spec.checks
    for problem in (
        *_too_few(reading, train, checks.min_rows, checks.max_dropped_share),
        *_empty_split(reading, parts, spec),
        *_leaks(reading.records, parts),
    ):
        reading.findings.add(problem)
    if 0 < train < USUAL_START:
        detail = f"{train:,} training records"
        reading.findings.add(Problem("FewRecords", "snapshot", detail=detail))


def _too_few(reading: Reading, train: int, least: int, most_dropped: float) -> list[Problem]:
    if reading.findings.failed:
        return []
    problems = []
    reasons = ", ".join(f"{reason} {count}" for reason, count in reading.reasons.most_common(4))
    if reading.dropped > most_dropped * reading.read:
        share = f"{reading.dropped:,} of {reading.read:,} rows are dropped ({reasons})"
        detail = f"{share}, more than checks.maxDroppedShare {most_dropped:g}"
        problems.append(Problem("TooFewRows", "snapshot", detail=detail))
    elif train < least:
        detail = f"{train:,} usable training rows, checks.minRows is {least:,}"
        problems.append(Problem("TooFewRows", "snapshot", detail=detail))
    return problems


def _empty_split(reading: Reading, parts: Divided, spec: DatasetSpec) -> list[Problem]:
    if reading.findings.failed or len(reading.records) < spec.checks.min_rows:
        return []
    shares = {VALIDATION: spec.split.validation, TEST: spec.split.test}
    return [
        Problem("EmptySplit", "snapshot", detail=f"split.{split} {share:g} leaves 0 rows")
        for split, share in shares.items()
        if share > 0 and spec.split.column is None and not parts.members(split)
    ]


def _leaks(records: Sequence[Record], parts: Divided) -> list[Problem]:
    """Return held-out records that are trained on too; only the data's own splits can do that."""
    trained = {records[place].content() for place in parts.members(TRAIN)}
    trained_groups = {parts.groups[place] for place in parts.members(TRAIN)}
    problems = []
    for place in (*parts.members(VALIDATION), *parts.members(TEST)):
        record = records[place]
        if record.content() in trained:
            problems.append(Problem("Leakage", record.place.file, record.place.row))
        elif (record.group or record.tree) is not None and parts.groups[place] in trained_groups:
            problems.append(Problem("GroupAcrossSplits", record.place.file, record.place.row))
    return problems


def _write(
    config: DatasetJobConfig,
    home: Store,
    reading: Reading,
    parts: Divided,
    report: StageReporter,
) -> DatasetSummary:
    """Write the report in any case, the snapshot only of data without unforgiven findings."""
    written: Written | None = None
    attempt = config.identity.attempt
    content = _content(config, reading, parts)
    if not reading.findings.failed:
        place = free_folder(home, f"snapshot-{attempt}")
        written = write_snapshot(
            place, content.record_type, reading.records, parts, _weights(config.spec)
        )
        report.artifact("snapshot", written.uri, written.digest, written.bytes)
    place = free_folder(home, f"report-{attempt}")
    page = write_report(place, content, written)
    report.artifact("report", f"{place.uri}/{page.name}", f"sha256:{page.sha256}", page.bytes)
    summary = _summary(content)
    if written is None:
        raise InvalidDataError(summary)
    return summary


def _weights(spec: DatasetSpec) -> dict[str, float]:
    """Return the weight of every source by name; one that has none counts 1, none = no weights."""
    named = {one.name or str(number): one.weight for number, one in enumerate(spec.sources)}
    if all(weight is None for weight in named.values()):
        return {}
    return {name: weight or 1.0 for name, weight in named.items()}


def _content(config: DatasetJobConfig, reading: Reading, parts: Divided) -> ReportContent:
    first = reading.mappings[0] if reading.mappings else None
    layouts = {mapping.layout.value for mapping in reading.mappings}
    return ReportContent(
        name=f"{config.identity.namespace}/{config.identity.name}",
        record_type=first.record_type.value if first else RecordType.AUTO.value,
        layout=", ".join(sorted(layouts)) or config.spec.layout.value,
        counts=RecordCounts(
            read=reading.read,
            dropped=reading.dropped,
            total=len(reading.records),
            train=len(parts.members(TRAIN)),
            validation=len(parts.members(VALIDATION)),
            test=len(parts.members(TEST)),
        ),
        statistics=statistics(reading.records),
        reading=reading,
        divided=parts,
        sample_rows=config.spec.statistics.sample_rows,
        seed=config.spec.split.seed,
    )


def _summary(content: ReportContent) -> DatasetSummary:
    return DatasetSummary(
        record_type=content.record_type,
        layout=content.layout,
        records=content.counts,
        lengths=content.statistics.lengths,
        sources=content.reading.sources,
        columns=content.reading.columns(),
        findings=content.reading.findings.listed()[:MAX_FINDINGS],
    )


def _fetch(
    config: DatasetJobConfig, folder: Path, report: StageReporter
) -> list[tuple[str, Source, Fetched]]:
    desk = Desk(
        folder=folder,
        max_bytes=byte_size(config.spec.limits.max_size),
        hub=config.spec.hub,
        allowed=config.allowed_addresses,
    )
    fetched = []
    for number, source in enumerate(config.spec.sources):
        files = fetch_source(source, desk)
        _check_digest(source, files)
        fetched.append((source.name or str(number), source, files))
        report.progress(0.4 * (number + 1) / len(config.spec.sources))
    return fetched


def _check_digest(source: Source, files: Fetched) -> None:
    if source.digest is not None and files.digest != source.digest:
        raise DataError(
            f"DigestMismatch: {files.files[0].entry.name}, content is {files.digest}, pinned is "
            f"{source.digest}. Expected: the pinned content. Fix: restore the file or change the "
            "pin.",
            reason="DigestMismatch",
        )


def _scratch() -> Path | None:
    folder = scratch_folder()
    return folder if folder.is_dir() else None
