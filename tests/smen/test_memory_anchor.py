"""The memory anchor: planted kinds of lives become directions, what lasts is kept, and lengths are in balance."""

import numpy as np
import pytest
import scipy.sparse
import torch
from test_smen_inference import random_lives

from lurm.bag_of_interests import Lives
from lurm.smen import SMEN
from lurm.smen.batches import year_bags
from lurm.smen.inference import embed
from lurm.smen.memory_anchor import directions_of_lives, fit_memory, sums_of_lives

GRID, END = 600, 641
INFO = {"grid_start": GRID, "year_blocks": "calendar"}


@pytest.fixture
def smen() -> SMEN:
    return SMEN(25, n_anchors=4, dim=8, memory=True).eval().requires_grad_(False)


def test_sums_are_log_counts_of_years(smen):
    lives = random_lives(12)
    lives = lives.take(np.flatnonzero(np.diff(lives.row_offsets)))
    sums = sums_of_lives(smen, lives, "calendar", GRID).toarray()
    bags = year_bags(lives, GRID, np.full(lives.n_users, END))
    by_hand = np.zeros_like(sums)
    for row, (start, stop) in enumerate(zip(bags.offsets[:-1].tolist(), bags.offsets[1:].tolist(), strict=True)):
        by_hand[int(bags.users[row]), bags.interest_ids[start:stop].numpy()] += np.log1p(bags.counts[start:stop].numpy())
    np.testing.assert_allclose(sums, by_hand, rtol=1e-6)
    smen.memory.copy_(torch.eye(25, 8))
    np.testing.assert_allclose(smen.memory_sums(bags).numpy(), sums[:, :8], rtol=1e-5)


def test_directions_are_those_in_which_lives_differ():
    """Two kinds of users: the first two directions tell them apart whatever else they do, and rare interests weigh more than common ones."""
    rng = np.random.default_rng(0)
    kind = np.arange(300) % 2
    sums = rng.poisson(np.where((np.arange(40) < 20) == (kind == 0)[:, None], 2.0, 0.1)).astype(np.float32)
    sums[:, 0] = 1.0  # everybody has it
    weights = directions_of_lives(scipy.sparse.csr_matrix(sums), 6, seed=1)
    assert weights.shape == (40, 6) and weights.dtype == np.float32
    seen = sums @ weights[:, :2]
    angle = np.arctan2(seen[:, 1], seen[:, 0])
    assert max((np.abs(angle[kind == 0]) < np.abs(angle[kind == 1]).min()).mean(), (angle[kind == 0] < angle[kind == 1].min()).mean(),
               (angle[kind == 0] > angle[kind == 1].max()).mean()) == 1
    assert np.array_equal(weights, directions_of_lives(scipy.sparse.csr_matrix(sums), 6, seed=1))
    idf = np.log(301 / (1 + (sums > 0).sum(axis=0))) + 1
    np.testing.assert_allclose(np.linalg.norm(weights / idf[:, None], axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 40), (3, 40), (300, 2)])
def test_fewer_users_or_interests_than_directions_leave_zeros(shape):
    sums = scipy.sparse.csr_matrix(1 + np.random.default_rng(0).random(shape).astype(np.float32))
    weights = directions_of_lives(sums, 8, seed=0)
    real = min(shape) - 1
    assert weights.shape == (shape[1], 8) and (weights[:, real:] == 0).all() and np.isfinite(weights).all()


def test_the_memory_differs_between_users_as_much_as_all_other_anchors_together(smen):
    lives = random_lives(60)
    fit_memory(smen, iter([lives.take(np.arange(25)), lives.take(np.arange(25, 60))]), "calendar", GRID, seed=0)
    assert (smen.memory != 0).any() and smen.memory_length > 0
    active = lives.take(np.flatnonzero(np.diff(lives.row_offsets)))
    vectors = embed(smen, INFO, active, None, END)
    spread = vectors.var(axis=0)
    assert spread[24:].sum() == pytest.approx(spread[:24].sum(), rel=1e-3)
    np.testing.assert_allclose(np.linalg.norm(vectors[:, 24:], axis=1), float(smen.memory_length), rtol=1e-5)


def test_whoever_has_done_nothing_has_no_memory_and_training_does_not_see_it(smen):
    smen.memory.fill_(1.0)
    lives, nothing = random_lives(60), np.zeros(0, np.int32)
    silent = Lives(np.array(["nobody"], object), np.zeros(2, np.int64), nothing, np.zeros(1, np.int64), nothing, nothing)
    assert (embed(smen, INFO, silent, None, END)[0, 24:] == 0).all()
    assert "memory" not in dict(smen.named_parameters()) and "memory" in smen.state_dict()
    assert smen.recurrent(year_bags(lives, GRID, np.full(60, END)), year_bags(lives, GRID, np.full(60, END))).shape == (60, 3, 8)
