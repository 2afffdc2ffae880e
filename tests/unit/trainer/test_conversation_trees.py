"""Rows that name their parents: how they are found, joined, checked and kept together."""

from __future__ import annotations

import json
import random

import pyarrow.parquet as pq
import pytest

from data_ground import dataset_config, dataset_spec, from_claim, jsonl, reporter
from finetune_trainer.conversation_trees import root_numbers
from finetune_trainer.dataset_job import InvalidDataError, run

HOME = "results/datasets/default/faq-1"


def row(name, parent=None, **more):
    return {"id": name, "parent": parent, "prompt": f"q{name}", "answer": f"a{name}"} | more


def finished(ground, rows, **spec):
    """Return the rows of the train split of a job on linked rows, by id."""
    ground.put("faq.jsonl", jsonl(rows))
    spec = {"split": {"validation": 0.0}} | spec
    run(config := dataset_config(dataset_spec(from_claim("faq.jsonl"), **spec)), reporter(config))
    table = pq.read_table(ground.claims / HOME / "snapshot-1/train.parquet")
    return {one["id"]: one for one in table.to_pylist()}


def refused(ground, rows, **spec):
    with pytest.raises(InvalidDataError) as error:
        finished(ground, rows, **spec)
    return {one.reason: one for one in error.value.summary.findings if one.action == "Failed"}


def test_linked_rows_are_detected_and_keep_their_links(ground):
    kept = finished(ground, [row("1", system="be brief"), row("2", "1"), row("3", "1")])
    assert {name: one["parent"] for name, one in kept.items()} == {"1": None, "2": "1", "3": "1"}
    assert len({one["group"] for one in kept.values()}) == 1


@pytest.mark.parametrize(
    ("first", "second"), [(12, 12.0), (12, "12"), ("12.0", 12), (" x ", "x")], ids=str
)
def test_an_id_is_the_same_however_it_is_written(ground, first, second):
    kept = finished(ground, [row(first), row("child", second)])
    assert kept["child"]["parent"] == str(second).strip().removesuffix(".0")


@pytest.mark.parametrize(
    ("rows", "reason", "text"),
    [
        pytest.param(
            [row("1"), row("2", "1"), row("1"), row("1")],
            "DuplicateId",
            '2 rows have an id that occurred before (first: 3, 4; "1")',
            id="an id twice",
        ),
        pytest.param(
            [row("1"), row("2", "1"), row("3", "3")],
            "SelfParent",
            "1 rows are their own parent (first: 3)",
            id="its own parent",
        ),
        pytest.param(
            [row("1"), row("4", "6"), row("5", "4"), row("6", "5"), row("7", "6")],
            "ChainCycle",
            "ids 4 → 6 → 5 → 4 form a cycle; 1 cycles (first: 2)",
            id="a cycle",
        ),
        pytest.param(
            [row("1"), row("2", "1"), row("3", "lost"), row("4", "3")],
            "UnknownParent",
            '1 rows name a parent that does not exist (first: 3; "lost")',
            id="a parent that is not there",
        ),
        pytest.param([row("1", "8"), row("2", "9")], "NoChain", "no parent equals any id", id="no"),
        pytest.param(
            [row("1", "2"), row("2", "1")], "NoRoot", "no row has an empty parent", id="no root"
        ),
        pytest.param(
            [row(str(n), str(n - 1) if n else None) for n in range(1003)],
            "ChainTooDeep",
            "1 rows lie more than 1,000 rows below their root (first: 1001)",
            id="too deep",
        ),
    ],
)
def test_what_is_wrong_with_links_is_told_with_its_rows(ground, rows, reason, text):
    assert text in refused(ground, rows)[reason].message


def test_all_findings_of_links_come_in_one_pass(ground):
    rows = [row("1"), row("1"), row("2", "2"), row("3", "4"), row("4", "3"), row("5", "lost")]
    found = refused(ground, [*rows, row("6", "1")])
    assert set(found) == {"DuplicateId", "SelfParent", "ChainCycle", "UnknownParent"}


