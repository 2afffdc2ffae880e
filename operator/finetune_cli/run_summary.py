"""What a finished run came to: records, perplexity, answers, places, next steps."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from finetune_api.conditions import REMEDIES
from finetune_api.names import DATASET, EXPERIMENT, EXPORT
from finetune_cli.run_rows import State, conditions_of, perplexity, row_of
from finetune_operator.cluster.local_cluster import LocalCluster
from finetune_operator.cluster.local_pod_status import JOB_NAME
from finetune_operator.observed import Manifest

MOST_FINDINGS, MOST_SAMPLES, LONGEST_TEXT = 8, 3, 160
PLACES = ("report", "checkpoints", "result")
PLACE_WIDTH = 13


@dataclass(frozen=True)
class Summary:
    """The objects of a run and the cluster in which their results lie."""

    cluster: LocalCluster
    objects: Sequence[Manifest]

    def print(self, console: Console) -> None:
        """Print what came of every object, failures last."""
        parts = {DATASET: self._records, EXPERIMENT: self._training, EXPORT: self._export}
        finished = [item for item in self.objects if row_of(item).state is State.DONE]
        failed = [item for item in self.objects if row_of(item).state is State.FAILED]
        for item in finished:
            console.print()
            console.print(parts[item["kind"]](item))
        for item in failed:
            console.print()
            console.print(self._failure(item))
        if finished and not failed:
            console.print()
            console.print(self._next_steps(finished))

    def path(self, uri: str) -> str:
        """Return the folder of this machine behind a volume's URI; other URIs as they are."""
        parts = urlsplit(uri)
        if parts.scheme != "pvc":
            return uri
        found = self.cluster.volumes.claim(parts.netloc) / parts.path.lstrip("/")
        return _from_here(found)

    def _records(self, item: Manifest) -> RenderableType:
        status = item["status"]
        records = status.get("records") or {}
        lines: list[RenderableType] = [
            Text(
                f"{records.get('read', 0):,} records read, {records.get('total', 0):,} accepted, "
                f"{records.get('dropped', 0):,} rejected"
            )
        ]
        lines += [_finding(found) for found in status.get("findings", [])[:MOST_FINDINGS]]
        lines += self._places(item)
        return _section(item, lines)

    def _training(self, item: Manifest) -> RenderableType:
        lines: list[RenderableType] = []
        values = perplexity(item)
        if len(values) == 2:
            before, after = values
            change = 100 * (after - before) / before
            style = "bold green" if change < 0 else "bold red"
            lines.append(
                Text.assemble(
                    "validation perplexity ", (f"{before:,.1f} → {after:,.1f}", "bold"),
                    (f"  {change:+.0f}%", style),
                )
            )  # fmt: skip
        report = self._report(item)
        lines += [_sample(sample) for sample in report.get("samples", [])[:MOST_SAMPLES]]
        lines += self._places(item)
        return _section(item, lines)

    def _export(self, item: Manifest) -> RenderableType:
        artifact = item["status"].get("artifact") or {}
        lines: list[RenderableType] = [
            Text(
                f"{artifact.get('files', 0)} files, {artifact.get('size', '?')}, "
                f"{artifact.get('dtype', '')}; loaded again and compared with the trained model"
            )
        ]
        lines += [
            _place(target["name"], self.path(target.get("uri", "")))
            for target in item["status"].get("targets", [])
        ]
        if not item["status"].get("targets") and artifact:
            lines.append(_place("model", self.path(artifact["uri"])))
        lines += self._places(item)
        return _section(item, lines)

    def _failure(self, item: Manifest) -> RenderableType:
        failure = _worst(conditions_of(item))
        reason, message = failure.get("reason", ""), failure.get("message", "")
        findings = item.get("status", {}).get("findings", [])[:MOST_FINDINGS]
        told = [Text(found.get("message", ""), overflow="fold") for found in findings]
        lines: list[RenderableType] = [
            Text.assemble((reason, "bold red")),
            *(told or [Text(message.removeprefix(f"{reason}: "))]),
        ]
        if reason in REMEDIES:
            lines.append(Text.assemble(("what to do: ", "bold"), REMEDIES[reason]))
        lines.append(Text())
        lines += [_place("log", path) for path in self._logs(item)[-1:]]
        lines += self._places(item)[1:]
        return _section(item, lines, "red")

    def _places(self, item: Manifest) -> list[RenderableType]:
        status = item.get("status", {})
        places = {a["name"]: a["uri"] for a in status.get("artifacts", [])}
        if latest := (status.get("checkpoints") or {}).get("latest"):
            places["checkpoints"] = latest["uri"].partition("/checkpoints/")[0] + "/checkpoints"
        if result := status.get("result"):
            places["result"] = result["uri"]
        shown = [
            (name, self._linked_report(item, uri) if name == "report" else self.path(uri))
            for name, uri in places.items()
            if name in PLACES
        ]
        return [Text(), *(_place(name, path) for name, path in shown)] if shown else []

    def _linked_report(self, item: Manifest, uri: str) -> str:
        """Return a short name for a report: a link that follows the newest one."""
        target = Path(self.path(uri))
        if not target.exists():
            return str(target)
        name = f"{item['kind'].lower()}-{item['metadata']['name']}.html"
        link = self.cluster.work_dir / "reports" / name
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(target, link.parent.resolve()))
        return _from_here(link)

    def _report(self, item: Manifest) -> dict[str, Any]:
        """Return the run's report as data; empty when it is not on this machine."""
        for artifact in item["status"].get("artifacts", []):
            if artifact["name"] == "report":
                path = Path(self.path(artifact["uri"]))
                path = path.parent if path.suffix else path
                if (path / "report.json").exists():
                    found: dict[str, Any] = json.loads((path / "report.json").read_text())
                    return found
        return {}

    def _logs(self, item: Manifest) -> list[str]:
        """Return the logs of the object's pods, oldest first."""
        jobs = (item.get("status", {}).get("children") or {}).values()
        pods = [
            pod for pod in self.cluster.objects.items("Pod")
            if pod["metadata"]["labels"][JOB_NAME] in jobs
        ]  # fmt: skip
        logs = [self.cluster.jobs.log_file(pod["metadata"]["name"]) for pod in pods]
        return [_from_here(log) for log in sorted(logs) if log.exists()]

    def _next_steps(self, finished: Sequence[Manifest]) -> RenderableType:
        steps = []
        for item in finished:
            artifacts = {a["name"]: a["uri"] for a in item["status"].get("artifacts", [])}
            if item["kind"] == EXPERIMENT and "report" in artifacts:
                steps.append(f"open {self._linked_report(item, artifacts['report'])} in a browser")
            for target in item["status"].get("targets", [])[:1]:
                folder = self.path(target["uri"])
                steps.append(f"load the model: AutoModelForCausalLM.from_pretrained({folder!r})")
        steps.append("edit a manifest and run the same command again")
        steps.append("apply the same manifests to a cluster: kubectl apply -f …")
        lines = [Text.assemble(("→ ", "cyan"), step) for step in steps]
        return Panel(Group(*lines), title="What next", title_align="left", border_style="cyan")


