"""The search in cells against exact search: what is found, what is missed; in float32 and by compiled loops."""

import numpy as np
import pytest
from planted_directions import either, planted, unit  # noqa: F401

from lurm import cells as cells_module
from lurm.cells import cells_of, moved, reach_for, reach_of
from lurm.kmeans import assign
from lurm.two_level import fit_two_level, search_two_level

pytestmark = pytest.mark.usefixtures("either")


@pytest.fixture(scope="module")
def many() -> tuple[np.ndarray, np.ndarray]:
    return planted(12_000, 300, 1), planted(2_000, 300, 2)


def test_all_cells_are_exact(many):
    vectors, _ = many
    centroids = vectors[:900]
    ids, cosine = search_two_level(vectors, centroids, look=10_000)
    expected, expected_cosine = assign(vectors, centroids, backend="numpy")
    np.testing.assert_allclose(cosine, expected_cosine, atol=1e-6)
    assert (ids == expected).mean() > 0.999 and ids.dtype == np.int32 and cosine.dtype == np.float32


def test_few_cells_find_most(many):
    vectors, held_out = many
    centroids = fit_two_level(vectors, 1_200, seed=0).centroids
    exact = assign(held_out, centroids, backend="numpy")[0]
    found = [(search_two_level(held_out, centroids, look)[0] == exact).mean() for look in (1, 4, 24)]
    assert found[0] < found[1] < found[2] and found[2] > 0.99


@pytest.mark.parametrize("agreement", [0.9, 0.99])
def test_how_far_to_reach_for_an_agreement(many, agreement):
    """As many find their nearest as asked for, in fewer cells on average than when all look into equally many."""
    vectors, held_out = many
    centroids = fit_two_level(vectors, 1_200, seed=0).centroids
    exact = assign(held_out, centroids, backend="numpy")[0]
    reach, n_cells = reach_for(held_out[:1_000], centroids, agreement)
    assert 0 < reach < 1 < n_cells < len(cells_of(centroids).middles) / 2
    found, fixed = ((search_two_level(held_out, centroids, look)[0] == exact).mean() for look in (reach, round(n_cells)))
    assert found > agreement - 0.015 and found > fixed - 0.005


def test_how_far_to_reach_for_a_number_of_cells(many):
    vectors, centroids = many[0], many[1][:900]
    cells = cells_of(centroids)
    near = vectors @ cells.middles.T
    looked = [(near >= near.max(axis=1, keepdims=True) - reach_of(vectors, cells, n)).sum() / len(vectors) for n in (1, 5, 20)]
    np.testing.assert_allclose(looked, [1, 5, 20], rtol=0.1)
    assert reach_of(vectors, cells, 10_000) == 0.999


@pytest.mark.parametrize("n", [1, 2, 33, 2_049])
def test_any_number_of_vectors(many, n):
    vectors, centroids = many[0][:n], many[1][:900]
    ids, cosine = search_two_level(vectors, centroids, look=1_000)
    np.testing.assert_allclose(cosine, (vectors @ centroids.T).max(axis=1), atol=1e-6)
    assert ids.shape == (n,)


def test_the_best_may_be_far_away(many):
    """All products negative, and products that are next to nothing."""
    centroids = unit(np.abs(many[0][:900]))
    vectors = np.concatenate([-unit(np.abs(many[1][:200])), np.eye(32, dtype=np.float32)])
    ids, cosine = search_two_level(vectors, centroids, look=1_000)
    np.testing.assert_allclose(cosine, (vectors @ centroids.T).max(axis=1), atol=1e-6)
    assert (cosine[:200] < 0).all() and (ids == (vectors @ centroids.T).argmax(axis=1)).mean() > 0.99


def test_centroids_that_rough_products_cannot_tell_apart(many):
    """Neighbours at a cosine of 0.99999: float32 decides."""
    near = unit(np.repeat(many[0][:100], 9, axis=0) + 1e-3 * np.random.default_rng(3).standard_normal((900, 32)))
    vectors = unit(near[::3] + 1e-4 * np.random.default_rng(4).standard_normal((300, 32)))
    ids, _ = search_two_level(vectors, near, look=1_000)
    assert (ids == (vectors.astype(np.float64) @ near.T.astype(np.float64)).argmax(axis=1)).mean() > 0.98


def test_cells_go_with_their_centroids(many):
    """Each centroid stays in its cell, whose middle moves with it; the search in all of them is exact again."""
    cells = cells_of(many[0][:777])
    nudged = unit(many[0][:777] + 0.02 * np.random.default_rng(5).standard_normal((777, 32)))
    found = moved(cells, nudged)
    np.testing.assert_array_equal(found.order, cells.order)
    np.testing.assert_array_equal(found.sorted, nudged[cells.order])
    for cell, middle in enumerate(found.middles):
        np.testing.assert_allclose(middle, unit(found.sorted[cells.starts[cell] : cells.starts[cell + 1]].sum(axis=0, keepdims=True))[0], atol=1e-6)
    ids, _ = search_two_level(many[1][:500], nudged, look=10_000, cells=found)
    np.testing.assert_array_equal(ids, (many[1][:500] @ nudged.T).argmax(axis=1))


def test_of_equal_centroids_the_lowest_number_wins(many):
    centroids = np.repeat(many[0][:50], 2, axis=0)
    ids, _ = search_two_level(many[0][:50], centroids, look=100)
    assert ids.tolist() == list(range(0, 100, 2))


def test_every_centroid_lies_in_one_cell(many, either):  # noqa: F811
    cells = cells_of(many[0][:777])
    assert sorted(cells.order.tolist()) == list(range(777)) and cells.starts[0] == 0 and cells.starts[-1] == 777
    np.testing.assert_array_equal(cells.sorted, many[0][:777][cells.order])
    assert (cells.rough is not None) == (either == "whole numbers")


@pytest.mark.parametrize("look", [100, 0.3])
def test_many_pairs_are_sorted_in_parts_which_changes_nothing(many, monkeypatch, look):
    vectors, centroids = many[0], many[1][:900]
    whole = search_two_level(vectors, centroids, look)
    monkeypatch.setattr(cells_module, "MOST_PAIRS", 10_000)
    parts = search_two_level(vectors, centroids, look)
    np.testing.assert_array_equal(parts[0], whole[0])
    np.testing.assert_allclose(parts[1], whole[1], atol=1e-6)


def test_nobody_is_near(many):
    """Where even the nearest middle is further off than the reach goes, all cells are looked into."""
    centroids = unit(np.abs(many[0][:900]))
    vectors = -unit(np.abs(many[1][:100]))
    ids, _ = search_two_level(vectors, centroids, 0.5)
    assert (ids == (vectors @ centroids.T).argmax(axis=1)).mean() > 0.9
