"""The verb `export`: write the weights, prove them, describe them, bring them to targets.

An artifact exists when its manifest does, and that is written after the gate. A later attempt
takes over a finished artifact of an earlier one and only sends what its targets still lack.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from finetune_api.model_export import (
    ExportArtifact,
    ExportSourceStatus,
    TargetStatus,
    VerificationStatus,
)
from finetune_api.run_outcome import ExportSummary
from finetune_trainer.byte_size import shown_size
from finetune_trainer.export_artifact import export_dtype, exports_adapter, write_artifact
from finetune_trainer.export_gate import Written, tolerance, verify_artifact
from finetune_trainer.export_prompts import exported_prompting, questions, rendered_example
from finetune_trainer.export_sources import export_sources
from finetune_trainer.model_card import CardFacts, model_card
from finetune_trainer.mounts import scratch_folder
from finetune_trainer.store import (
    MANIFEST,
    DamagedError,
    canonical_json,
    open_store,
    read_manifest,
    verify,
    write_manifest,
)
from finetune_trainer.targets import target_store
from finetune_trainer.targets.publication import Artifact, publish

if TYPE_CHECKING:
    from finetune_api.run_config import ExportJobConfig
    from finetune_trainer.stage_report import StageReporter
    from finetune_trainer.store import Store

FORMAT = "export/v1"
CARD = "README.md"
SHARES = {"fetched": 0.1, "written": 0.5, "verified": 0.8}
"""Shares of the job that are done when its parts are."""


def run(config: ExportJobConfig, report: StageReporter) -> ExportSummary:
    """Make the artifact, or take over a finished one, and bring it to every target."""
    exports_adapter(config)
    artifact = finished_artifact(config) or new_artifact(config, report)
    size = sum(file.bytes for file in artifact.manifest.files)
    report.artifact("export", artifact.store.uri, artifact.manifest.digest, size)
    return ExportSummary(
        source=_source(config),
        artifact=ExportArtifact(
            uri=artifact.store.uri,
            digest=artifact.manifest.digest,
            size=shown_size(size),
            files=len(artifact.manifest.files),
            dtype=export_dtype(config),
        ),
        verification=VerificationStatus.model_validate(artifact.manifest.facts["verification"]),
        targets=_pushed(config, artifact, report),
    )


def finished_artifact(config: ExportJobConfig) -> Artifact | None:
    """Return an artifact with these settings that this or an earlier attempt finished."""
    for attempt in range(config.identity.attempt, 0, -1):
        store = _folder(config, attempt)
        if not store.exists(MANIFEST):
            continue
        try:
            manifest = read_manifest(store)
            if manifest.facts.get("settings") == settings_digest(config):
                verify(store, manifest)
                return Artifact(store, manifest)
        except DamagedError:
            continue
    return None


def new_artifact(config: ExportJobConfig, report: StageReporter) -> Artifact:
    """Write, verify and describe an artifact in this attempt's folder."""
    report.stage("Merging", 0)
    store, sources = _folder(config, config.identity.attempt), export_sources(config)
    _remove_leftovers(store)
    report.progress(SHARES["fetched"])
    prompting = exported_prompting(sources)
    files = write_artifact(
        config, sources, prompting, store, _between(report, "fetched", "written")
    )
    report.stage("Verifying", SHARES["written"])
    scratch = scratch_folder() / "export"
    verification, _ = verify_artifact(
        config, sources, Written(store, files), questions(config, sources), scratch
    )
    if verification.samples and not verification.ended:
        report.warn("NoSampleEnded", "no sample answer stopped by itself; see the model card")
    facts = CardFacts(
        dtype=export_dtype(config),
        verification=verification,
        tolerance=tolerance(config),
        files={file.name: file.sha256 for file in files},
        rendered_prompt=rendered_example(sources),
        history=sources.report.get("history") or (),
        samples=sources.report.get("samples") or (),
        truncation=sources.truncation,
    )
    files.append(store.write(CARD, model_card(config, facts).encode()))
    write_manifest(store, FORMAT, files, **_facts(config, verification))
    return Artifact(store, read_manifest(store))


def settings_digest(config: ExportJobConfig) -> str:
    """Return a digest of everything that the content of the artifact depends on."""
    spec = config.spec.model_dump(
        mode="json", include={"format", "merge", "max_shard_size", "card", "verification"}
    )
    content = {"spec": spec, "checkpoint": config.checkpoint.digest, "uid": config.identity.uid}
    return f"sha256:{hashlib.sha256(canonical_json(content)).hexdigest()}"


def _folder(config: ExportJobConfig, attempt: int) -> Store:
    return open_store(config.location, config.prefix).child(f"artifact-{attempt}")


def _remove_leftovers(store: Store) -> None:
    """Remove what a killed pod of this attempt left: without a manifest nobody reads it."""
    for name in sorted(store.list(), key=lambda name: name != MANIFEST):
        store.delete(name)


def _between(report: StageReporter, start: str, end: str) -> Any:
    return lambda share: report.progress(SHARES[start] + share * (SHARES[end] - SHARES[start]))


def _pushed(
    config: ExportJobConfig, artifact: Artifact, report: StageReporter
) -> list[TargetStatus]:
    targets = config.spec.targets or []
    total = max(1, len(targets) * sum(file.bytes for file in artifact.manifest.files))
    sent = 0

    def count(size: int) -> None:
        nonlocal sent
        sent += size
        report.progress(SHARES["verified"] + (1 - SHARES["verified"]) * sent / total)

    states = []
    for target in targets:
        report.stage("Pushing", SHARES["verified"] + (1 - SHARES["verified"]) * sent / total)
        store = target_store(target)
        publish(artifact, store, replace=target.replace, sent=count)
        states.append(TargetStatus(name=target.name, state="Pushed", uri=store.uri))
    return states


def _source(config: ExportJobConfig) -> ExportSourceStatus:
    return ExportSourceStatus(
        name=config.experiment,
        digest=config.checkpoint.digest,
        uri=config.checkpoint.uri,
        step=config.checkpoint.step,
        base_model=config.model.name,
        base_commit=config.model.commit,
    )


def _facts(config: ExportJobConfig, verification: VerificationStatus) -> dict[str, Any]:
    return {
        "settings": settings_digest(config),
        "verification": verification.model_dump(mode="json", by_alias=True),
        "checkpoint": config.checkpoint.digest,
        "dataset": config.dataset.digest,
        "base": {"name": config.model.name, "commit": config.model.commit},
        "dtype": export_dtype(config),
    }