def _worst(conditions: dict[str, Manifest]) -> Manifest:
    """Return the condition that says why an object failed."""
    bad = {"Failed": "True", "Stalled": "True", "DependenciesReady": "False", "Ready": "False"}
    return next(
        (conditions[name] for name, status in bad.items()
         if conditions.get(name, {}).get("status") == status),
        {},
    )  # fmt: skip


def _section(item: Manifest, lines: list[RenderableType], style: str = "green") -> RenderableType:
    title = f"{item['kind']}/{item['metadata']['name']}"
    return Panel(Group(*lines), title=title, title_align="left", border_style=style)


def _finding(finding: Manifest) -> Text:
    """Return what was found and what was done; what to do about it stands in the report."""
    told = finding.get("message") or finding["reason"]
    what = told.partition(". Expected:")[0]
    action = finding.get("action", "").lower()
    return Text.assemble((f"  {finding['count']:>3} {action:<8} ", "yellow"), (what, "dim"))


def _place(name: str, path: str) -> Table:
    table = Table.grid()
    table.add_column(style="dim", width=PLACE_WIDTH)
    table.add_column(style="blue", overflow="fold")
    table.add_row(name, Text(path))
    return table


def _from_here(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _sample(sample: dict[str, Any]) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    table.add_column(style="dim", width=9)
    table.add_column(overflow="fold")
    table.add_row("prompt", Text(_short(sample["prompt"]), "bold"))
    table.add_row("base", Text(_short(sample["base"]), "red"))
    table.add_row("tuned", Text(_short(sample["tuned"]), "green"))
    if sample.get("reference"):
        table.add_row("reference", Text(_short(sample["reference"]), "dim"))
    return Group(Text(), table)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_TEXT else line[: LONGEST_TEXT - 1] + "…"
