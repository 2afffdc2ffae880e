"""Training ends after so many evaluations without an improvement that counts."""

from __future__ import annotations

import pytest

from finetune_trainer.early_stopping import EarlyStopping
from finetune_trainer.objective import Objective


def stops_at(values, **settings) -> int | None:
    """Return after how many evaluations the run ends."""
    higher = settings.pop("higher_is_better", False)
    stopping = EarlyStopping(Objective("loss", higher), **settings)
    found = [{"step": step, "loss": value} for step, value in enumerate(values)]
    due = (n for n in range(1, len(values) + 1) if stopping.due(found[:n]))
    return next(due, None)


@pytest.mark.parametrize(
    ("settings", "values", "expected"),
    [
        pytest.param({"patience": 0}, [1, 2, 3, 4], None, id="off"),
        pytest.param({"patience": 2}, [3, 2, 2, 2, 1], 4, id="equal is no improvement"),
        pytest.param({"patience": 2}, [3, 4, 2, 4, 1], None, id="one improvement starts anew"),
        pytest.param({"patience": 1, "threshold": 0.5}, [3, 2.4, 2.0], 3, id="too small a change"),
        pytest.param(
            {"patience": 2, "threshold": 0.5}, [3, 2.7, 2.4], None, id="small changes add up"
        ),
        pytest.param({"patience": 1, "higher_is_better": True}, [0.1, 0.2, 0.2], 3, id="accuracy"),
        pytest.param({"patience": 2}, [float("nan"), float("inf"), 1.0], 2, id="never finite"),
    ],
)
def test_it_ends_at_the_expected_evaluation(settings, values, expected):
    assert stops_at(values, **settings) == expected


def test_without_an_objective_nothing_ends_early():
    found = [{"step": step, "loss": 1.0} for step in range(9)]
    assert not EarlyStopping(None, patience=1).due(found)
