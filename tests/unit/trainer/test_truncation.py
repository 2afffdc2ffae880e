"""What a sample loses above the length limit, and in which order."""

import numpy as np
import pytest

from data_ground import CHAT, SPECIAL, trained_tokenizer
from finetune_api.text_settings import Overflow, Prompt
from finetune_trainer.chat_template import ChatTemplate, SpecialTokens
from finetune_trainer.encode import SUPERVISED, Encoder
from finetune_trainer.errors import DataError
from finetune_trainer.prepared_samples import SplitSource, automatic_limit, spooled_samples
from finetune_trainer.sample_limits import SampleLimits
from finetune_trainer.snapshot import Rows
from finetune_trainer.template_choice import chosen_template
from finetune_trainer.text_tokenizer import TextTokenizer
from finetune_trainer.truncation import Limits, fitted, fitted_prompt

SPECIALS = SpecialTokens(end="<|end|>", all=frozenset(SPECIAL))


@pytest.fixture(scope="module")
def encoder():
    tokenizer = TextTokenizer(trained_tokenizer(["w "] * 9), SPECIALS, None)
    return Encoder(tokenizer, ChatTemplate("Model", CHAT, SPECIALS))


@pytest.fixture(scope="module")
def reader():
    tokenizer = TextTokenizer(trained_tokenizer(["w "] * 9), SPECIALS, None)
    return Encoder(tokenizer, chosen_template(Prompt(), None, SPECIALS))


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
    sample, cut = fitted(encoder, messages, Limits(40))
    text = encoder.tokenizer.decode(sample.ids.tolist())
    assert (cut.turns, cut.user, cut.system, cut.answer) == (4, False, False, False)
    assert len(sample.ids) <= 40
    assert text.startswith("<|system|>A B <|end|>\n<|user|>E F G <|end|>")


def test_then_the_beginning_of_the_last_user_text_goes(encoder):
    messages = conversation(40, 4, system=3)
    sample, cut = fitted(encoder, messages, Limits(64))
    text = encoder.tokenizer.decode(sample.ids.tolist())
    assert (cut.turns, cut.user, cut.system, cut.answer) == (0, True, False, False)
    assert 60 <= len(sample.ids) <= 64
    assert f"{messages[1]['content'][-12:]}<|end|>" in text
    assert text.endswith(f"{messages[2]['content']}<|end|>\n")
    assert cut.tokens > 20


def test_user_text_keeps_an_eighth_and_the_system_text_goes_next(encoder):
    messages = conversation(40, 4, system=40)
    sample, cut = fitted(encoder, messages, Limits(64))
    text = encoder.tokenizer.decode(sample.ids.tolist())
    assert (cut.user, cut.system, cut.answer) == (True, True, False)
    assert len(sample.ids) <= 64
    user = text.partition("<|user|>")[2].partition("<|end|>")[0]
    assert len(encoder.tokenizer.ids(user)) == 8
    assert text.startswith(f"<|system|>{words(0, 3)}")


def test_the_end_of_the_answer_goes_last_and_with_it_its_end_token(encoder):
    messages = conversation(40, 60, system=40)
    sample, cut = fitted(encoder, messages, Limits(64))
    text = encoder.tokenizer.decode(sample.ids.tolist())
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
    sample, _ = fitted(encoder, conversation(30, 8, 25, 40, system=system), Limits(limit))
    assert len(sample.ids) <= limit
    assert len(sample.flags) == len(sample.ids)


def rows(*conversations):
    turns = [[dict(one) for one in messages] for messages in conversations]
    count = len(turns)
    return Rows([f"{n}" for n in range(count)], [None] * count, turns, [None] * count)


def limited(encoder, folder, data, overflow, *, documents=False, **limits):
    """Return the samples as (row, ids, flags), and the account, of a split under limits."""
    source = SplitSource("train", data, encoder, documents=documents)
    *_, (_, spool) = spooled_samples(source, folder / "train")
    samples, account = SampleLimits(Limits(**limits), overflow).fitting(source, spool, folder)
    tokens, flags = (np.concatenate([*part()]) for part in (samples.tokens, samples.flags))
    borders = np.cumsum(samples.lengths)[:-1]
    rows = samples.table["row"].tolist()
    pieces = zip(np.split(tokens, borders), np.split(flags, borders), strict=True)
    return [(row, ids.tolist(), one) for row, (ids, one) in zip(rows, pieces, strict=True)], account


@pytest.fixture
def prepared(encoder, tmp_path):
    def prepared(overflow, **limits):
        data = rows(
            *(conversation(*sizes) for sizes in ((2, 2), (50, 2), (2, 50), (3, 3))),
        )
        return limited(encoder, tmp_path, data, overflow, **({"whole": 40} | limits))

    return prepared


