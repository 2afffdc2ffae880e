"""A volume runs full: the run ends with the reason, keeps its checkpoints, and can go on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from harness import kubectl as kube
from harness.volumes import resize, small_claim
from scenarios.after_faults import KIND, STEPS
from scenarios.stories import (
    Ground,
    checkpoints,
    condition,
    experiment,
    wait_for_condition,
    weights_digest,
)

SMALL, LARGE = 16, 512
"""MiB: room for the prepared data and some checkpoints of about 2 MiB, and for all of them."""


def _content(manifests: list[Path]) -> dict[Path, str]:
    """Return a digest of every file of these checkpoints."""
    files = sorted(file for path in manifests for file in path.parent.iterdir())
    return {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_a_full_volume_is_named_harms_no_checkpoint_and_the_run_goes_on_with_more_room(
    sums: Ground, undisturbed: str
) -> None:
    with small_claim(sums.namespace, "small", SMALL) as files:
        spec = {
            "storage": {"volumeClaim": {"claimName": "small", "path": "results"}},
            "checkpoint": {"everySteps": 10, "everySeconds": 0, "keepLast": 100, "result": "Last"},
        }
        kube.apply(experiment("crammed", steps=STEPS, **spec), namespace=sums.namespace)
        failed = wait_for_condition(KIND, "crammed", sums.namespace, "Failed")
        assert condition(failed, "Failed")["reason"] == "NoSpace"
        assert "no space left" in condition(failed, "Failed")["message"]
        assert failed["status"]["attempt"]["number"] == 1, "no blind repeat"
        kept = checkpoints(files, "crammed")
        before = _content(kept)
        assert len(kept) >= 2
        newest = int(kept[-1].parent.name.removeprefix("step-"))
        assert failed["status"]["checkpoints"]["latest"]["step"] == newest

        resize(files, LARGE)
        again = json.dumps({"spec": {"rerun": "more-room", "rerunFrom": "LastCheckpoint"}})
        kube.kubectl("patch", KIND, "crammed", "--type=merge", "-p", again,
                     namespace=sums.namespace)  # fmt: skip
        body = wait_for_condition(KIND, "crammed", sums.namespace, "Complete", timeout=400)

        assert body["status"]["revision"] == 2
        assert weights_digest(files, body) == undisturbed
        assert _content(kept) == before
        steps = [int(path.parent.name[5:]) for path in checkpoints(files, "crammed")]
        assert steps == sorted(set(steps)), "no checkpoint was cut twice"
