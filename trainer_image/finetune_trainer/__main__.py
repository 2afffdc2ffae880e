"""`python -m finetune_trainer <verb>`: the verb's entry point, its failure as exit code."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

from finetune_trainer.entry_point import run_verb

JOBS = {"dataset": "dataset_job", "prepare": "prepare", "export": "export"}
"""Verbs of one process. A module is imported only for its own verb: torch takes seconds."""


def main(arguments: list[str]) -> int:
    """Run the verb named on the command line and return the exit code of its end."""
    verb = arguments[0] if arguments else ""
    make_scratch_folders()
    if verb in JOBS:
        return run_verb(verb, import_module(f"finetune_trainer.{JOBS[verb]}").run)
    if verb == "prune":
        return int(import_module("finetune_trainer.prune").prune())
    if verb == "train":
        return int(import_module("finetune_trainer.launch").launch())
    if verb == "rank":
        code = int(import_module("finetune_trainer.run").rank_process())
        sys.stderr.flush()
        # Threads of the communication library may wait for peers that are gone.
        os._exit(code)
    known = ", ".join([*JOBS, "train", "prune"])
    sys.stderr.write(f"verb {verb!r} is unknown; use one of {known}\n")
    return 10


def make_scratch_folders() -> None:
    """Make the folders that the environment names: a pod's scratch volume begins empty."""
    for name in ("HOME", "TMPDIR", "HF_HOME"):
        if folder := os.environ.get(name):
            Path(folder).mkdir(parents=True, exist_ok=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
