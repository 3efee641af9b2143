"""Flat k-means as one compiled loop beside the same in numpy's steps."""

import numpy as np
import pytest
from planted_directions import planted, unit

from lurm import matrix_unit
from lurm.cells import flat_kmeans as in_steps
from lurm.flat_loops import flat_kmeans


@pytest.fixture(params=[False, True], ids=["vectors", "bytes"])
def in_bytes(request) -> bool:
    if request.param and not matrix_unit.usable():
        pytest.skip("this processor has no matrix unit")
    return request.param


def fitted(vectors: np.ndarray, centroids: np.ndarray, n_iterations: int, in_bytes: bool) -> tuple[np.ndarray, np.ndarray]:
    centroids, ids = centroids.copy(), np.empty(len(vectors), np.int64)
    flat_kmeans(vectors, centroids, n_iterations, in_bytes, ids)
    return centroids, ids


@pytest.mark.parametrize("n_iterations", [0, 1, 6])
def test_it_does_what_the_steps_do(n_iterations, in_bytes):
    vectors = planted(900, 20, 1, d=64)
    expected, wanted = in_steps(vectors, vectors[:20].copy(), n_iterations, lambda *arguments: map(*arguments))
    centroids, ids = fitted(vectors, vectors[:20], n_iterations, in_bytes)
    assert (ids == wanted).mean() > 0.99, "but for what rounding decides"
    np.testing.assert_allclose(centroids, expected, atol=1e-5)


def test_both_kinds_of_products_give_the_same_bits():
    if not matrix_unit.usable():
        pytest.skip("this processor has no matrix unit")
    vectors = planted(700, 30, 2, d=128)
    for one, other in zip(fitted(vectors, vectors[:33], 4, True), fitted(vectors, vectors[:33], 4, False), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_empty_cluster_takes_what_is_served_worst(in_bytes):
    far, near = unit(np.eye(64, dtype=np.float32)[:1]), planted(50, 1, 3, d=64)
    vectors = np.concatenate([near, far])
    centroids, ids = fitted(vectors, np.repeat(near[:1], 2, axis=0), 1, in_bytes)
    np.testing.assert_allclose(centroids[1], far[0], atol=1e-6)
    assert ids[-1] == 1 and not ids[:-1].any()


def test_what_cancels_out_stays(in_bytes):
    one = planted(1, 1, 4, d=64)
    centroids, _ = fitted(np.concatenate([one, -one]), one, 2, in_bytes)
    np.testing.assert_array_equal(centroids, one)
