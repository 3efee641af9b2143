"""The task that a history asks of itself, and the search that uses it."""

import numpy as np

from lurm.evaluation.baselines.behaviours import behaviours_of
from lurm.evaluation.baselines.own_task import item_tags, mean_auc, own_task, search


def test_items_are_their_own_tags_where_there_are_no_categories():
    names, tags = item_tags([["a", "b"], [], ["b", "b"]], np.array(["x", "y", "z"]))
    assert names == ["a", "b"] and tags.toarray().tolist() == [[1, 1], [0, 0], [0, 1]]
    names, tags = item_tags([[], []], np.array(["x", "y"]))
    assert names == ["x", "y"] and tags.toarray().tolist() == [[1, 0], [0, 1]]


def test_the_task_lies_before_the_cut_and_its_history_before_the_task(tiny):
    past, users, labels = own_task(tiny.history)
    assert past.as_of == "2020-10-01"
    assert behaviours_of(past).micros.max() < np.datetime64("2020-10-01", "us").astype(np.int64)
    assert 0 < labels.shape[1] <= 10 and labels.dtype == bool and len(labels) == len(users)
    assert set(users) <= set(behaviours_of(past).users)


def test_a_representation_that_knows_the_planted_preference_wins(tiny):
    kind = dict(zip(tiny.users, tiny.labels))

    def represent(past, settings):
        users = behaviours_of(past).users
        noise = np.random.default_rng(0).normal(size=(len(users), 4))
        return noise + (10 * np.array([[kind[user]] for user in users]) if settings["useful"] else 0)

    chosen, judged = search(tiny.history, {"useful": False, "other": 1}, {"useful": (False, True)}, represent, seed=1)
    assert chosen == {"useful": True, "other": 1} and judged["useful=True"] > 0.6 > judged["useful=False"]
    assert search(tiny.history, {"useful": False}, {}, represent, 1) == ({"useful": False}, {})


def test_mean_auc_of_a_perfect_and_of_an_empty_task():
    rows = np.linspace(-1, 1, 60)[:, None]
    assert mean_auc(rows, rows > 0, 0) == 1.0
    assert mean_auc(rows, np.zeros((60, 1), bool), 0) == 0.5
