"""What LURM's variants share: made once, adding up to the events."""

import numpy as np
import pytest

from lurm.evaluation.baselines.behaviours import behaviours_of
from lurm.evaluation.baselines.lurm_foundation import SOFT_UNIT, interests, item_vectors, last_months, lives, soft_shares
from lurm.evaluation.baselines.method import Budget

BUDGET = Budget(steps=2, batch_size=6, max_behaviours=8)  # of the contract tests: the encoder is fitted once for both


@pytest.fixture(scope="module")
def shared(tiny):
    return item_vectors(tiny.history, BUDGET, 5)[0], interests(tiny.history, BUDGET, 5, 6), lives(tiny.history, BUDGET, 5, 6)


def test_every_ablation_stands_on_the_same_pieces(tiny, shared):
    assert item_vectors(tiny.history, BUDGET, 5)[0] is shared[0] and interests(tiny.history, BUDGET, 5, 6) is shared[1]
    more = interests(tiny.history, BUDGET, 5, 10_000)
    assert more.details["n_interests"] == 24 == more.of_item.max() + 1  # half of the 48 items
    assert interests(tiny.history, BUDGET, 5, 500) is more and more.details["items_per_interest"] == 2.0


def test_bags_count_every_event_of_everybody(tiny, shared):
    behaviours, months = behaviours_of(tiny.history), shared[2]
    assert np.array_equal(months.user_ids, behaviours.users) and months.counts.sum() == len(behaviours.items)
    whole = last_months(months, 0)
    for name in ("row_offsets", "periods", "offsets", "interest_ids", "counts"):
        assert np.array_equal(getattr(whole, name), getattr(months, name))
    recent = last_months(months, 611)
    assert recent.n_users == 60 and set(recent.periods) == {611} and recent.counts.sum() == (behaviours.months >= 611).sum()


def test_soft_shares_add_up_and_follow_the_cosine(tiny, shared):
    ids, shares = soft_shares(shared[0], shared[1].centroids)
    assert ids.shape == (48, 4) and (shares.sum(axis=1) == SOFT_UNIT).all() and (np.diff(shares, axis=1) <= 1).all()
    assert np.array_equal(ids[:, 0], shared[1].of_item)
    soft = lives(tiny.history, BUDGET, 5, 6, soft=True)
    assert soft.counts.sum() == SOFT_UNIT * len(behaviours_of(tiny.history).items)
