"""The MLP probe: its gradients are right, and it reads what no line separates."""

import numpy as np

from lurm.evaluation.feature_scales import scaled
from lurm.evaluation.mlp_probe import forward, gradients, mlp_scores
from lurm.evaluation.probe import auc, make_folds, out_of_fold_scores


def test_gradients_are_those_of_the_loss():
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape) for shape in ((4, 6), (6,), (6, 3), (3,))]
    rows, target = rng.standard_normal((7, 4)), np.eye(3)[rng.integers(0, 3, 7)]

    def loss() -> float:
        return float(-(np.log(forward(rows, weights)[1]) * target).sum(axis=1).mean())

    for part, gradient in zip(weights, gradients(rows, target, weights), strict=True):
        place = tuple(0 for _ in part.shape)
        before, step = loss(), 1e-6
        part[place] += step
        assert abs((loss() - before) / step - gradient[place]) < 1e-4
        part[place] -= step


def test_weak_directions_do_not_drown_strong_ones():
    """Three topics that tell the class among a thousand words of noise: coordinates must not decide, as they did for Adam."""
    rng = np.random.default_rng(0)
    topics = rng.standard_normal((400, 3))
    features = 0.2 * topics @ rng.standard_normal((3, 1_000)) + rng.standard_normal((400, 1_000))
    labels = (topics.sum(axis=1) + rng.standard_normal(400) > 0).astype(np.int64)
    rows, folds = scaled(features), make_folds(labels, 3, 1, 0, n_inner=1)
    mean = [np.mean([auc(labels[fold.test], scores if scores.ndim == 1 else scores[:, 1]) for fold, scores in zip(folds, found)])
            for found in (mlp_scores(rows, labels, folds), out_of_fold_scores(rows, labels, folds, (1.0, 10.0)))]
    assert mean[1] > 0.8 and mean[0] > mean[1] - 0.05, mean


def test_it_reads_a_ring_which_a_line_cannot_and_the_seed_decides():
    rng = np.random.default_rng(1)
    points = rng.standard_normal((400, 2))
    labels = ((points**2).sum(axis=1) > 1.4).astype(np.int64)
    rows, folds = scaled(points), make_folds(labels, 3, 1, 0, n_inner=1)
    found = mlp_scores(rows, labels, folds)
    line = out_of_fold_scores(rows, labels, folds, (1.0,))
    assert np.mean([auc(labels[fold.test], scores[:, 1]) for fold, scores in zip(folds, found)]) > 0.8
    assert np.mean([auc(labels[fold.test], scores) for fold, scores in zip(folds, line)]) < 0.65
    again, other = mlp_scores(rows, labels, folds[:1])[0], mlp_scores(rows, labels, folds[:1], seed=1)[0]
    assert np.array_equal(again, found[0]) and not np.array_equal(other, found[0])
    np.testing.assert_allclose(again.sum(axis=1), 1, atol=1e-5)
