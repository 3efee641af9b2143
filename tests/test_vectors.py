"""Lengths, directions and neighbours, each by hand."""

import numpy as np
import pytest

from lurm.vectors import best_rotation, effective_rank, mean_cosine, mean_shift, nearest, neighbour_overlap, same_row_cosines, shared, unit_rows


def test_mean_cosine_by_hand():
    assert mean_cosine(np.array([[1.0, 0], [0, 2], [3, 0]])) == pytest.approx(1 / 3), "of three pairs, one is parallel and two are at right angles"
    assert mean_cosine(np.ones((5, 3))) == pytest.approx(1.0) and mean_cosine(np.array([[1.0, 0], [-1, 0]])) == pytest.approx(-1.0)
    assert np.array_equal(unit_rows(np.array([[0.0, 0], [0, 5]])), [[0, 0], [0, 1]])


def test_effective_rank_by_hand():
    cross = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]], np.float32)
    assert effective_rank(cross + 5) == pytest.approx(2), "two equal directions, wherever the centre is"
    assert effective_rank(cross[:2]) == pytest.approx(1) and effective_rank(np.ones((4, 3), np.float32)) == 0
    assert effective_rank(np.concatenate([np.eye(4), -np.eye(4)])) == pytest.approx(4), "four directions of equal strength, more rows than columns"


@pytest.mark.parametrize("shape", [(40, 6), (10, 30)])
def test_effective_rank_is_that_of_the_singular_values(shape):
    vectors = np.random.default_rng(4).standard_normal(shape)
    shares = np.linalg.svd(vectors - vectors.mean(axis=0), compute_uv=False)
    shares = shares[shares > 1e-9] / shares.sum()
    assert effective_rank(vectors) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-3)


def test_mean_shift_by_hand():
    before = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])  # every row is 1 from the mean: the spread is 1
    assert mean_shift(before, before + [3, 4]) == pytest.approx(5.0) and mean_shift(before, before * 7) == pytest.approx(0.0)
    assert mean_shift(10 * before, 10 * before + [3, 4]) == pytest.approx(0.5)


def test_neighbour_overlap_by_hand():
    angles = np.deg2rad([0, 10, 30, 180, 190, 210])
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert (neighbour_overlap(circle, 5 * circle @ [[0, 1], [1, 0]], 2) == 1).all(), "mirrored and scaled, everybody keeps the neighbours"
    swapped = circle[[3, 1, 2, 0, 4, 5]]  # 0 and 3 change places
    # 0 and 3 lose both neighbours; 1, 2, 4 and 5 keep one of two
    assert neighbour_overlap(circle, swapped, 2).tolist() == [0, 0.5, 0.5, 0, 0.5, 0.5]


def test_unrelated_vectors_share_what_chance_gives():
    left, right = (np.random.default_rng(seed).standard_normal((400, 12)) for seed in (1, 2))
    assert neighbour_overlap(left, right).mean() == pytest.approx(10 / 399, abs=0.01)


def test_the_nearest_come_first_whatever_the_block(monkeypatch):
    angles = np.deg2rad([0, 10, 30, 180, 190, 215])
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert nearest(circle, 3)[0].tolist() == [1, 2, 5] and nearest(circle, 5)[3].tolist() == [4, 5, 2, 1, 0]
    vectors = np.random.default_rng(2).standard_normal((50, 4))
    found = nearest(vectors, 7)
    monkeypatch.setattr("lurm.vectors.BLOCK", 8)
    assert np.array_equal(nearest(vectors, 7), found) and (found != np.arange(50)[:, None]).all()


def test_shared_and_same_row_cosines_by_hand():
    assert shared(np.array([[1, 2, 3], [4, 5, 6]]), np.array([[3, 1, 9], [7, 8, 9]])).tolist() == [2 / 3, 0]
    assert same_row_cosines(np.array([[3.0, 4], [0, 0], [1, 0]]), np.array([[4.0, 3], [1, 1], [-2, 0]])) == pytest.approx([24 / 25, 0, -1])


def test_the_best_rotation_is_the_one_that_was_planted_and_says_how_near_it_comes():
    rng = np.random.default_rng(6)
    rows, planted = rng.standard_normal((30, 4)), np.linalg.qr(rng.standard_normal((4, 4)))[0]
    rotation, gain = best_rotation(rows.T @ (rows @ planted))
    assert np.allclose(rotation, planted) and gain == pytest.approx(np.square(rows).sum())
    targets = rng.standard_normal((30, 4))
    rotation, gain = best_rotation(rows.T @ targets)
    left = np.square(rows @ rotation - targets).sum()
    assert left == pytest.approx(np.square(rows).sum() + np.square(targets).sum() - 2 * gain)
    others = [np.square(rows @ np.linalg.qr(rng.standard_normal((4, 4)))[0] - targets).sum() for _ in range(50)]
    assert left < min(others)
