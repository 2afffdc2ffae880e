"""`finetune run`: manifests to results on this machine, without a cluster."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from rich.console import Console

from finetune_cli.live_view import view_for
from finetune_cli.local_run import INTERRUPTED, LocalRun
from finetune_cli.run_summary import Summary
from finetune_operator.cluster.local_cluster import LocalCluster, WorkDirectoryBusyError

BAD_MANIFESTS = 2


@dataclass(frozen=True)
class RunOptions:
    """What the command line says."""

    paths: tuple[Path, ...]
    work_dir: Path
    claims: tuple[tuple[str, Path], ...] = ()


def run(options: RunOptions, console: Console) -> int:
    """Run the manifests and print what came of them; return the exit code."""
    options.work_dir.mkdir(parents=True, exist_ok=True)
    (options.work_dir / ".gitignore").write_text("*\n")
    problems = link_claims(options.work_dir, options.claims)
    if problems:
        return _refused(problems)
    with _log_to(options.work_dir / "operator.log"):
        cluster = LocalCluster(options.work_dir)
        try:
            return asyncio.run(_run(cluster, options, console))
        except WorkDirectoryBusyError as error:
            return _refused([str(error)])


async def _run(cluster: LocalCluster, options: RunOptions, console: Console) -> int:
    view = view_for(console)
    try:
        local_run = LocalRun(cluster, options.paths, view)
        with cluster.locked():
            if problems := local_run.submit():
                view.close()
                return _refused(problems)
            code = await local_run.run()
    finally:
        view.close()
    if code == INTERRUPTED:
        console.print("stopped; the same command goes on from the newest checkpoint")
    else:
        Summary(cluster, local_run.objects()).print(console)
    return code


def link_claims(work_dir: Path, claims: Iterable[tuple[str, Path]]) -> list[str]:
    """Make each named claim a link to a folder; return what is wrong with them."""
    problems = []
    for name, folder in claims:
        link = work_dir / "claims" / name
        if not folder.is_dir():
            problems.append(f"--claim {name}: {folder} is no folder")
        elif link.is_symlink() or not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(folder.resolve())
        elif link.resolve() != folder.resolve():
            problems.append(f"--claim {name}: {link} holds data already; move it away first")
    return problems


def _refused(problems: Iterable[str]) -> int:
    errors = Console(stderr=True)
    for problem in problems:
        errors.print(problem, markup=False, highlight=False, soft_wrap=True)
    return BAD_MANIFESTS


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Send the operator's own messages to a file: the terminal belongs to the view."""
    with path.open("a", encoding="utf-8") as file:
        structlog.configure(
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(default=str),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
            logger_factory=structlog.WriteLoggerFactory(file=file),
        )
        try:
            yield
        finally:
            structlog.reset_defaults()
