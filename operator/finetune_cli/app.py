"""The command tree of `finetune`, which is also `kubectl finetune`."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console

WORK_DIR = click.option(
    "--work-dir", type=click.Path(path_type=Path, file_okay=False), default=Path(".finetune"),
    show_default=True, help="Where objects, claims, logs and results are kept.",
)  # fmt: skip
MANIFESTS = click.option(
    "-f", "--filename", "paths", multiple=True, required=True,
    type=click.Path(path_type=Path, allow_dash=True),
    help="File or folder with manifests; may be given more than once.",
)  # fmt: skip


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Fine-tune language models from three kinds of manifests.

    \b
    Dataset              what data, how it is checked and split
    FineTuneExperiment   which model learns from it, and how
    ModelExport          where the result is published

    The same manifests run on this machine (finetune run) and in a cluster (kubectl apply).
    """


@cli.command("run")
@MANIFESTS
@WORK_DIR
@click.option(
    "--claim", "claims", multiple=True, metavar="NAME=FOLDER",
    help="Use FOLDER as the volume claim NAME; otherwise it is WORK_DIR/claims/NAME.",
)  # fmt: skip
def run_command(paths: tuple[Path, ...], work_dir: Path, claims: tuple[str, ...]) -> None:
    """Run manifests on this machine, without a cluster.

    Ctrl-C writes a checkpoint and stops; the same command goes on from there. Exit code 0 means
    that everything completed, 1 that something failed, 2 that a manifest was refused.
    """
    from finetune_cli.commands.cmd_run import RunOptions, run  # noqa: PLC0415 - starts faster

    named = tuple(_claim(text) for text in claims)
    sys.exit(run(RunOptions(paths, work_dir, named), Console()))


@cli.command("delete")
@MANIFESTS
@WORK_DIR
def delete_command(paths: tuple[Path, ...], work_dir: Path) -> None:
    """Forget objects of finetune run, to begin anew; results on claims stay."""
    from finetune_cli.commands.cmd_delete import delete  # noqa: PLC0415 - starts faster

    sys.exit(delete(paths, work_dir))


@cli.command("validate")
@MANIFESTS
def validate_command(paths: tuple[Path, ...]) -> None:
    """Say what a cluster would refuse, without one."""
    from finetune_cli.commands.cmd_validate import validate  # noqa: PLC0415 - starts faster

    sys.exit(validate(paths))


@cli.command("prune")
@click.option(
    "-s", "--storage", "storage", required=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="File with a storage block: volumeClaim or s3, as in the objects that wrote there.",
)  # fmt: skip
@click.option(
    "--work-dir", type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Objects and claims of finetune run; absent = the objects of the cluster.",
)  # fmt: skip
@click.option(
    "--mounts", type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder with claims/NAME and secrets/NAME; absent = WORK_DIR, else /mnt.",
)  # fmt: skip
@click.option("--stale-hours", type=click.FloatRange(min=1), default=24.0, show_default=True,
              help="Least age of uploads and checkpoints that nobody finished.")  # fmt: skip
@click.option("--delete", is_flag=True, help="Remove what is listed.")
def prune_command(
    storage: Path, work_dir: Path | None, mounts: Path | None, stale_hours: float, *, delete: bool
) -> None:
    """List, or remove, what deleted objects and killed writers left in storage.

    Only folders of objects with storage.deletionPolicy Delete that no living object refers to,
    and what was written in part. All clusters that write to the storage must be the one asked.
    """
    from finetune_cli.commands.cmd_prune import PruneOptions, prune  # noqa: PLC0415 - starts faster

    options = PruneOptions(storage, work_dir, mounts, stale_hours * 3600, delete)
    sys.exit(prune(options))


@cli.command("generate", hidden=True)
@click.option("--root", type=click.Path(path_type=Path), default=Path(), help="Repository root.")
def generate_command(root: Path) -> None:
    """Write the repository's generated files."""
    from finetune_cli.commands.cmd_generate import generate  # noqa: PLC0415 - starts faster

    for path in generate(root):
        click.echo(path)


def _claim(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise click.BadParameter(f"{text!r}: write NAME=FOLDER", param_hint="--claim")
    return name, Path(folder)


def main() -> None:
    """Run the command line."""
    cli(prog_name="finetune")
