"""Counts and recency, by hand for one user; and what boosting makes of them."""

import numpy as np
import pyarrow as pa
import pytest
from conftest import events_table
from sklearn.metrics import roc_auc_score

from lurm.bag_of_interests import add_counts
from lurm.evaluation.baselines.activity import BoostedCounts, fading_activity, life_statistics, tag_statistics
from lurm.evaluation.baselines.behaviours import DAY, behaviours_of
from lurm.evaluation.baselines.method import Budget, History
from lurm.periods import end_month
from lurm.schema import MONTH
from lurm.smen.activity_traces import ACTIVITY_SHARE, traces_of
from lurm.smen.batches import month_bags

CUT = int(np.datetime64("2021-01-01", "us").astype(np.int64))


@pytest.fixture(scope="module")
def behaviours():
    rows = [("a", "x", CUT - 40 * DAY), ("a", "x", CUT - 10 * DAY), ("a", "y", CUT - 4 * DAY), ("b", "y", CUT - 400 * DAY)]
    items = pa.Table.from_pylist([{"item_id": "x", "title": "one two", "category": ["X"]}, {"item_id": "y", "title": "three", "category": ["Y"]}])
    return behaviours_of(History(events_table(rows), items, "2021-01-01"))


def test_volume_and_recency_by_hand(behaviours):
    rows = life_statistics(behaviours)
    assert np.isfinite(rows).all() and rows.shape[0] == 2
    assert np.allclose(rows[0, :5], np.log1p([3, 4, 40, 36, 3 / 66]))
    assert np.allclose(np.expm1(rows[0, 5:10]), [1, 2, 3, 3, 3]) and np.allclose(rows[1, 5:10], 0)  # of 7, 30, 90, 180, 365 days
    gaps = np.expm1(rows[0, 15:18])
    assert np.allclose(gaps, [18, 12, 30])  # mean, spread and longest of gaps of 30 and 6 days


def test_categories_by_hand(behaviours):
    counts, last = tag_statistics(behaviours, 5)
    assert np.allclose(np.expm1(counts), [[2, 1], [0, 1]])
    assert np.allclose(np.expm1(last), [[10, 4], [20 * 365, 400]])
    assert tag_statistics(behaviours, 1)[0].shape == (2, 1)


def test_boosting_finds_the_planted_preference(tiny):
    method = BoostedCounts("counts-gbdt", Budget(steps=30), 0)
    method.fit(tiny.history)
    scores = method.scores(tiny.users, tiny.labels, np.arange(40), np.arange(40, 60))
    assert roc_auc_score(tiny.labels[40:], scores[:, 1]) > 0.9


def test_fading_activity_is_that_of_lurms_own_bags(tiny):
    """Where every event has an interest, traces of events are traces of bags, but for the weights."""
    behaviours = behaviours_of(tiny.history)
    found = fading_activity(behaviours, tiny.history.as_of, spread=1.0)
    end = end_month(tiny.history.as_of)
    bags = add_counts(behaviours.users[behaviours.owners], behaviours.months, behaviours.items % 7, np.ones(len(behaviours.items), np.int64))
    traces = traces_of(month_bags(bags, int(behaviours.months.min()), np.full(bags.n_users, end)), MONTH).numpy()
    np.testing.assert_allclose(found / found.std(axis=0), traces / traces.std(axis=0), rtol=1e-4, atol=1e-6)
    assert found.var(axis=0).sum() == pytest.approx(ACTIVITY_SHARE, rel=1e-3) and found.dtype == np.float32
