"""What a sample loses above the length limit, and in which order."""

import pytest

from data_ground import CHAT, SPECIAL, trained_tokenizer
from finetune_api.training_settings import Overflow
from finetune_trainer.chat_template import ChatTemplate, SpecialTokens
from finetune_trainer.encode import SUPERVISED, Encoder
from finetune_trainer.errors import DataError
from finetune_trainer.prepared_samples import automatic_limit, encoded_records, fitting_samples
from finetune_trainer.snapshot import Rows
from finetune_trainer.text_tokenizer import TextTokenizer
from finetune_trainer.truncation import fitted, fitted_prompt

SPECIALS = SpecialTokens(end="<|end|>", all=frozenset(SPECIAL))


@pytest.fixture(scope="module")
def encoder():
    tokenizer = TextTokenizer(trained_tokenizer(["w "] * 9), SPECIALS, None)
    return Encoder(tokenizer, ChatTemplate("Model", CHAT, SPECIALS))


def words(start, count):
    """Return `count` words of about two tokens that tell their number."""
    return "".join(f"{chr(65 + (start + n) % 26)} " for n in range(count))


def conversation(*sizes, system=0):
    messages = [{"role": "system", "content": words(0, system)}] if system else []
    for at, size in enumerate(sizes):
        role = "assistant" if at % 2 else "user"
        messages.append({"role": role, "content": words(at, size)})
    return messages


def test_the_oldest_exchanges_go_first(encoder):
    messages = conversation(9, 9, 9, 9, 3, 3, system=2)
    sample, cut = fitted(encoder, messages, 40)
    text = encoder.tokenizer.decode(sample.ids)
    assert (cut.turns, cut.user, cut.system, cut.answer) == (4, False, False, False)
    assert len(sample.ids) <= 40
    assert text.startswith("<|system|>A B <|end|>\n<|user|>E F G <|end|>")


def test_then_the_beginning_of_the_last_user_text_goes(encoder):
    messages = conversation(40, 4, system=3)
    sample, cut = fitted(encoder, messages, 64)
    text = encoder.tokenizer.decode(sample.ids)
    assert (cut.turns, cut.user, cut.system, cut.answer) == (0, True, False, False)
    assert 60 <= len(sample.ids) <= 64
    assert f"{messages[1]['content'][-12:]}<|end|>" in text
    assert text.endswith(f"{messages[2]['content']}<|end|>\n")
    assert cut.tokens > 20


def test_user_text_keeps_an_eighth_and_the_system_text_goes_next(encoder):
    messages = conversation(40, 4, system=40)
    sample, cut = fitted(encoder, messages, 64)
    text = encoder.tokenizer.decode(sample.ids)
    assert (cut.user, cut.system, cut.answer) == (True, True, False)
    assert len(sample.ids) <= 64
    user = text.partition("<|user|>")[2].partition("<|end|>")[0]
    assert len(encoder.tokenizer.ids(user)) == 8
    assert text.startswith(f"<|system|>{words(0, 3)}")


def test_the_end_of_the_answer_goes_last_and_with_it_its_end_token(encoder):
    messages = conversation(40, 60, system=40)
    sample, cut = fitted(encoder, messages, 64)
    text = encoder.tokenizer.decode(sample.ids)
    assert (cut.user, cut.system, cut.answer) == (True, True, True)
    assert len(sample.ids) == 64
    assert not sample.ends
    assert text.partition("<|assistant|>")[2] in messages[2]["content"]
    assert sample.flags[-1] & SUPERVISED


def test_a_prompt_is_cut_in_the_same_order_and_keeps_its_end(encoder):
    messages = conversation(9, 9, 30)
    ids = fitted_prompt(encoder, messages, 40)
    text = encoder.tokenizer.decode(ids)
    assert len(ids) <= 40
    assert text.endswith(f"{messages[2]['content'][-8:]}<|end|>\n<|assistant|>")


@pytest.mark.parametrize("limit", [16, 20, 33, 48, 64, 100, 200])
@pytest.mark.parametrize("system", [0, 5, 50])
def test_every_sample_fits_whatever_the_limit(encoder, limit, system):
    sample, _ = fitted(encoder, conversation(30, 8, 25, 40, system=system), limit)
    assert len(sample.ids) <= limit
    assert len(sample.flags) == len(sample.ids)


def rows(*conversations):
    turns = [[dict(one) for one in messages] for messages in conversations]
    count = len(turns)
    return Rows([f"{n}" for n in range(count)], [None] * count, turns, [None] * count)


def prepared(encoder, overflow, limit=40):
    data = rows(conversation(2, 2), conversation(50, 2), conversation(2, 50), conversation(3, 3))
    found = encoded_records(data, encoder, None)
    return fitting_samples("train", found, encoder, limit, overflow)


def test_truncated_samples_are_counted_by_what_they_lost(encoder):
    kept, account = prepared(encoder, Overflow.TRUNCATE)
    assert [row for row, _ in kept] == [0, 1, 2, 3]
    assert (account.above, account.cuts["user"], account.cuts["answer"]) == (2, 1, 1)
    assert account.rows == [2, 3]
    assert account.tokens - account.lost_tokens == sum(len(sample.ids) for _, sample in kept)
    assert account.without_end == 1


def test_dropped_samples_are_counted(encoder):
    kept, account = prepared(encoder, Overflow.DROP)
    assert [row for row, _ in kept] == [0, 3]
    assert account.dropped == {"TooLong": 2}


def test_the_policy_fail_names_the_first_rows(encoder):
    with pytest.raises(DataError) as refused:
        prepared(encoder, Overflow.FAIL)
    assert refused.value.reason == "TooLong"
    assert "train, 2 samples exceed 40 tokens (first rows: 2, 3)" in str(refused.value)


def test_a_sample_whose_answer_is_gone_is_dropped_and_counted(encoder):
    data = rows(
        conversation(2, 2), [{"role": "user", "content": "x " * 40}, *conversation(1, 4)[1:]]
    )
    found = encoded_records(data, encoder, None)
    kept, account = fitting_samples("train", found, encoder, 8, Overflow.TRUNCATE)
    assert len(kept) + account.dropped["NothingSupervised"] == 2
    assert all(sample.supervised for _, sample in kept)


def test_documents_lose_their_end(encoder):
    data = Rows(["0"], [None], [None], ["x " * 50])
    found = encoded_records(data, encoder, None)
    ((_, sample),), account = fitting_samples("train", found, encoder, 16, Overflow.TRUNCATE)
    assert (len(sample.ids), sample.ends, account.cuts["answer"]) == (16, False, 1)


@pytest.mark.parametrize(
    ("lengths", "share", "context", "limit"),
    [
        pytest.param([10] * 100, 0.99, None, 64, id="rounded up to 64"),
        pytest.param([*[100] * 99, 5000], 0.99, 4096, 128, id="one outlier does not decide"),
        pytest.param([100, 5000], 1.0, 4096, 4096, id="at most the context"),
        pytest.param([64], 1.0, None, 64, id="an exact multiple stays"),
        pytest.param([65], 1.0, None, 128, id="one more token is one more block"),
    ],
)
def test_the_automatic_limit_is_a_quantile(lengths, share, context, limit):
    assert automatic_limit(lengths, share, context) == limit
