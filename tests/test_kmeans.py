"""Spherical k-means: worked by hand, planted directions, and the backends against each other."""

import numpy as np
import pytest

from lurm.errors import ConfigError, InputError
from lurm.kmeans import BACKENDS, _search_in, assign, choose_backend, cluster_health, fit_kmeans, seed_centroids


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    faiss, torch = pytest.importorskip("faiss"), pytest.importorskip("torch")
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)


def unit(rows) -> np.ndarray:
    rows = np.asarray(rows, dtype=np.float64)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def random_units(n: int, d: int, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(n, d)))


def planted(n_directions: int, each: int, noise: float, d: int = 32) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    truth = np.repeat(np.arange(n_directions), each)
    return unit(unit(rng.normal(size=(n_directions, d)))[truth] + noise * rng.normal(size=(len(truth), d))), truth


@pytest.mark.parametrize("backend", BACKENDS)
def test_four_vectors_by_hand(backend):
    """Two pairs, each 2 x 36.87 degrees apart: (1, 0) and (0.28, 0.96) have their mean at (0.8, 0.6), cosine 0.8 to both."""
    vectors = unit([[1, 0], [0.28, 0.96], [-1, 0], [-0.28, -0.96]])
    result = fit_kmeans(vectors, 2, seed=1, backend=backend, device="cpu")
    centroids = result.centroids[np.argsort(-result.centroids[:, 0])]
    np.testing.assert_allclose(centroids, [[0.8, 0.6], [-0.8, -0.6]], atol=1e-6)
    assert result.objective[-1] == pytest.approx(0.8, abs=1e-6)
    assert result.sizes.tolist() == [2, 2] and result.backend == backend
    ids, cosine = assign(unit([[0, 1]]), np.array([[0.8, 0.6], [-0.8, -0.6]], np.float32), backend=backend, device="cpu")
    assert ids.tolist() == [0] and cosine[0] == pytest.approx(0.6)
    assert ids.dtype == np.int32 and cosine.dtype == np.float32


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_clusters_are_refilled(backend, monkeypatch):
    """Started from three centroids of which two coincide, the fit still finds the three directions."""
    vectors, truth = planted(3, 30, 0.02)
    start = np.array(vectors[[0, 0, 30]])
    monkeypatch.setattr("lurm.kmeans.seed_centroids", lambda *_: start)
    result = fit_kmeans(vectors, 3, seed=0, backend=backend, device="cpu")
    assert result.n_refilled == 1 and result.sizes.tolist() != [90, 0, 0]
    assert sorted(result.sizes) == [30, 30, 30]


@pytest.mark.parametrize("backend", BACKENDS)
def test_planted_directions_are_recovered(backend):
    vectors, truth = planted(40, 25, 0.05)
    result = fit_kmeans(vectors, 40, seed=3, backend=backend, device="cpu")
    ids, _ = assign(vectors, result.centroids, backend=backend, device="cpu")
    purity = sum(np.bincount(truth[ids == cluster]).max(initial=0) for cluster in range(40)) / len(truth)
    assert purity > 0.99


def test_backends_agree():
    """Same assignments and centroids from numpy, torch and faiss, across tiles of vectors and of centroids."""
    vectors = random_units(3_000, 16)
    fits = [fit_kmeans(vectors, 50, seed=7, n_iterations=8, backend=backend, device="cpu") for backend in BACKENDS]
    for fit in fits[1:]:
        np.testing.assert_allclose(fit.centroids, fits[0].centroids, atol=1e-4)
        np.testing.assert_allclose(fit.objective, fits[0].objective, rtol=1e-5)
    many = random_units(9_000, 16, seed=1)
    assigned = [assign(vectors, many, backend=backend, device="cpu") for backend in BACKENDS]
    for ids, cosine in assigned[1:]:
        assert (ids == assigned[0][0]).mean() > 0.999
        np.testing.assert_allclose(cosine, assigned[0][1], atol=1e-5)
    assert assigned[0][0].max() > 8_192  # the second tile of centroids was reached


@pytest.mark.parametrize("backend", BACKENDS)
def test_of_equal_centroids_the_lowest_wins(backend):
    many = np.repeat(random_units(1, 8), 9_000, axis=0)
    assert assign(many[:5], many, backend=backend, device="cpu")[0].tolist() == [0] * 5


@pytest.mark.parametrize("backend", BACKENDS)
def test_same_seed_same_bytes(backend):
    vectors = random_units(2_000, 16)
    first, second, other = (fit_kmeans(vectors, 30, seed=seed, n_iterations=5, backend=backend, device="cpu") for seed in (1, 1, 2))
    assert first.centroids.tobytes() == second.centroids.tobytes()
    assert first.centroids.tobytes() != other.centroids.tobytes()


