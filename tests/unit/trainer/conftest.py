"""What several tests of the data jobs stand on: claims of one pod, and a model with a Dataset."""

from __future__ import annotations

import pytest

from data_ground import Ground, jsonl, questions
from preparation_bench import Bench
from sharing_runs import sharing_runs
from written_preparation import Written


@pytest.fixture
def ground(tmp_path, monkeypatch):
    """Return the empty claims of one pod."""
    return Ground(tmp_path, monkeypatch)


@pytest.fixture
def bench(ground):
    """Return a bench with a model and a Dataset of 40 questions."""
    bench = Bench(ground)
    bench.model()
    bench.dataset(jsonl(questions(40)))
    return bench


@pytest.fixture
def written(bench, tmp_path):
    """Return a function that prepares an experiment; its arguments are blocks of the spec."""
    copies = iter(range(100))

    def written(**spec):
        return Written(bench, tmp_path / f"copy{next(copies)}", **spec)

    return written


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Return runs that may share encodings on a volume."""
    with sharing_runs("folder", tmp_path, monkeypatch) as runs:
        yield runs


@pytest.fixture(params=["folder", "bucket"])
def anywhere(request, tmp_path, monkeypatch):
    """Return runs that may share encodings, on a volume and in a bucket."""
    with sharing_runs(request.param, tmp_path, monkeypatch) as runs:
        yield runs
