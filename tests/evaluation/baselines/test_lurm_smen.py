"""The ablations of SMEN: where they must agree with the whole, and that training is worth something."""

import numpy as np
import pytest
import torch

from lurm.evaluation.baselines.lurm_foundation import SOFT_UNIT
from lurm.evaluation.baselines.lurm_smen import Lurm, SoftSMEN, widened
from lurm.evaluation.baselines.method import Budget
from lurm.smen import SMEN, SparseBags

BUDGET = Budget(steps=2, batch_size=6, max_behaviours=8)


def test_all_of_a_life_is_what_the_last_hundred_months_are(tiny):
    whole, cut, recent = (Lurm("x", BUDGET, 5, n_interests=6, last_months=months) for months in (None, 100, 1))
    for method in (whole, cut, recent):
        method.fit(tiny.history)
    assert np.array_equal(whole.embed(tiny.users), cut.embed(tiny.users))
    assert not np.array_equal(whole.embed(tiny.users), recent.embed(tiny.users))
    assert whole.details["width"] == 1_280 and whole.details["steps"] == 2 and whole.details["n_interests"] == 6


def test_training_changes_the_vectors_and_one_anchor_is_narrow(tiny):
    trained, untrained, narrow = (
        Lurm("x", BUDGET, 5, n_interests=6, n_anchors=anchors, dim=32, trained=trained, memory=trained and anchors > 1)
        for anchors, trained in ((4, True), (4, False), (1, True))
    )
    for method in (trained, untrained, narrow):
        method.fit(tiny.history)
    assert trained.embed(tiny.users).shape == untrained.embed(tiny.users).shape == (60, 128)
    assert not np.array_equal(trained.embed(tiny.users), untrained.embed(tiny.users))
    assert narrow.embed(tiny.users).shape == (60, 32) and untrained.details["steps"] == 0


def test_soft_bags_of_whole_events_are_hard_ones():
    counts = torch.tensor([[[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]]])
    hard, soft = SMEN(3, 2, 8, ("month",)), SoftSMEN(3, 2, 8, ("month",))
    soft.load_state_dict(hard.state_dict())
    expected = hard(SparseBags.from_dense(counts), None)
    assert torch.allclose(soft(SparseBags.from_dense(counts * SOFT_UNIT), None), expected, atol=1e-6)


def test_wider_centroids_keep_their_cosines():
    rows = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    wide = widened(rows, 20, 1)
    assert wide.shape == (5, 20) and np.allclose(wide @ wide.T, rows @ rows.T, atol=1e-5)
    assert widened(rows, 8, 1) is rows


@pytest.mark.parametrize("more", [{"soft": True}, {"trained": False}, {"n_anchors": 1}])
def test_a_memory_is_refused_where_there_can_be_none(more):
    with pytest.raises(ValueError, match="Expected memory=False for 'x'"):
        Lurm("x", BUDGET, 5, **more)
