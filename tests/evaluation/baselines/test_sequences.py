"""Batches of title sequences: windows, distinct items, candidates of others."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from lurm.errors import InputError
from lurm.evaluation.baselines.method import History
from lurm.evaluation.baselines.sequences import Bundle, last_windows, make_batch, others_items, title_sequences


@pytest.fixture(scope="module")
def sequences(tiny):
    return title_sequences(tiny.history)


def test_a_batch_says_what_the_window_holds(sequences):
    behaviours = sequences.behaviours
    users = np.array([4, 0])
    starts, stops = last_windows(sequences, users, 5)
    extra = np.array([[3, 3, 1], [0, 2, 3]])
    batch = make_batch(sequences, users, starts, stops - np.array([0, 2]), extra)
    assert batch.places.shape == (2, 5) and (batch.places > 0).tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    for row, (start, n) in enumerate(((starts[0], 5), (starts[1], 3))):
        wanted = sequences.words[behaviours.items[start : start + n] + 1]
        assert np.array_equal(batch.words[batch.places[row, :n]].numpy(), wanted[:, : batch.words.shape[1]])
        days = (behaviours.micros[start + n - 1] - behaviours.micros[start : start + n]) / 86_400e6
        assert np.allclose(batch.ages[row, :n], days, atol=1e-2)
    assert np.array_equal(batch.words[batch.extra].numpy(), sequences.words[extra][..., : batch.words.shape[1]])
    assert not batch.words[0].any() and not batch.categories[0].any() and len(torch.unique(batch.words, dim=0)) <= len(batch.words)


def test_nothing_can_be_asked_for(sequences):
    nobody = np.zeros(0, np.int64)
    batch = make_batch(sequences, nobody, nobody, nobody, np.array([2, 5]))
    assert batch.places.shape == (0, 1) and batch.extra.shape == (2,)


def test_negatives_are_of_other_users(sequences):
    users = np.arange(60)
    behaviours = sequences.behaviours
    # Give every event its own item, so that an item says whose it is.
    own = type(sequences)(
        type(behaviours)(**{**vars(behaviours), "items": np.arange(len(behaviours.items))}), sequences.words, sequences.n_words,
        sequences.categories, sequences.n_categories,
    )  # fmt: skip
    drawn = others_items(own, users, (7, 30), np.random.default_rng(0)) - 1
    owners = behaviours.owners[drawn]
    assert drawn.shape == (60, 7, 30) and (owners != users[:, None, None]).all() and len(np.unique(owners)) == 60


def test_a_bundle_travels_whole():
    moved = Bundle(a=torch.ones(2), b=Bundle(c=torch.zeros(1))).to("cpu")
    assert isinstance(moved, Bundle) and isinstance(moved["b"], Bundle) and moved["b"]["c"].tolist() == [0.0]


def test_items_without_titles_are_told(tiny):
    items = tiny.history.items.set_column(1, "title", pa.array([""] * tiny.history.items.num_rows))
    with pytest.raises(InputError, match="Expected items with titles"):
        title_sequences(History(tiny.history.events, items, tiny.history.as_of))
