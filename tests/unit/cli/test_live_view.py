"""How a run is shown."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from finetune_cli.live_view import LiveView, PlainView, duration, sparkline
from finetune_cli.run_rows import Row, State
from finetune_operator.observed import Key

KEY = Key("FineTuneExperiment", "default", "demo")


def training(**changes):
    values = {"percentage": 40, "step": 40, "total_steps": 100, "loss": 2.5, **changes}
    return Row(KEY, State.RUNNING, "Training", "", **values)


def printed(*shown):
    output = io.StringIO()
    view = PlainView(Console(file=output, width=200))
    for rows in shown:
        view.show(rows)
    return output.getvalue().splitlines()


def test_without_a_terminal_only_changes_are_printed():
    lines = printed([training()], [training(step=41)], [training(percentage=50, step=50)])
    assert lines == [
        "FineTuneExperiment/demo  Training  40%  step 40/100  loss 2.500",
        "FineTuneExperiment/demo  Training  50%  step 50/100  loss 2.500",
    ]


def test_a_message_with_brackets_is_printed_as_it_is():
    failed = Row(KEY, State.FAILED, "InvalidData", 'column "a" [first: 3]')
    assert printed([failed]) == ['FineTuneExperiment/demo  InvalidData  column "a" [first: 3]']


def test_a_terminal_shows_bar_numbers_and_the_course_of_the_loss():
    output = io.StringIO()
    view = LiveView(Console(file=output, width=140, force_terminal=True, color_system=None))
    view.show([training(step=10, loss=3.0)])
    view.show([training(loss=2.0, tokens_per_second=1234.0, eta_seconds=75)])
    view.close()
    last = output.getvalue()
    assert "step 40/100  loss 2.000  1,234 tok/s  ETA 1:15" in last
    assert "█▁" in last


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "0:05"), (65.4, "1:05"), (3600, "1:00:00")], ids=str
)
def test_durations_read_as_on_a_clock(seconds, text):
    assert duration(seconds) == text


def test_a_sparkline_spans_its_values_and_has_a_bounded_width():
    assert sparkline([1.0, 1.0]) == "▁▁"
    line = sparkline([float(n) for n in range(1000)])
    assert (line[0], line[-1]) == ("▁", "█")
    assert len(line) <= 32
