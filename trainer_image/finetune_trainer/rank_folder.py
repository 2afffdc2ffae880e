"""Files through which the launcher and the ranks of one pod speak, on the pod's own scratch."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from finetune_api.run_outcome import Outcome

FOLDER_ENV = "FINETUNE_RANK_FOLDER"


@dataclass(frozen=True)
class RankFolder:
    """One folder per launch: inputs for the ranks; heartbeats, progress and endings from them."""

    path: Path

    @classmethod
    def from_environment(cls) -> RankFolder:
        """Return the folder that the launcher named."""
        return cls(Path(os.environ[FOLDER_ENV]))

    def heartbeat(self, rank: int) -> Path:
        """Return the path of a rank's heartbeat."""
        return self.path / f"heartbeat-{rank}"

    def set_inputs(self, *, model: Path, prepared: Path, adapter: Path | None = None) -> None:
        """Tell the ranks where model, token cache and an adapter to be continued lie."""
        inputs = {"model": str(model), "prepared": str(prepared)}
        if adapter is not None:
            inputs["adapter"] = str(adapter)
        (self.path / "inputs.json").write_text(json.dumps(inputs))

    @property
    def model(self) -> Path:
        """The folder of the base model."""
        return Path(self._inputs()["model"])

    @property
    def prepared(self) -> Path:
        """The local copy of the preparation's output."""
        return Path(self._inputs()["prepared"])

    @property
    def adapter(self) -> Path | None:
        """The checkpoint of another experiment whose adapter is trained further."""
        found = self._inputs().get("adapter")
        return None if found is None else Path(found)

    def set_ending(self, rank: int, outcome: Outcome) -> None:
        """Leave a rank's outcome for the launcher."""
        (self.path / f"ending-{rank}.json").write_bytes(outcome.encoded())

    def ending(self, rank: int) -> Outcome | None:
        """Return what a rank left, or None if it was killed before."""
        try:
            content = (self.path / f"ending-{rank}.json").read_bytes()
        except FileNotFoundError:
            return None
        return Outcome.model_validate_json(content)

    def read(self, name: str) -> bytes | None:
        """Return a file that rank 0 publishes, None before its first."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def _inputs(self) -> dict[str, str]:
        inputs: dict[str, str] = json.loads((self.path / "inputs.json").read_text())
        return inputs
