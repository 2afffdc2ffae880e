"""Attempts of a toy experiment on a folder: config, storage, and the trainer as real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from harness.ports import free_port

from finetune_api import names
from finetune_api.run_outcome import Outcome
from finetune_trainer.path_store import PathStore
from finetune_trainer.rank_folder import FOLDER_ENV, RankFolder
from finetune_trainer.run import rank_process
from finetune_trainer.token_cache import fetch_prepared
from finetune_trainer.watchdog import Heartbeat, pulse
from forked_verbs import ForkedVerb, launched_by_forks
from toy_llama import toy_llama_folder, write_preparation

ROOT = Path(__file__).resolve().parents[1]
UID, PREFIX = "5f0c", "finetuneexperiments/lab/toy-5f0c"


IDENTITY = {
    "kind": "FineTuneExperiment",
    "namespace": "lab",
    "name": "toy",
    "uid": UID,
    "revision": 1,
}
PLAN: dict[str, Any] = {
    "template": "Raw",
    "computeDtype": "Float32",
    "strategy": "DDP",
    "gpus": 0,
    "maxLength": 24,
    "perDeviceBatchSize": 4,
    "globalBatchSize": 8,
    "maxTokensPerDevice": 48,
    "warmupSteps": 2,
    "seed": 7,
    "epochs": 2.0,
    "learningRate": 0.01,
    "rank": 4,
    "alpha": 8.0,
}


class TrainingGround:
    """One experiment whose claims, scratch and termination messages lie below one folder."""

    def __init__(
        self, folder: Path, *, train: int = 40, validation: int = 8, test: int = 0, **model: Any
    ) -> None:
        self.folder = folder
        self.model = toy_llama_folder(folder / "claims" / "models" / "toy", **model)
        self.store = PathStore(folder / "claims" / "results" / PREFIX, f"pvc://results//{PREFIX}")
        self.digest = write_preparation(
            self.store.child("prepared-1-1"), train=train, validation=validation, test=test
        )
        self._samples = train

    def config(self, attempt: int = 1, *, ranks: int = 1, **changes: Any) -> dict[str, Any]:
        """Return the config of an attempt; `changes` are merged into spec blocks and plan."""
        plan = (
            PLAN
            | {
                "ranks": ranks,
                "stepsPerEpoch": self._samples // 8,
                "totalSteps": 2 * self._samples // 8,
            }
            | changes.pop("plan", {})
        )
        spec: dict[str, Any] = {
            "model": {"volumeClaim": {"claimName": "models", "path": "toy"}},
            "dataset": {"name": "counting"},
            "storage": {"volumeClaim": {"claimName": "results"}},
            "evaluation": {"atStart": True, "generateSamples": 2},
            "generation": {"maxNewTokens": 4},
            "compute": {"processesPerNode": ranks, "collectiveTimeoutSeconds": 60},
        }
        for block, values in changes.items():
            spec[block] = spec.get(block, {}) | values
        return {
            "identity": IDENTITY | {"attempt": attempt},
            "spec": spec,
            "dataset": {"name": "counting", "digest": "sha256:" + "a" * 64},
            "model": {"name": "toy"},
            "plan": plan,
            "prepared_uri": f"{self.store.uri}/prepared-1-1",
            "prepared_digest": self.digest,
            "location": {"volumeClaim": {"claimName": "results"}},
            "prefix": PREFIX,
            "ranks": ranks,
            "grain": ranks,
        }

    def environment(self, config: dict[str, Any]) -> dict[str, str]:
        """Write the config and return the variables of a pod."""
        attempt = config["identity"]["attempt"]
        path = self.folder / f"config-{attempt}.json"
        path.write_text(json.dumps(config))
        return {
            names.CONFIG_ENV: str(path),
            names.CLAIMS_DIR_ENV: str(self.folder / "claims"),
            names.SCRATCH_DIR_ENV: str(self.folder / f"scratch-{attempt}"),
            names.TERMINATION_LOG_ENV: str(self.folder / f"last-word-{attempt}.json"),
            "PET_NPROC_PER_NODE": str(config["ranks"]),
        }

    def forked(
        self, config: dict[str, Any], *, die: dict[int, int] | None = None, world: int = 0
    ) -> Ranks:
        """Run the ranks of an attempt as forks of this process, which has imported torch already.

        `die` says after which step a rank is killed, as by SIGKILL.
        """
        return Ranks(self, config, die or {}, world or config["ranks"])

    def started(self, config: dict[str, Any], port: int = 0) -> subprocess.Popen[bytes]:
        """Start verb `train` as the first process of a pod."""
        paths = [str(ROOT / one) for one in ("operator", "trainer_image")]
        own = {
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": "1",
            names.PORT_ENV: str(port),
        }
        return subprocess.Popen(
            [sys.executable, "-m", "finetune_trainer", "train"],
            env=dict(os.environ) | self.environment(config) | own,
        )

    def begun(self, config: dict[str, Any]) -> ForkedVerb:
        """Start verb `train` as forks: starting interpreters would take most of the time."""
        own = {names.PORT_ENV: "0", "OMP_NUM_THREADS": "1"}
        return ForkedVerb(launched_by_forks, self.environment(config) | own)

    def ended(self, config: dict[str, Any]) -> tuple[int, Outcome]:
        """Run verb `train` as forks to its end; return exit code and last word."""
        return self.awaited(self.begun(config), config)

    def awaited(
        self, process: subprocess.Popen[bytes] | ForkedVerb, config: dict[str, Any]
    ) -> tuple[int, Outcome]:
        """Wait for a started attempt; return exit code and last word."""
        return process.wait(), self._last_word(config)

    def _last_word(self, config: dict[str, Any]) -> Outcome:
        path = self.folder / f"last-word-{config['identity']['attempt']}.json"
        return Outcome.model_validate_json(path.read_bytes())

    def at_step(self, config: dict[str, Any], step: int) -> None:
        """Wait until an attempt has taken `step` steps."""
        scratch = self.folder / f"scratch-{config['identity']['attempt']}"
        for _ in range(4800):
            paths = scratch.glob("ranks-*/progress.json")
            if any(json.loads(path.read_bytes())["step"] >= step for path in paths):
                return
            time.sleep(0.05)
        raise AssertionError(f"step {step} was not reached")

    def weights(self, outcome: Outcome) -> bytes:
        """Return the bytes of the result's trained tensors."""
        assert outcome.result is not None
        parts = self.file(outcome.result.uri, "").glob("trainable-*.safetensors")
        return b"".join(part.read_bytes() for part in sorted(parts))

    def file(self, uri: str, name: str) -> Path:
        """Return the path of a file below an address."""
        return self.folder / "claims" / uri.removeprefix("pvc://") / name


