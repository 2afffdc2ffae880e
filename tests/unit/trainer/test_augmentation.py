"""What augmentation does to samples, and what it must never touch."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from finetune_trainer.augmentation import Augmentation, AugmentedSamples
from finetune_trainer.token_cache import CONTENT, SUPERVISED, TokenCache

SYSTEM, USER, ASSISTANT, END, MASK = 9001, 9002, 9003, 9004, 9999
"""Markers; content tokens lie below."""
ANSWER = SUPERVISED | CONTENT


def conversation(number, exchanges, *, system=True, supervised=None):
    """Return tokens, flags and turns of one sample; contents are unique to it."""
    tokens, flags, turns = [], [], []

    def turn(role, marker, content, *, flag):
        turns.append((len(tokens), role))
        tokens.extend([marker, *content, END])
        flags.extend([0, *[flag] * len(content), SUPERVISED * (flag == ANSWER)])

    base = 10 * number * (number < 90)
    if system:
        turn(0, SYSTEM, [base + 7], flag=CONTENT)
    for exchange in range(exchanges):
        turn(1, USER, [base + 1, exchange], flag=CONTENT)
        learned = supervised is None or exchange in supervised
        turn(2, ASSISTANT, [base + 2, exchange, base + 3], flag=ANSWER if learned else CONTENT)
    return tokens, flags, turns


def cache_of(*samples, groups=()):
    tokens, flags, turns, offsets = [], [], [], [0]
    for one_tokens, one_flags, one_turns in samples:
        turns += [(len(tokens) + start, role) for start, role in one_turns]
        tokens += one_tokens
        flags += one_flags
        offsets.append(len(tokens))
    return TokenCache(
        tokens=np.array(tokens, np.uint32),
        flags=np.array(flags, np.uint8),
        offsets=np.array(offsets, np.int64),
        rows=np.arange(len(samples), dtype=np.uint32),
        turns=np.array(turns, np.int64).reshape(-1, 2),
        groups=np.array(groups, np.uint32),
    )


def chats(count=60, **more):
    return cache_of(*(conversation(n, n % 5 + 1, **more) for n in range(count)))


def augmented(cache, **settings):
    given = {"seed": 3, "limit": 10_000, "mask_token": MASK} | settings
    return AugmentedSamples(cache, Augmentation(**given))


def texts(cache, epoch=0, **settings):
    index = augmented(cache, **settings).of(epoch)
    return [tuple(part.tolist() for part in index.sample(i)) for i in range(len(cache))]


ALL = {"skip": 0.5, "insert": 0.5, "mask": 0.3}


@pytest.mark.parametrize("system", [True, False], ids=["system text", "none"])
@pytest.mark.parametrize(
    "settings",
    [{"skip": 0.5}, {"insert": 0.7}, {"mask": 0.4}, {"mask": 0.9, "skip": 1.0}, ALL],
    ids="+".join,
)
def test_the_index_of_an_epoch_tells_what_its_samples_are(settings, system):
    cache = chats(system=system)
    for epoch in (0, 1, 5):
        index = augmented(cache, **settings).of(epoch)
        for i in range(len(cache)):
            tokens, flags = index.sample(i)
            assert len(tokens) == len(flags) == index.lengths[i]
            assert np.count_nonzero(flags & SUPERVISED) == index.supervised[i] > 0
            assert not flags[0] & SUPERVISED


def test_every_token_supervised_still_gives_true_counts_without_system_text():
    plain = chats(system=False)
    every = TokenCache(
        plain.tokens, plain.flags | SUPERVISED, plain.offsets, plain.rows, plain.turns
    )
    for settings in (ALL, {"skip": 0.6}, {"insert": 0.6}):
        index = augmented(every, **settings).of(2)
        counted = [np.count_nonzero(index.sample(i)[1] & SUPERVISED) for i in range(len(every))]
        assert counted == index.supervised.tolist()


def test_nothing_changes_without_probabilities():
    cache = chats()
    index = augmented(cache).of(0)
    assert index.lengths.tolist() == cache.lengths.tolist()
    assert index.supervised.tolist() == cache.supervised.tolist()
    assert texts(cache) == [tuple(p.tolist() for p in cache.sample(i)) for i in range(len(cache))]


def test_an_epoch_is_a_function_of_seed_and_number():
    cache = chats()
    assert texts(cache, 4, **ALL) == texts(cache, 4, **ALL)
    assert texts(cache, 4, **ALL) != texts(cache, 5, **ALL)
    assert texts(cache, 4, **ALL) != texts(cache, 4, **ALL, seed=4)


@pytest.mark.parametrize("settings", [{"skip": 0.5}, {"insert": 1.0}, ALL], ids="+".join)
def test_a_thousand_augmented_chains_start_with_the_system_text_of_their_root(settings):
    cache = cache_of(*(conversation(n % 80, 4) for n in range(1000)))
    settings = settings | {"mask": 0.0}
    for number, (tokens, _) in enumerate(texts(cache, **settings)):
        assert tokens[:4] == [SYSTEM, 10 * (number % 80) + 7, END, USER]


def test_every_exchange_before_the_last_is_left_out_at_probability_one():
    for number, (tokens, _) in enumerate(texts(chats(), skip=1.0)):
        last = number % 5
        base = 10 * number
        answer = [ASSISTANT, base + 2, last, base + 3, END]
        assert tokens == [SYSTEM, base + 7, END, USER, base + 1, last, END, *answer]


def test_exchanges_are_left_out_independently_with_the_probability():
    cache = cache_of(*(conversation(n % 80, 5) for n in range(2000)))
    kept = augmented(cache, skip=0.3).of(0).kept.reshape(-1, 5)
    assert kept[:, 4].all()
    assert kept[:, :4].mean() == pytest.approx(0.7, abs=0.02)
    assert np.abs(np.corrcoef(kept[:, :4].T) - np.eye(4)).max() < 0.07


def test_a_drawn_parent_is_the_first_exchange_of_another_tree_with_its_end_tokens():
    """Its ids are those of a normal turn, so its end token is there."""
    cache = cache_of(*(conversation(n, 2) for n in range(20)), groups=[n // 2 for n in range(20)])
    seen = set()
    for number, (tokens, _) in enumerate(texts(cache, insert=1.0)):
        own, donor = conversation(number, 2)[0], tokens[4] // 10
        assert tokens[:3] == own[:3]
        assert tokens[3:12] == conversation(donor, 1)[0][3:]
        assert tokens[12:] == own[12:]
        assert donor // 2 != number // 2
        seen.add(donor)
    assert len(seen) > 8


def test_a_drawn_parent_replaces_the_first_that_survived_else_is_added():
    cache = cache_of(*(conversation(n, 3) for n in range(10)))
    for number, (tokens, _) in enumerate(texts(cache, insert=1.0)):
        own = conversation(number, 3)[0]
        assert len(tokens) == len(own)
        assert tokens[12:] == own[12:]
    for number, (tokens, _) in enumerate(texts(cache, insert=1.0, skip=1.0)):
        assert tokens[12:] == conversation(number, 3)[0][21:]


def test_a_drawn_parent_is_context_only():
    cache = cache_of(*(conversation(n, 2) for n in range(20)))
    for number, (_, flags) in enumerate(texts(cache, insert=1.0)):
        assert not any(flag & SUPERVISED for flag in flags[3:12])
        assert flags[12:] == conversation(number, 2)[1][12:]


def test_a_drawn_parent_above_the_limit_is_left_out_and_counted():
    long = [[USER, *range(500), END, ASSISTANT, 1, END], [0, *[CONTENT] * 500, 0, 0, 3, 1]]
    samples = [conversation(n, 1) for n in range(10)] + [(*long, [(0, 1), (502, 2)])]
    cache = cache_of(*samples)
    index = augmented(cache, insert=1.0, limit=510).of(0)
    assert index.left_out > 0
    assert index.lengths.max() <= 510
    assert augmented(cache, insert=1.0, limit=2000).of(0).left_out == 0
    assert index.left_out + (index.donors >= 0).sum() == 11


def test_ten_thousand_masks_hit_content_only():
    cache = cache_of(*(conversation(n % 80, 4) for n in range(1000)))
    hits = 0
    for (tokens, flags), (plain, marks) in zip(
        texts(cache, mask=0.5), map(cache.sample, range(1000)), strict=True
    ):
        masked = np.array(tokens) != plain
        hits += int(masked.sum())
        assert set(np.array(tokens)[masked].tolist()) == {MASK}
        assert (marks[masked] & CONTENT).all()
        assert not (np.array(flags)[masked] & SUPERVISED).any()
        assert ((np.array(flags) == marks) | masked).all()
    content = np.count_nonzero(cache.flags & CONTENT)
    assert hits > 10_000
    assert hits / content == pytest.approx(0.5, abs=0.02)


def test_masking_leaves_each_sample_a_supervised_row():
    """No end token is supervised here, so masks alone could take every label."""
    cache = chats()
    bare = TokenCache(
        cache.tokens,
        np.where(cache.tokens == END, 0, cache.flags).astype(np.uint8),
        cache.offsets,
        cache.rows,
        cache.turns,
    )
    index = augmented(bare, mask=0.9).of(0)
    counts = [np.count_nonzero(index.sample(i)[1] & SUPERVISED) for i in range(len(bare))]
    assert counts == index.supervised.tolist()
    assert min(counts) == 1


def test_a_sample_whose_labels_lie_in_its_parents_keeps_them():
    cache = cache_of(*(conversation(n, 3, supervised={0}) for n in range(20)))
    index = augmented(cache, skip=1.0, insert=1.0).of(0)
    assert index.kept.all()
    assert (index.donors == -1).all()
    assert index.supervised.tolist() == cache.supervised.tolist()


def test_documents_and_single_turns_are_masked_only():
    document = ([5, 6, 7, 8], [0, 3, 3, 3], [])
    cache = cache_of(document, document, conversation(3, 1))
    index = augmented(cache, skip=1.0).of(0)
    assert index.lengths.tolist() == cache.lengths.tolist()
    assert texts(cache, insert=1.0)[:2] == [([5, 6, 7, 8], [0, 3, 3, 3])] * 2


def test_the_map_is_counted_piece_by_piece_as_at_once(monkeypatch):
    cache = chats(200)
    whole = augmented(cache, **ALL).of(1)
    monkeypatch.setattr("finetune_trainer.token_cache.PIECE", 50)
    pieces = augmented(cache, **ALL).of(1)
    assert pieces.supervised.tolist() == whole.supervised.tolist()
    flags = cache.flags & SUPERVISED
    own = [int(flags[a + 1 : b].sum()) for a, b in pairwise(cache.offsets)]
    fresh = TokenCache(cache.tokens, cache.flags, cache.offsets, cache.rows)
    assert fresh.supervised.tolist() == own
