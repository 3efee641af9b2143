"""Two levels against one: what is found, what is missed, and that neither threads nor blocks change a bit."""

import numpy as np
import pytest

from lurm import two_level
from lurm.errors import InputError
from lurm.kmeans import assign, fit_kmeans
from lurm.two_level import cells_of, fit_two_level, probes_for, search_two_level


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def planted(n: int, n_centres: int, seed: int, spread: float = 0.6, d: int = 32) -> np.ndarray:
    """Vectors around random directions, which are the same for every seed."""
    centres, rng = np.random.default_rng(0).standard_normal((n_centres, d)), np.random.default_rng(seed)
    return unit(unit(centres)[rng.integers(0, n_centres, n)] + spread / d**0.5 * rng.standard_normal((n, d)))


@pytest.fixture(scope="module")
def many() -> tuple[np.ndarray, np.ndarray]:
    return planted(12_000, 300, 1), planted(2_000, 300, 2)


def test_held_out_vectors_are_served_better_than_by_plain_k_means(many):
    """Ten vectors a cluster: plain k-means learns the chance of its ten, the smoothed centroids do not."""
    vectors, held_out = many
    ours = fit_two_level(vectors, 1_200, seed=0)
    plain = fit_kmeans(vectors, 1_200, seed=0, backend="numpy")
    ours_cosine, plain_cosine = (assign(held_out, result.centroids, backend="numpy")[1].mean() for result in (ours, plain))
    assert ours_cosine > plain_cosine + 0.003
    assert ours.backend == "two-level" and ours.centroids.shape == (1_200, 32) and ours.sizes.sum() == 12_000
    assert np.abs(np.linalg.norm(ours.centroids, axis=1) - 1).max() < 1e-5


def test_all_cells_are_exact(many):
    vectors, _ = many
    centroids = vectors[:900]
    ids, cosine = search_two_level(vectors, centroids, n_probes=10_000)
    expected, expected_cosine = assign(vectors, centroids, backend="numpy")
    np.testing.assert_allclose(cosine, expected_cosine, atol=1e-6)
    assert (ids == expected).mean() > 0.999 and ids.dtype == np.int32 and cosine.dtype == np.float32


def test_few_cells_find_most(many):
    vectors, held_out = many
    centroids = fit_two_level(vectors, 1_200, seed=0).centroids
    exact = assign(held_out, centroids, backend="numpy")[0]
    found = [(search_two_level(held_out, centroids, n_probes)[0] == exact).mean() for n_probes in (1, 4, 16)]
    assert found[0] < found[1] < found[2] and found[2] > 0.99
    n_probes = probes_for(held_out, centroids, agreement=0.99)
    assert (search_two_level(held_out, centroids, n_probes)[0] == exact).mean() >= 0.985 and n_probes < len(cells_of(centroids).middles)


def test_of_equal_centroids_the_lowest_number_wins(many):
    centroids = np.repeat(many[0][:50], 2, axis=0)
    ids, _ = search_two_level(many[0][:50], centroids, n_probes=100)
    assert ids.tolist() == list(range(0, 100, 2))


def test_every_centroid_lies_in_one_cell(many):
    cells = cells_of(many[0][:777])
    assert sorted(cells.order.tolist()) == list(range(777)) and cells.starts[0] == 0 and cells.starts[-1] == 777
    np.testing.assert_array_equal(cells.sorted, many[0][:777][cells.order])


def test_neither_threads_nor_blocks_nor_a_file_change_a_bit(many, monkeypatch, tmp_path):
    vectors, _ = many
    first = fit_two_level(vectors, 600, seed=3, n_iterations=3)
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = fit_two_level(np.load(tmp_path / "vectors.npy", mmap_mode="r"), 600, seed=3, n_iterations=3)
    monkeypatch.setattr(two_level.os, "sched_getaffinity", lambda _: {0})
    alone = fit_two_level(vectors, 600, seed=3, n_iterations=3)
    for other in (mapped, alone):
        assert other.centroids.tobytes() == first.centroids.tobytes() and other.sizes.tolist() == first.sizes.tolist()
    assert fit_two_level(vectors, 600, seed=4, n_iterations=3).centroids.tobytes() != first.centroids.tobytes()


def test_one_cell_that_holds_nearly_everything_is_divided_again(monkeypatch):
    monkeypatch.setattr(two_level, "MAX_FLAT", 50)
    crowd = unit(np.random.default_rng(1).standard_normal((4_000, 8)) * 0.02 + np.eye(8)[0])
    result = fit_two_level(np.concatenate([crowd, unit(-crowd[:40])]), 300, seed=0, n_iterations=4)
    assert len(result.centroids) == 300 and np.isfinite(result.centroids).all() and result.objective[-1] > 0.999


def test_shares_follow_the_rows_and_add_up():
    assert two_level._shares(np.array([10, 30, 60]), 10).tolist() == [1, 3, 6]
    assert two_level._shares(np.array([1, 1, 98]), 98).tolist() == [1, 1, 96]
    assert two_level._shares(np.array([0, 2, 2]), 4).tolist() == [0, 2, 2], "at most one a row"
    assert two_level._shares(np.array([1, 1, 1, 97]), 5).sum() == 5


def test_fewer_distinct_vectors_than_clusters_is_one_sentence():
    vectors = np.repeat(planted(20, 20, 1), 30, axis=0)
    with pytest.raises(InputError, match="at least as many distinct vectors as clusters, got no vector for"):
        fit_two_level(vectors, 100, seed=0)


def test_no_iterations_is_the_start(many):
    result = fit_two_level(many[0], 600, seed=0, n_iterations=0)
    assert len(result.objective) == 1 and result.sizes.sum() == len(many[0])
