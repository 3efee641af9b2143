"""Many regressions at once are what scikit-learn computes one by one."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from lurm.evaluation.feature_scales import scaled
from lurm.evaluation.logistic import COLUMNS, fit_logistic


@pytest.mark.parametrize("shape", [(200, 30), (90, 400)])
def test_every_column_is_the_regression_that_scikit_learn_fits(shape):
    rng = np.random.default_rng(shape[0])
    features = rng.standard_normal(shape) * np.geomspace(1, 0.02, shape[1])
    rows = scaled(features)
    truth = features @ rng.standard_normal((shape[1], 12)) + 0.5 * rng.standard_normal((shape[0], 12)) > np.linspace(-1, 1, 12)
    counted = rng.random(truth.shape) < 0.7
    strengths = np.tile([0.1, 1.0, 10.0, 100.0], 3)
    weights, intercepts = fit_logistic(rows, truth, counted, strengths)
    assert weights.shape == (rows.shape[1], 12) and intercepts.shape == (12,)
    for column, strength in enumerate(strengths):
        seen = counted[:, column]
        one = LogisticRegression(C=strength, max_iter=5_000, tol=1e-8).fit(rows[seen], truth[seen, column])
        theirs, ours = one.decision_function(rows), rows @ weights[:, column] + intercepts[column]
        assert np.abs(ours - theirs).max() < 0.02 * theirs.std()


def test_a_column_does_not_depend_on_those_beside_it():
    rng = np.random.default_rng(1)
    rows = scaled(rng.standard_normal((60, 8)))
    truth = rows @ rng.standard_normal((8, COLUMNS + 3)) > 0.2
    counted, strengths = np.ones_like(truth), np.ones(COLUMNS + 3)
    weights, intercepts = fit_logistic(rows, truth, counted, strengths)
    alone, intercept = fit_logistic(rows, truth[:, -1:], counted[:, -1:], strengths[-1:])
    np.testing.assert_allclose(weights[:, -1], alone[:, 0], atol=1e-6)
    assert intercepts[-1] == pytest.approx(intercept[0], abs=1e-6)


def test_separable_rows_end():
    rows = scaled(np.linspace(-1, 1, 40)[:, None])
    truth = (rows > 0) & np.ones((1, 2), bool)
    weights, _ = fit_logistic(rows, truth, np.ones_like(truth), [1.0, 1e6])
    assert 0 < weights[0, 0] < weights[0, 1] < np.inf
