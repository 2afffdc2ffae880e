"""First process of a rank pod: fetches inputs, starts a process per rank, has the last word."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from finetune_api.experiment_start import Start
from finetune_api.run_config import TrainingConfig
from finetune_api.run_outcome import FailureClass, Outcome
from finetune_api.run_progress import Progress
from finetune_trainer.cores import available_cores
from finetune_trainer.entry_point import log_failure, read_config
from finetune_trainer.errors import CheckpointedExit
from finetune_trainer.first_cause import first_cause, out_of_memory_kills, outcome_of_exit
from finetune_trainer.last_word import outcome_of, write_last_word
from finetune_trainer.mounts import scratch_folder
from finetune_trainer.progress_port import Answers, progress_port
from finetune_trainer.rank_folder import FOLDER_ENV, RankFolder
from finetune_trainer.start_weights import starting_model
from finetune_trainer.store import open_store
from finetune_trainer.token_cache import fetch_prepared
from finetune_trainer.watchdog import Pulse, pulse

log = logging.getLogger("finetune_trainer")

RANK_PROGRAM = ("-m", "finetune_trainer", "rank")
POLL_SECONDS = 0.1
ECHO_SECONDS = 15.0
"""How long other ranks get to end by themselves after one has failed."""
STACKS_SECONDS = 1.0


class Pod:
    """The rank processes of one pod."""

    def __init__(self, config: TrainingConfig, folder: RankFolder) -> None:
        self._config, self._folder = config, folder
        self._nodes = int(os.environ.get("PET_NNODES", "1"))
        self._node = int(os.environ.get("PET_NODE_RANK", "0"))
        self._local = int(os.environ.get("PET_NPROC_PER_NODE", "1"))
        self._kills = out_of_memory_kills()
        self._stopping = False
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._outcomes: dict[int, Outcome] = {}

    @property
    def ranks(self) -> range:
        """The numbers of this pod's ranks."""
        return range(self._node * self._local, (self._node + 1) * self._local)

    def start(self) -> None:
        """Start one process per rank with torchrun's variables."""
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        address |= {name: os.environ[name] for name in address if name in os.environ}
        if address["MASTER_ADDR"] == "127.0.0.1":
            address["GLOO_SOCKET_IFNAME"] = "lo"
        threads = str(max(1, available_cores() // self._local))
        for local, rank in enumerate(self.ranks):
            own = {
                "RANK": str(rank),
                "LOCAL_RANK": str(local),
                "WORLD_SIZE": str(self._nodes * self._local),
                "LOCAL_WORLD_SIZE": str(self._local),
                "GROUP_RANK": str(self._node),
                FOLDER_ENV: str(self._folder.path),
                "HF_HUB_OFFLINE": "1",
            }
            self._processes[rank] = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, *RANK_PROGRAM],
                env={"OMP_NUM_THREADS": threads} | dict(os.environ) | address | own,
            )

    def stop(self) -> None:
        """Pass SIGTERM on: the ranks agree on a step, save it and end.

        Raises CheckpointedExit when no rank has been started yet.
        """
        if not self._processes and not self._outcomes:
            raise CheckpointedExit("stopped on request before the first step")
        self._stopping = True
        self._signal(signal.SIGTERM)

    def outcome(self) -> Outcome:
        """Wait for all ranks and return the outcome of the first cause."""
        failed_at = None
        while self._processes:
            self._collect()
            if failed_at is None and any(_failed(one) for one in self._outcomes.values()):
                failed_at = time.monotonic()
            if failed_at is not None and time.monotonic() - failed_at > ECHO_SECONDS:
                self._kill("ended because another rank had failed")
            self._end_hanging()
            time.sleep(POLL_SECONDS)
        return first_cause(self._outcomes)

    def _collect(self) -> None:
        for rank, process in list(self._processes.items()):
            code = process.poll()
            if code is None:
                continue
            del self._processes[rank]
            killed = out_of_memory_kills() > self._kills
            found = self._folder.ending(rank)
            step = self.pulse(rank).steps
            if found is None and self._stopping and code == -signal.SIGTERM:
                found = outcome_of(CheckpointedExit("stopped on request before the first step"))
            self._outcomes[rank] = found or outcome_of_exit(rank, code, step, out_of_memory=killed)

    def _end_hanging(self) -> None:
        limit = self._config.spec.run_policy.hang_timeout_seconds
        now = time.monotonic()
        hanging = [rank for rank in self._processes if self.pulse(rank).hangs(now, limit)]
        if not hanging:
            return
        self._signal(signal.SIGUSR1)
        time.sleep(STACKS_SECONDS)
        names = ", ".join(map(str, hanging))
        why = f"no progress of rank {names}; the stacks of all ranks are in the log"
        self._kill(why, reason="Hang")

    def _kill(self, why: str, *, reason: str = "PeerLost") -> None:
        """End all ranks that are left; that is never the cause of anything."""
        self._signal(signal.SIGKILL)
        for rank, process in self._processes.items():
            process.wait()
            self._outcomes[rank] = Outcome(
                failure_class=FailureClass.PEER_LOST,
                reason=reason,
                rank=rank,
                step=self.pulse(rank).steps,
                message=f"rank {rank}: {why}",
            )
        self._processes = {}

    def pulse(self, rank: int) -> Pulse:
        """Return what a rank last told."""
        return pulse(self._folder.heartbeat(rank))

    def silent_seconds(self) -> float | None:
        """Return how long the most silent rank that runs has not beaten; None if none ever did."""
        beats = [beat for rank in list(self._processes) if (beat := self.pulse(rank).beat)]
        return max(0.0, time.monotonic() - min(beats)) if beats else None

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            process.send_signal(number)


