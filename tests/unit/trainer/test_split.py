"""The division of records: seeded, stable, nothing of a group on both sides."""

import pytest

from finetune_api.dataset import SplitShares
from finetune_trainer.record import Place, Record
from finetune_trainer.split import TEST, TRAIN, VALIDATION, divided, sampled


def record(text, *, group=None, split=None):
    return Record(Place("0", "f", 1, 1), text=text, group=group, split=split)


def documents(count):
    return [record(f"document {n}") for n in range(count)]


def split_of_texts(records, **shares):
    parts = divided(records, SplitShares(**shares))
    return dict(zip((one.text for one in records), parts.splits, strict=True))


def test_shares_are_kept():
    splits = list(split_of_texts(documents(1000), validation=0.1, test=0.2).values())
    assert [splits.count(name) for name in (TRAIN, VALIDATION, TEST)] == [700, 100, 200]


def test_the_same_seed_divides_alike_and_another_differently():
    one, two = (split_of_texts(documents(200), validation=0.2) for _ in range(2))
    assert one == two
    assert split_of_texts(documents(200), validation=0.2, seed=7) != one


def test_the_order_of_rows_does_not_matter():
    records = documents(300)
    assert split_of_texts(records, validation=0.1) == split_of_texts(records[::-1], validation=0.1)


def test_appending_rows_hardly_moves_old_ones():
    before = split_of_texts(documents(1000), validation=0.1)
    after = split_of_texts(documents(1050), validation=0.1)
    moved = [text for text, split in before.items() if after[text] != split]
    assert len(moved) <= 15


@pytest.mark.parametrize("seed", range(20))
def test_groups_never_cross(seed):
    records = [record(f"{n}", group=f"team {n % 17}") for n in range(300)]
    parts = divided(records, SplitShares(validation=0.2, test=0.2, seed=seed))
    for team in range(17):
        assert len({parts.splits[n] for n in range(team, 300, 17)}) == 1


@pytest.mark.parametrize("seed", range(20))
def test_exact_copies_never_cross(seed):
    records = documents(20) * 5
    parts = divided(records, SplitShares(validation=0.3, seed=seed))
    train = {records[n].text for n in parts.members(TRAIN)}
    assert not train & {records[n].text for n in parts.members(VALIDATION)}


def test_a_small_dataset_still_gets_a_validation_record():
    assert list(split_of_texts(documents(3)).values()).count(VALIDATION) == 1


def test_no_share_means_no_split():
    assert set(split_of_texts(documents(9), validation=0.0).values()) == {TRAIN}


def test_a_given_split_is_kept_and_not_cut_from_the_rest():
    records = [record(f"held out {n}", split=VALIDATION) for n in range(3)] + documents(40)
    parts = divided(records, SplitShares(validation=0.5))
    assert parts.members(VALIDATION) == [0, 1, 2]
    assert len(parts.members(TRAIN)) == 40


def test_the_validation_split_is_bounded():
    splits = list(split_of_texts(documents(100), validation=0.5, max_validation_rows=7).values())
    assert splits.count(VALIDATION) == 7


def test_a_smaller_sample_is_part_of_a_larger_one():
    small, large = (sampled(range(100), limit, 1, "0") for limit in (10, 40))
    assert small < large
    assert (len(small), len(large)) == (10, 40)
    assert sampled(range(100), None, 1, "0") == set(range(100))
