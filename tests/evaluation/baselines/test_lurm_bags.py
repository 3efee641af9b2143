"""Bags against a count by hand."""

import numpy as np
import pytest

from lurm.evaluation.baselines.behaviours import behaviours_of
from lurm.evaluation.baselines.lurm_bags import Bag, ItemMean, rarity_weighted
from lurm.evaluation.baselines.lurm_foundation import interests, item_vectors
from lurm.evaluation.baselines.method import Budget

BUDGET = Budget(steps=2, batch_size=6, max_behaviours=8)


def events_of(tiny, user: str) -> np.ndarray:
    behaviours = behaviours_of(tiny.history)
    place = list(behaviours.users).index(user)
    return np.arange(behaviours.offsets[place], behaviours.offsets[place + 1])


@pytest.mark.parametrize("months", [None, 2])
def test_a_bag_is_the_logarithm_of_one_plus_the_counts(tiny, months):
    method = Bag("bag", BUDGET, 5, n_interests=6, last_months=months)
    method.fit(tiny.history)
    behaviours, of_item = behaviours_of(tiny.history), interests(tiny.history, BUDGET, 5, 6).of_item
    events = events_of(tiny, "u007")
    events = events if months is None else events[behaviours.months[events] >= 610]
    expected = np.log1p(np.bincount(of_item[behaviours.items[events]], minlength=6))
    assert np.allclose(method.embed(["u007"]).toarray()[0], expected) and method.details["n_interests"] == 6


def test_soft_bags_hold_as_many_events(tiny):
    method = Bag("soft", BUDGET, 5, n_interests=6, soft=True)
    method.fit(tiny.history)
    assert np.isclose(np.expm1(method.embed(["u007"]).toarray()).sum(), len(events_of(tiny, "u007")), rtol=1e-3)


def test_the_mean_of_item_embeddings(tiny):
    method = ItemMean("item-mean", BUDGET, 5)
    method.fit(tiny.history)
    items = behaviours_of(tiny.history).items[events_of(tiny, "u007")]
    assert np.allclose(method.embed(["u007"])[0], item_vectors(tiny.history, BUDGET, 5)[0][items].mean(axis=0), atol=1e-5)


def test_rare_interests_weigh_more():
    from scipy import sparse

    rows = rarity_weighted(sparse.csr_matrix(np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]], np.float32))).toarray()
    common, rare = np.log(4 / 3) + 1, np.log(4 / 2) + 1
    assert np.allclose(rows[0], np.array([common, rare]) / np.hypot(common, rare)) and np.allclose(rows[1:], [[1, 0], [0, 0]])
