"""Popularity knows the training users' shares and nothing else."""

import numpy as np

from lurm.evaluation.baselines.method import Budget
from lurm.evaluation.baselines.popularity import Popularity


def test_everybody_is_given_the_shares_of_the_training_users():
    labels = np.array([0, 2, 2, 2, 1, 1])
    scores = Popularity("popularity", Budget(), 0).scores(list("abcdef"), labels, np.arange(4), np.array([4, 5]))
    assert scores.tolist() == [[0.25, 0, 0.75], [0.25, 0, 0.75]]
