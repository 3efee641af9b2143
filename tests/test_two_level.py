"""K-means in two levels against plain k-means; and that neither threads nor blocks change a bit."""

import numpy as np
import pytest
from planted_directions import either, planted, unit  # noqa: F401

from lurm import rough_products, two_level
from lurm.errors import InputError
from lurm.kmeans import assign, fit_kmeans
from lurm.two_level import fit_two_level

pytestmark = pytest.mark.usefixtures("either")


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


def test_neither_threads_nor_blocks_nor_a_file_change_a_bit(many, monkeypatch, tmp_path):
    vectors, _ = many
    first = fit_two_level(vectors, 600, seed=3, n_iterations=3)
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = fit_two_level(np.load(tmp_path / "vectors.npy", mmap_mode="r"), 600, seed=3, n_iterations=3)
    monkeypatch.setattr(rough_products, "usable_cores", lambda: 1)
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


def test_no_iterations_are_the_means_of_the_start(many):
    """Nearly as good, without a search; sizes are those of the start, without the 228 vectors that were held out of it."""
    vectors, held_out = many
    quick = fit_two_level(vectors, 600, seed=0, n_iterations=0)
    assert len(quick.objective) == 1 and quick.sizes.sum() == 12_000 - 228 and quick.centroids.shape == (600, 32)
    cosine = [assign(held_out, result.centroids, backend="numpy")[1].mean() for result in (quick, fit_two_level(vectors, 600, seed=0))]
    assert cosine[1] - 0.01 < cosine[0] < cosine[1] + 0.002