def test_an_unknown_parent_makes_a_root_or_takes_its_branch_along_as_the_policy_says(ground):
    rows = [row("1"), row("2", "1"), row("3", "lost"), row("4", "3")]
    checks = {"maxDroppedShare": 1.0, "unknownParent": "Drop"}
    assert set(finished(ground, rows, checks=checks)) == {"1", "2"}


def test_an_accepted_unknown_parent_makes_a_root(ground):
    rows = [row("1"), row("2", "1"), row("3", "lost"), row("4", "3")]
    kept = finished(ground, rows, checks={"unknownParent": "Accept"})
    assert {name: one["parent"] for name, one in kept.items()} == {
        "1": None,
        "2": "1",
        "3": None,
        "4": "3",
    }
    assert kept["3"]["group"] == kept["4"]["group"] != kept["1"]["group"]


def test_a_row_that_is_dropped_takes_its_descendants_along_and_they_are_counted(ground):
    rows = [row("1"), row("2", "1", answer=" "), row("3", "2"), row("4", "3"), row("5", "1")]
    ground.put("faq.jsonl", jsonl(rows))
    spec = dataset_spec(
        from_claim("faq.jsonl"),
        split={"validation": 0.0},
        checks={"emptyAnswer": "Drop", "maxDroppedShare": 1.0},
    )
    summary = run(config := dataset_config(spec), reporter(config))
    assert (summary.records.total, summary.records.dropped) == (2, 3)
    assert [one.count for one in summary.findings if one.reason == "EmptyAnswer"] == [1]


def forest(trees, depth, *, seed=1):
    """Return the shuffled rows of trees that branch at random."""
    drawn = random.Random(seed)
    rows = [row(f"{tree}.0", tree=tree) for tree in range(trees)]
    rows += [
        row(f"{tree}.{n}", f"{tree}.{drawn.randrange(n)}", tree=tree)
        for tree in range(trees)
        for n in range(1, depth)
    ]
    drawn.shuffle(rows)
    return rows


@pytest.mark.parametrize("seed", range(3))
def test_no_tree_crosses_a_split(ground, seed):
    ground.put("faq.jsonl", jsonl(forest(40, 6)))
    spec = dataset_spec(
        from_claim("faq.jsonl"), split={"validation": 0.3, "test": 0.2, "seed": seed}
    )
    run(config := dataset_config(spec), reporter(config))
    seen = [
        {name.split(".")[0] for name in table["id"].to_pylist()}
        for table in (
            pq.read_table(ground.claims / HOME / f"snapshot-1/{split}.parquet")
            for split in ("train", "validation", "test")
        )
    ]
    assert [len(trees) for trees in seen] == [20, 12, 8]
    assert sum(map(len, seen)) == len(set().union(*seen))


def test_rows_of_a_source_are_sampled_by_whole_trees_through_the_mapped_columns(ground):
    rows = [
        {"nr": one["id"], "reply_to": one["parent"], "prompt": one["prompt"], "answer": "a"}
        for one in forest(20, 5)
    ]
    ground.put("faq.jsonl", jsonl(rows))
    source = from_claim("faq.jsonl", maxRows=32)
    columns = {"id": "nr", "parentId": "reply_to"}
    spec = dataset_spec(source, columns=columns, split={"validation": 0.0})
    run(config := dataset_config(spec), reporter(config))
    table = pq.read_table(ground.claims / HOME / "snapshot-1/train.parquet")
    sizes = [one.split(".")[0] for one in table["id"].to_pylist()]
    assert len(sizes) == 30
    assert {sizes.count(tree) for tree in sizes} == {5}


def test_equal_ids_of_two_sources_are_told_apart(ground):
    for name in ("one", "two"):
        ground.put(f"{name}.jsonl", jsonl([row("1", answer=name), row("2", "1")]))
    sources = [from_claim(f"{name}.jsonl", name=name) for name in ("one", "two")]
    spec = dataset_spec(*sources, split={"validation": 0.0})
    run(config := dataset_config(spec), reporter(config))
    table = pq.read_table(ground.claims / HOME / "snapshot-1/train.parquet")
    assert table["id"].to_pylist() == ["one:1", "one:2", "two:1", "two:2"]
    assert table["parent"].to_pylist() == [None, "one:1", None, "two:1"]


