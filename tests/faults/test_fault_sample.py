"""A seeded sample of fault plans on a real API server; `make test-faults` runs all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("operator", "trainer_image", "tests", "tests/cluster")
SAMPLE = ("--sample", "60", "--seconds", "150", "--seed", os.environ.get("FAULT_SEED", "1"))


@pytest.mark.timeout(900)
def test_runs_that_a_fault_struck_end_as_if_nothing_had_happened():
    path = os.pathsep.join(str(ROOT / part) for part in PARTS)
    command = [sys.executable, str(ROOT / "tests/faults/run_fault_plans.py"), *SAMPLE]
    ran = subprocess.run(
        command, check=False, cwd=ROOT, env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