def test_truncated_samples_are_counted_by_what_they_lost(prepared):
    kept, account = prepared(Overflow.TRUNCATE)
    assert [row for row, *_ in kept] == [0, 1, 2, 3]
    assert (account.above, account.cuts["user"], account.cuts["answer"]) == (2, 1, 1)
    assert account.rows == [2, 3]
    assert account.tokens - account.lost_tokens == sum(len(ids) for _, ids, _ in kept)
    assert account.without_end == 1


def test_a_cut_answer_has_no_supervised_end_token(prepared, encoder):
    kept, _ = prepared(Overflow.TRUNCATE)
    end = encoder.tokenizer.backend.token_to_id("<|end|>")
    supervised = [
        end in {token for token, flag in zip(ids, flags, strict=True) if int(flag) & SUPERVISED}
        for _, ids, flags in kept
    ]
    assert supervised == [True, True, False, True]


def test_dropped_samples_are_counted(prepared):
    kept, account = prepared(Overflow.DROP)
    assert [row for row, *_ in kept] == [0, 3]
    assert account.dropped == {"TooLong": 2}


def test_the_policy_fail_names_the_first_rows(prepared):
    with pytest.raises(DataError) as refused:
        prepared(Overflow.FAIL)
    assert refused.value.reason == "TooLong"
    assert "train, 2 samples exceed 40 tokens (first rows: 2, 3)" in str(refused.value)


def test_a_limit_of_prompts_cuts_what_stands_before_the_answer(prepared, encoder):
    (_, (_, ids, _), (_, long_answer, _), _), account = prepared(
        Overflow.TRUNCATE, whole=200, prompt=20
    )
    text = encoder.tokenizer.decode(ids)
    assert len(encoder.tokenizer.ids(text.partition("<|assistant|>")[0])) + 1 <= 20
    assert text.endswith("B C <|end|>\n")
    assert (account.above, account.cuts["user"], account.cuts["answer"]) == (1, 1, 0)
    assert len(long_answer) > 100


def test_a_limit_of_answers_cuts_the_answer_and_nothing_else(prepared, encoder):
    kept, account = prepared(Overflow.TRUNCATE, whole=200, answer=10)
    _, ids, flags = kept[2]
    assert int((flags.astype(int) & SUPERVISED).sum()) == 10
    assert encoder.tokenizer.decode(ids).startswith("<|user|>A B <|end|>\n<|assistant|>B C D")
    assert (account.above, account.cuts["user"], account.cuts["answer"]) == (1, 0, 1)


def test_a_sample_whose_answer_is_gone_is_dropped_and_counted(encoder, tmp_path):
    data = rows(
        conversation(2, 2), [{"role": "user", "content": "x " * 40}, *conversation(1, 4)[1:]]
    )
    kept, account = limited(encoder, tmp_path, data, Overflow.TRUNCATE, whole=8)
    assert len(kept) + account.dropped["NothingSupervised"] == 2
    assert all((flags[1:].astype(int) & SUPERVISED).any() for _, _, flags in kept)


def documents(*texts):
    return Rows(
        [f"{n}" for n in range(len(texts))], [None] * len(texts), [None] * len(texts), texts
    )


def test_documents_lose_their_end(reader, tmp_path):
    kept, account = limited(
        reader, tmp_path, documents("x " * 50), Overflow.TRUNCATE, documents=True, whole=16
    )
    assert (len(kept[0][1]), account.cuts["answer"], account.without_end) == (16, 1, 1)


@pytest.mark.parametrize("size", [2, 3, 16, 33, 100, 101, 102, 500])
def test_windows_predict_every_token_of_a_document_exactly_once(reader, tmp_path, size):
    texts = ["x " * 50, "word " * 7, "abc", "y z " * 40]
    whole = [reader.tokenizer.ids(reader.document(text).text) for text in texts]
    kept, account = limited(
        reader, tmp_path, documents(*texts), Overflow.WINDOW, documents=True, whole=size
    )
    again = {row: [ids[0] for at, ids, _ in kept if at == row][:1] for row, *_ in kept}
    for row, ids, flags in kept:
        assert len(ids) <= size
        assert (flags[1:].astype(int) & SUPERVISED).all()
        again[row] += ids[1:]
    assert list(again.values()) == whole
    assert (account.lost_tokens, account.dropped) == (0, {})
    assert sum(len(ids) - 1 for _, ids, _ in kept) == sum(len(ids) - 1 for ids in whole)


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
