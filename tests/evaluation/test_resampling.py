"""Figures of resampled users: those of scikit-learn on the rows repeated, paired, and worked out by hand."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from lurm.evaluation.paired_probe import weighted_auc
from lurm.evaluation.probe import Fold
from lurm.evaluation.resampling import AUC, MAP10, PRECISION, draw_users, measure, spread, weighted_areas
from lurm.evaluation.tasks import NONE, Task


def binary(labels: np.ndarray) -> Task:
    truth = np.stack([labels == 0, labels == 1], axis=1)
    return Task("t", "g", np.arange(len(labels)), labels, ("no", "yes"), truth, np.ones_like(truth))


@pytest.mark.parametrize("levels", [8, 10_000])
def test_areas_are_those_of_the_rows_repeated(levels):
    rng = np.random.default_rng(3)
    positive, scores = rng.random(60) < 0.4, rng.integers(0, levels, 60) / 4
    weights = np.concatenate([np.ones((1, 60)), rng.integers(0, 3, (5, 60))])
    areas, precisions = weighted_areas(positive, scores, weights)
    np.testing.assert_allclose(areas, weighted_auc(positive, scores, weights))
    for row, area, precision in zip(weights.astype(int), areas, precisions, strict=True):
        assert area == pytest.approx(roc_auc_score(np.repeat(positive, row), np.repeat(scores, row)))
        assert precision == pytest.approx(average_precision_score(np.repeat(positive, row), np.repeat(scores, row)))
    assert np.isnan(weighted_areas(np.array([True, True]), np.array([0.1, 0.2]), np.ones((1, 2)))).all()


def test_draws_are_seeded_and_begin_with_everybody_once():
    draws = draw_users(50, 20, 1)
    assert draws.shape == (21, 50) and (draws[0] == 1).all() and (draws.sum(axis=1) == 50).all() and draws[1:].max() > 1
    assert np.array_equal(draws, draw_users(50, 20, 1)) and not np.array_equal(draws, draw_users(50, 20, 2))


def test_a_user_drawn_twice_counts_twice_in_every_fold():
    rng = np.random.default_rng(0)
    labels, values = rng.integers(0, 2, 40), rng.random(40)
    task, folds = binary(labels), [Fold(0, np.arange(20, 40), np.arange(20), []), Fold(0, np.arange(20), np.arange(20, 40), [])]
    scores = spread(task, folds, [values[:20], values[20:]])
    assert scores.shape == (1, 40, 2) and (scores[0, :, 1] == values).all() and (scores[0, :, 0] == 0).all()
    weights = draw_users(40, 3, 0)
    found = measure(task, folds, scores, weights)
    for place in range(4):
        halves = [roc_auc_score(np.repeat(labels[part], weights[place, part].astype(int)), np.repeat(values[part], weights[place, part].astype(int)))
                  for part in (slice(0, 20), slice(20, 40))]
        assert found[AUC][0, place] == pytest.approx(np.mean(halves))
    assert found["accuracy"][0, 0] == pytest.approx(labels.mean()), "all scores are above 0"
    assert found[PRECISION].shape == (1, 4) and MAP10 not in found


def test_many_classes_are_each_against_the_rest():
    rng = np.random.default_rng(0)
    labels, scores = np.repeat([0, 1, 2], 10), rng.random((30, 3))
    truth = labels[:, None] == np.arange(3)
    task = Task("t", "g", np.arange(30), labels, ("a", "b", "c"), truth, np.ones_like(truth))
    found = measure(task, [Fold(0, np.arange(0), np.arange(30), [])], scores[None], np.ones((1, 30)))
    assert found[AUC][0, 0] == pytest.approx(np.mean([roc_auc_score(labels == place, scores[:, place]) for place in range(3)]))
    assert found["accuracy"][0, 0] == pytest.approx((scores.argmax(axis=1) == labels).mean())


def test_a_ranking_by_hand():
    truth = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]], bool)
    candidates = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 1, 0]], bool)
    scores = np.array([[0.9, 0.8, 0.7, 9], [0.6, 0.5, 0.9, 9], [0.1, 0.2, 0.3, 9], [0.2, 0.9, 0.1, 9]], float)
    task = Task("t", "g", np.arange(4), np.array([0, 1, 3, 0]), ("a", "b", "c", NONE), truth, candidates, ranking=True)
    weights = np.array([[1.0, 1, 1, 1], [2, 0, 1, 1]])
    found = measure(task, [Fold(0, np.arange(0), np.arange(4), [])], scores[None], weights)
    # Ranks of what holds: user 0 has a at 1 and c at 3, user 1 has b at 2, user 2 takes up none, user 3 has a at 1 (b is no candidate).
    each = [(1 / 1 + 2 / 3) / 2, 1 / 2, None, 1.0]
    np.testing.assert_allclose(found[MAP10][0], [(each[0] + each[1] + each[3]) / 3, (2 * each[0] + each[3]) / 3])
    np.testing.assert_allclose(found["accuracy"][0], [2 / 3, 1])
    # a: users 0, 3 against 1, 2; b: user 1 against 0, 2 (user 3 is not asked); c: user 0 against 2, 3 (user 1 is not asked).
    np.testing.assert_allclose(found[AUC][0, 0], np.mean([3 / 4, 1 / 2, 1.0]))
