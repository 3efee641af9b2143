"""The linear probe of tasks: classes that features tell are ranked, and users who cannot be asked are no evidence."""

import numpy as np

from lurm.evaluation.linear_probe import linear_scores
from lurm.evaluation.probe import Fold


def test_each_class_is_read_among_those_it_can_be_asked_of():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((300, 3))
    truth = rows + 0.3 * rng.standard_normal(rows.shape) > 0.5
    truth[:, 2] = False  # nobody takes up the third
    candidates = np.ones_like(truth)
    fold = Fold(0, np.arange(200), np.arange(200, 300), [(np.arange(150), np.arange(150, 200))])
    (scores,) = linear_scores(rows, truth, candidates, [fold], (0.1, 10.0))
    assert scores.shape == (100, 3) and (scores[:, 2] == 0).all()
    for place in (0, 1):
        assert scores[truth[200:, place], place].mean() > scores[~truth[200:, place], place].mean() + 0.5
    # The first hundred have touched class 0 before and say nonsense about it: they are not asked.
    lying, asked = truth.copy(), candidates.copy()
    lying[:100, 0], asked[:100, 0] = ~truth[:100, 0], False
    (kept,) = linear_scores(rows, lying, asked, [fold], (1.0,))
    assert kept[truth[200:, 0], 0].mean() > 0.6 > 0.3 > kept[~truth[200:, 0], 0].mean()
