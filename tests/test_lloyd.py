"""The update of spherical k-means, worked by hand."""

import numpy as np

from lurm.lloyd import cluster_sums, directions, refills


def unit(rows) -> np.ndarray:
    rows = np.asarray(rows, dtype=np.float64)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_means_by_hand():
    """(1, 0) + (0, 1) points to (0.7071, 0.7071); an empty cluster and one that cancels out keep their old centroid."""
    vectors = unit([[1, 0], [0, 1], [1, 0], [-1, 0]])
    old = unit([[1, 0], [0.6, 0.8], [0, -1]])
    means = directions(cluster_sums(vectors, np.array([0, 0, 1, 1]), 3), old)
    np.testing.assert_allclose(means, [[2**-0.5, 2**-0.5], [0.6, 0.8], [0, -1]], atol=1e-6)


def test_refills_take_the_worst_vector_of_the_cluster_that_loses_most():
    """Cluster 0 loses 0.1 + 0.2, cluster 2 loses 0.25, the others are empty: row 1 goes first, then row 3, then cluster 0's next, row 0."""
    ids, cosine = np.array([0, 0, 2, 2]), np.array([0.9, 0.8, 1.0, 0.75], np.float32)
    assert refills(ids, cosine, np.array([2, 0, 2, 0, 0]), 3).tolist() == [1, 3, 0]
    assert refills(ids, cosine, np.array([2, 0, 2, 0]), 2).tolist() == [1, 3]
    assert refills(ids, np.ones(4, np.float32), np.array([2, 0, 2]), 1).tolist() == []  # nothing is left to split
