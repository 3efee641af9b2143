"""Days from four to four, bursts of half an hour, and what tokens carry, by hand."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import events_table

from lurm.evaluation.baselines.day_words import targets_of, word_batch
from lurm.evaluation.baselines.method import History
from lurm.evaluation.baselines.sequences import title_sequences


def at(text: str) -> int:
    return int(np.datetime64(text, "us").astype(np.int64))


@pytest.fixture(scope="module")
def sequences():
    moments = {"a": ["2020-12-20T03:59", "2020-12-20T04:00", "2020-12-20T04:20", "2020-12-20T05:10", "2020-12-21T03:59"], "b": ["2020-06-01T00:00"]}
    rows = [(user, f"i{place}", at(moment)) for user, times in moments.items() for place, moment in enumerate(times)]
    items = [{"item_id": f"i{place}", "title": f"word{place % 2} both", "category": [f"c{place}"]} for place in range(5)]
    return title_sequences(History(events_table(rows), pa.Table.from_pylist(items), "2021-01-01"))


def test_words_by_hand(sequences):
    batch = word_batch(sequences, np.array([0, 1]), 4)
    assert batch.mask.tolist() == [[True, True, False, False, True, True, True, False], [True] + [False] * 7]
    long, short = batch.tokens[:6], batch.tokens[6:]
    assert long.tolist() == [0, 1, 1, 1, 1, 8]  # one minute past before four, the day, the other user's day
    assert short.tolist() == [4, 4, 4, 5, 6]  # gaps of 1, 20 and 50 minutes, then a day
    assert batch.hours[:5].tolist() == [3, 4, 4, 5, 3]


def test_a_user_is_the_same_in_any_company_and_old_words_go_first(sequences):
    alone, together = word_batch(sequences, np.array([0]), 1), word_batch(sequences, np.array([1, 0]), 1)
    assert alone.mask.tolist() == [[True, True]] and torch.equal(together.mask[1], alone.mask[0])
    assert torch.equal(together.positions[1], alone.positions[0]) and torch.equal(together.profile[1], alone.profile[0])
    assert alone.tokens.tolist() == [0, 0, 0, 0, 1]  # the last day's four actions, the last burst's one


def test_what_comes_later_is_not_seen(sequences):
    batch = word_batch(sequences, np.array([0, 1]), 4, until=at("2020-12-20T04:00"))
    assert len(batch.items) == 3 and batch.mask.sum().item() == 3
    empty = word_batch(sequences, np.array([1]), 4, until=at("2020-01-01"))
    assert not empty.mask.any() and empty.profile.tolist() == [[0, 0]]


def test_targets_by_hand(sequences):
    batch = word_batch(sequences, np.array([0]), 4)
    chosen = torch.zeros_like(batch.mask)
    chosen[0, 1] = True  # the day of four actions
    categories, words, hours = targets_of(batch, sequences.n_categories, chosen)
    assert categories.shape == (1, sequences.n_categories) and sorted(categories[0].tolist())[-4:] == [0.25] * 4
    assert np.isclose(words.sum(), 1) and (words > 0).sum() == 3  # word0, word1, both
    assert hours[0, [4, 5, 6]].tolist() == pytest.approx([1 / 3] * 3) and (hours > 0).sum() == 3  # 3, 4 and 5 o'clock