def launch() -> int:
    """Run this pod's part of an attempt from config to last word; return the exit code."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        config = read_config("train")
        assert isinstance(config, TrainingConfig)  # noqa: S101 - for mypy
        scratch = scratch_folder()
        scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="ranks-", dir=scratch) as name:
            folder = RankFolder(Path(name))
            pod = Pod(config, folder)
            signal.signal(signal.SIGTERM, lambda *_: pod.stop())
            with progress_port(_answers(config, folder, pod)):
                _fetch_inputs(config, folder, scratch)
                pod.start()
                outcome = pod.outcome()
    except Exception as error:  # the one place where classes become exit codes
        log_failure("launch failed", error)
        outcome = outcome_of(error)
    return write_last_word(outcome)


def _fetch_inputs(config: TrainingConfig, folder: RankFolder, scratch: Path) -> None:
    """Bring model and token cache to local disk once per pod."""
    start = config.start or Start(base=config.spec.model)
    begun = starting_model(start, config.spec, config.model.commit, scratch)
    name = config.prepared_uri.rstrip("/").rpartition("/")[2]
    prepared = open_store(config.location, config.prefix).child(name)
    local = fetch_prepared(prepared, config.prepared_digest, folder.path / "prepared")
    folder.set_inputs(model=begun.model, prepared=local, adapter=begun.adapter)


def _answers(config: TrainingConfig, folder: RankFolder, pod: Pod) -> Answers:
    return Answers(
        progress=lambda: _progress(config, folder, pod).model_dump_json(by_alias=True).encode(),
        metrics=lambda: folder.read("metrics.prom") or b"",
    )


def _progress(config: TrainingConfig, folder: RankFolder, pod: Pod) -> Progress:
    """Return rank 0's answer with the ages of its signs; `Starting` before there is one."""
    content = folder.read("progress.json")
    if content is None:
        return Progress(run=config.identity.run, phase="Starting", ranks_expected=config.ranks)
    progress, told = Progress.model_validate_json(content), pod.pulse(0)
    ages: dict[str, float | None] = {"silent_seconds": pod.silent_seconds()}
    if told.step_time:
        ages["seconds_since_step"] = max(0.0, time.monotonic() - told.step_time)
    return progress.model_copy(update=ages)


def _failed(outcome: Outcome) -> bool:
    return outcome.failure_class not in (FailureClass.COMPLETED, FailureClass.CHECKPOINTED)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
