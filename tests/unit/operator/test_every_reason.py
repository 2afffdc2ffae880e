"""Every documented reason comes about, is told as documented, and no other is ever told."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from finetune_api.conditions import (
    EVENT_REASONS,
    FAILURE_REASONS,
    NEUTRAL_REASONS,
    PROGRESS_REASONS,
    WAITING_REASONS,
)
from finetune_api.run_outcome import EXIT_CODES, FailureClass
from finetune_trainer import errors
from finetune_trainer.finding_kinds import CHECKS
from reason_cases import CASES, SAID_BY_TRAINER

ROOT = Path(__file__).parents[3]
TABLES = (FAILURE_REASONS, WAITING_REASONS, PROGRESS_REASONS, NEUTRAL_REASONS, EVENT_REASONS)
KNOWN = {reason for table in TABLES for reason in table}
GIVEN_AT = {
    "Verdict": 1, "Refusal": 0, "Event": 1, "turned": 0, "Obstacle": 1, "Answer": 1, "End": 1,
    "Achievement": 1,
}  # fmt: skip
"""Where the calls that make statuses and events take a reason."""
NOT_SHOWN = {"Suspended", "Preempted", "Completed", "Replaced"}
"""Words of the attempt's record alone."""


@pytest.mark.parametrize("reason", sorted(KNOWN))
def test_every_documented_reason_has_a_story(reason: str) -> None:
    assert reason in CASES, "add a story to tests/reason_cases.py, or delete the reason"


def test_no_story_tells_of_a_reason_that_is_not_documented() -> None:
    assert set(CASES) - KNOWN == set()


def test_no_reason_stands_in_two_tables() -> None:
    assert sum(len(table) for table in TABLES) == len(KNOWN)


@pytest.mark.parametrize("reason", CASES)
def test_a_story_ends_in_the_conditions_that_are_documented(reason: str) -> None:
    case = CASES[reason]
    found = {one["type"]: one for one in case.plan.status["conditions"]}
    told = {name: f"{found[name]['status']} {found[name]['reason']}" for name in case.says}
    assert told == dict(case.says)
    message = found[next(iter(case.says))]["message"]
    assert [word for word in case.words if word not in message] == []
    posted = [event.reason for event in case.plan.events]
    assert [one for one in case.events if one not in posted] == []
    if reason in WAITING_REASONS:
        assert WAITING_REASONS[reason][0] == next(iter(case.says))
    if reason in EVENT_REASONS:
        assert reason in posted


@pytest.mark.parametrize("reason", [name for name, case in CASES.items() if case.failure])
def test_an_end_is_recorded_with_its_class_and_exit_code(reason: str) -> None:
    case = CASES[reason]
    record = case.plan.status["history"][0]
    assert (record["outcome"], record["class"]) == (reason, case.failure)
    code = EXIT_CODES.get(case.failure) if case.failure else None
    if reason in SAID_BY_TRAINER:
        assert record["exitCode"] == code
        assert case.failure in raised_with(reason)


@pytest.mark.parametrize("reason", FAILURE_REASONS)
def test_a_failure_is_final_or_refused_and_warns(reason: str) -> None:
    case = CASES[reason]
    conditions = {one["type"]: one["status"] for one in case.plan.status["conditions"]}
    assert conditions["Stalled"] == "True"
    assert conditions["Reconciling"] == "False"
    assert (conditions["Failed"] == "True") == (case.failure is not None)
    assert [(one.type, one.reason) for one in case.plan.events][:1] == [("Warning", reason)]


@pytest.mark.parametrize("reason", WAITING_REASONS)
def test_waiting_is_no_failure_and_its_cause_stands_in_ready(reason: str) -> None:
    case = CASES[reason]
    found = {one["type"]: one for one in case.plan.status["conditions"]}
    assert (found["Failed"]["status"], found["Stalled"]["status"]) == ("False", "False")
    assert found[next(iter(case.says))]["message"] in found["Ready"]["message"]


def test_the_operator_gives_no_reason_that_is_not_documented() -> None:
    folder = ROOT / "operator" / "finetune_operator"
    unknown = {
        (path.name, reason)
        for path in folder.rglob("*.py")
        for reason in given_reasons(ast.parse(path.read_text()))
        if reason not in KNOWN | NOT_SHOWN
    }
    assert unknown == set()


def test_the_trainer_gives_no_reason_that_is_not_documented() -> None:
    unknown = {
        (name, reason) for name, reason, _ in trainer_reasons()
        if reason not in KNOWN | set(CHECKS)
    }  # fmt: skip
    assert unknown == set()


def test_every_refusal_of_the_trainer_says_what_to_do() -> None:
    silent = [
        f"{path.name}:{call.lineno}"
        for path in trainer_modules()
        for call in raised_errors(ast.parse(path.read_text()))
        if not says_a_remedy(call)
    ]
    assert silent == []


def given_reasons(tree: ast.Module) -> Iterator[str]:
    """Yield the reasons that stand as texts in calls that make conditions and events."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        at = GIVEN_AT.get(name)
        if at is not None and len(call.args) > at and isinstance(call.args[at], ast.Constant):
            yield str(call.args[at].value)


def trainer_modules() -> list[Path]:
    """Return the modules of the trainer."""
    return sorted((ROOT / "trainer_image" / "finetune_trainer").rglob("*.py"))


@cache
def trainer_reasons() -> list[tuple[str, str, str]]:
    """Return module, reason and the class of error that carries it."""
    return list(reasons_in(trainer_modules()))


def reasons_in(modules: list[Path]) -> Iterator[tuple[str, str, str]]:
    """Yield module, reason and the class of error that carries it."""
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                named = [one.value for one in node.keywords if one.arg == "reason"]
                for value in (one for one in named if isinstance(one, ast.Constant)):
                    yield path.name, str(value.value), ast.unparse(node.func)
            if isinstance(node, ast.ClassDef) and node.bases:
                for value in class_reasons(node):
                    yield path.name, value, node.name
                    yield path.name, value, ast.unparse(node.bases[0])


def class_reasons(node: ast.ClassDef) -> Iterator[str]:
    """Yield the reason that all errors of a class have."""
    for line in node.body:
        if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "reason":
            yield ast.literal_eval(line.value)


def raised_with(reason: str) -> set[FailureClass]:
    """Return the failure classes with which the trainer gives a reason."""
    kinds = {kind for _, given, kind in trainer_reasons() if given == reason}
    return {vars(errors)[kind].failure for kind in kinds if kind in vars(errors)}


def raised_errors(tree: ast.Module) -> Iterator[ast.Call]:
    """Yield the calls that make an error with a reason of its own."""
    for node in ast.walk(tree):
        an_error = isinstance(node, ast.Call) and ast.unparse(node.func) in vars(errors)
        if an_error and any(one.arg == "reason" for one in node.keywords):
            yield node


def says_a_remedy(call: ast.Call) -> bool:
    """Tell whether a refusal's text, as far as it stands in the call, ends with what to do."""
    texts = [
        node.value
        for node in ast.walk(call.args[0])
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    whole = "".join(texts)
    remedied = any(one.arg == "remedy" for one in call.keywords)
    elsewhere = not whole or isinstance(call.args[0], ast.Call | ast.Name) or len(whole) < 10
    return remedied or elsewhere or "; " in whole or "Fix: " in whole