def test_what_is_returned_belongs_together():
    vectors = random_units(2_000, 16)
    seen = []
    result = fit_kmeans(vectors, 20, seed=1, backend="numpy", progress=lambda iteration, objective: seen.append((iteration, objective)))
    ids, cosine = assign(vectors, result.centroids, backend="numpy")
    np.testing.assert_array_equal(result.sizes, np.bincount(ids, minlength=20))
    assert result.objective[-1] == pytest.approx(float(cosine.mean()), abs=1e-6)
    np.testing.assert_allclose(np.linalg.norm(result.centroids, axis=1), 1.0, atol=1e-5)
    assert result.centroids.dtype == np.float32 and result.sizes.sum() == 2_000
    assert all(later > earlier - 1e-6 for earlier, later in zip(result.objective, result.objective[1:], strict=False))
    assert seen == list(enumerate(result.objective))


def test_one_cluster_is_the_mean_direction():
    vectors, _ = planted(1, 50, 0.3)
    result = fit_kmeans(vectors, 1, seed=0, backend="numpy")
    np.testing.assert_allclose(result.centroids, unit(vectors.astype(np.float64).sum(axis=0)[None]), atol=1e-6)
    assert result.sizes.tolist() == [50]


def test_duplicates_count_once_when_seeding():
    """Three distinct vectors, one of them 500 times: three clusters are possible, four are not."""
    vectors = unit(np.repeat([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [500, 1, 1], axis=0))
    for greedy in (1_000, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lurm.kmeans.MAX_GREEDY_CLUSTERS", greedy)
            assert len(np.unique(seed_centroids(vectors, 3, np.random.default_rng(0)), axis=0)) == 3
            assert sorted(fit_kmeans(vectors, 3, seed=0, backend="numpy").sizes) == [1, 1, 500]
            with pytest.raises(InputError, match="got 3 distinct among 502 for 4 clusters"):
                fit_kmeans(vectors, 4, seed=0, backend="numpy")


def test_a_memory_map_is_read_in_place(tmp_path):
    vectors = random_units(500, 8)
    vectors.tofile(tmp_path / "vectors")
    mapped = np.memmap(tmp_path / "vectors", dtype=np.float32, mode="r", shape=(500, 8))
    for backend in BACKENDS:
        ours, theirs = (fit_kmeans(each, 5, seed=1, backend=backend, device="cpu") for each in (mapped, vectors))
        assert ours.centroids.tobytes() == theirs.centroids.tobytes()


def test_health_by_hand():
    """Sizes 3, 1, 0, 0: D * sum(p^2) = 4 * (9/16 + 1/16) = 2.5."""
    health = cluster_health(np.array([3, 1, 0, 0]))
    assert health["imbalance"] == pytest.approx(2.5) and health["n_empty"] == 2 and health["largest_share"] == 0.75
    assert cluster_health(np.array([5, 5]))["imbalance"] == pytest.approx(1.0)


def test_errors_name_the_first_bad_row():
    vectors = random_units(10, 4)
    zero, nan = vectors.copy(), vectors.copy()
    zero[3], nan[4, 0] = 0.0, np.nan
    with pytest.raises(InputError, match="norm 0 in row 3; drop rows of zeros"):
        fit_kmeans(zero, 2, seed=0)
    with pytest.raises(InputError, match="norm nan in row 4"):
        assign(nan, vectors)
    with pytest.raises(InputError, match="same width, got 4 and 3"):
        assign(vectors, random_units(2, 3))
    with pytest.raises(InputError, match="at least one cluster, got 0"):
        fit_kmeans(vectors, 0, seed=0)
    with pytest.raises(InputError, match="1 dimensions"):
        fit_kmeans(vectors[0], 1, seed=0)
    with pytest.raises(ConfigError, match="got 'fais'"):
        choose_backend("fais")


def test_auto_takes_what_is_installed(monkeypatch):
    assert choose_backend("auto", "cpu") == "faiss"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert choose_backend("auto", "cpu") == "numpy"
    with pytest.raises(ConfigError, match="'faiss' is not installed"):
        choose_backend("faiss")


def test_search_reports_the_true_maximum():
    vectors, centroids = random_units(200, 6), random_units(20, 6, seed=1)
    ids, cosine = _search_in(vectors, "numpy", "cpu")(centroids)
    np.testing.assert_array_equal(ids, (vectors @ centroids.T).argmax(axis=1))
    np.testing.assert_allclose(cosine, (vectors @ centroids.T).max(axis=1), atol=1e-6)