def test_a_held_out_source_without_parents_has_single_turns_and_the_report_says_so(ground):
    ground.put("faq.jsonl", jsonl([row("1"), row("2", "1")]))
    ground.put("held.jsonl", jsonl([{"prompt": "q", "answer": "a"}]))
    sources = [from_claim("faq.jsonl"), from_claim("held.jsonl", split="Validation")]
    spec = dataset_spec(*sources, columns={"id": "id", "parentId": "parent"})
    summary = run(config := dataset_config(spec), reporter(config))
    assert (summary.records.train, summary.records.validation) == (2, 1)
    assert "NoParentColumn" in {one.reason for one in summary.findings}


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"id": "", "parentId": "parent"}, "ParentNeedsId"),
        ({"id": "parent", "parentId": "parent"}, "SameColumnTwice"),
        ({"id": "id", "parentId": "nobody"}, "MissingColumn"),
    ],
    ids=["no id", "one column for both", "no such column"],
)
def test_a_mapped_parent_that_cannot_link_rows_is_a_finding(ground, columns, reason):
    assert set(refused(ground, [row("1"), row("2", "1")], columns=columns)) == {reason}


def test_a_parent_of_lists_of_turns_is_refused_not_ignored(ground):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    rows = [{"id": n, "parent": None, "messages": turns} for n in range(3)]
    found = refused(ground, rows, columns={"parentId": "parent"})
    assert "rows of layout Messages are not linked" in found["AmbiguousColumns"].message


def test_ids_and_parents_of_different_types_are_told(ground):
    ground.put("faq.jsonl", jsonl([row("1"), row("2", 1), row("3", 2)]))
    config = dataset_config(dataset_spec(from_claim("faq.jsonl"), split={"validation": 0.0}))
    told = {one.reason: one for one in run(config, reporter(config)).findings}
    assert "different types (text and numbers)" in told["IdTypeMismatch"].message


def test_the_report_draws_the_sizes_and_leaves_of_trees(ground):
    finished(ground, [*forest(3, 4), row("alone"), row("a"), row("b", "a"), row("c", "a")])
    report = json.loads((ground.claims / HOME / "report-1/report.json").read_text())
    drawn = {one["title"]: one for one in report["histograms"]}
    assert drawn["Conversation trees"]["counts"][:5] == [0, 1, 0, 1, 3]
    assert sum(drawn["Ends of conversation trees"]["counts"]) == 5


def test_ids_are_not_detected_where_the_spec_says_there_are_none(ground):
    kept = finished(ground, [row("1"), row("2", "1")], columns={"id": "", "parentId": ""})
    assert all("parent" not in one for one in kept.values())
    assert not set(kept) & {"1", "2"}


def test_an_id_column_by_itself_names_the_records(ground):
    rows = [{"nr": n, "prompt": f"q{n}", "answer": "a"} for n in (7, 8)]
    assert set(finished(ground, rows, columns={"id": "nr"})) == {"7", "8"}
    twice = [*rows, {"nr": 8, "prompt": "other", "answer": "b"}]
    assert "DuplicateId" in refused(ground, twice, columns={"id": "nr"})


def test_roots_are_found_in_any_order_and_cycles_end():
    assert root_numbers(["c", "b", "a", "x"], ["b", "a", None, "gone"]) == [2, 2, 2, 3]
    assert len(set(root_numbers(["a", "b", "c"], ["b", "a", "b"]))) == 1


def test_a_turn_that_the_data_marks_untrained_keeps_the_mark(ground):
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "draft", "weight": 0},
        {"role": "user", "content": "again"},
        {"role": "assistant", "content": "final", "train": True},
    ]
    kept = finished(ground, [{"messages": turns}, {"messages": turns[2:]}]).values()
    marks = [[turn["train"] for turn in one["turns"]] for one in kept]
    assert marks == [[True, False, True, True], [True, True]]