class Ranks:
    """Forked rank processes of one attempt, without a launcher."""

    def __init__(
        self, ground: TrainingGround, config: dict[str, Any], die: dict[int, int], world: int
    ) -> None:
        variables = ground.environment(config)
        scratch = Path(variables[names.SCRATCH_DIR_ENV])
        self.folder = RankFolder(scratch / "ranks-forked")
        self.folder.path.mkdir(parents=True)
        prepared = fetch_prepared(
            ground.store.child("prepared-1-1"), ground.digest, self.folder.path / "prepared"
        )
        self.folder.set_inputs(model=ground.model, prepared=prepared)
        shared = variables | {
            FOLDER_ENV: str(self.folder.path),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "GLOO_SOCKET_IFNAME": "lo",
            "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world),
            "OMP_NUM_THREADS": "1",
        }
        self.processes = [
            _forked(shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, die.get(rank))
            for rank in range(world)
        ]

    def outcomes(self) -> list[Outcome | None]:
        """Wait for all ranks; None for one that was killed."""
        for process in self.processes:
            os.waitpid(process, 0)
        return [self.folder.ending(rank) for rank in range(len(self.processes))]

    def completed(self) -> Outcome:
        """Wait for all ranks and return rank 0's outcome, which must be a good one."""
        outcomes = self.outcomes()
        assert {one.failure_class if one else None for one in outcomes} == {"Completed"}, outcomes
        assert outcomes[0] is not None
        return outcomes[0]

    def at_step(self, step: int) -> None:
        """Wait until rank 0 has taken `step` steps."""
        for _ in range(9600):
            if pulse(self.folder.heartbeat(0)).steps >= step:
                return
            time.sleep(0.025)
        raise AssertionError(f"step {step} was not reached")


def _forked(variables: dict[str, str], die_after: int | None) -> int:
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.environ.update(variables)
        if die_after is not None:
            beat = Heartbeat.step_done

            def dying(self: Heartbeat, steps: int, seconds: float) -> None:
                beat(self, steps, seconds)
                if steps >= die_after:
                    os.kill(os.getpid(), signal.SIGKILL)

            Heartbeat.step_done = dying
        code = rank_process()
    finally:
        os._exit(code)


def kill(process: int) -> None:
    """End a process as a lost node would."""
    os.kill(process, signal.SIGKILL)
