"""Scales: one for all dimensions or one for each, the same for dense and sparse features."""

import numpy as np
import pytest
from scipy import sparse

from lurm.errors import InputError
from lurm.evaluation.feature_scales import BLOCK, DIMENSION, check_features, scaled


def gram(rows: np.ndarray) -> np.ndarray:
    return rows @ rows.T


@pytest.mark.parametrize("shape", [(30, 5), (12, 40)])
def test_dense_and_sparse_features_are_scaled_alike(shape):
    rng = np.random.default_rng(0)
    dense = np.where(rng.random(shape) < 0.4, rng.standard_normal(shape), 0) * np.geomspace(0.01, 10, shape[1])
    dense[:, 2] = 3.0  # tells nothing
    for scale in (BLOCK, DIMENSION):
        one, other = scaled(dense, scale), scaled(sparse.csr_matrix(dense), scale)
        np.testing.assert_allclose(gram(one), gram(other), atol=1e-8)
        assert (one**2).sum() / len(one) == pytest.approx(1)
        centred = dense - dense.mean(axis=0)
        centred = centred / np.where(dense.std(axis=0) > 1e-9, dense.std(axis=0), np.inf) if scale == DIMENSION else centred
        np.testing.assert_allclose(gram(one), gram(centred) / ((centred**2).sum() / len(centred)), atol=1e-8)


def test_features_must_have_a_row_a_user_and_real_numbers():
    good = check_features(np.ones((3, 2)), 3)
    assert good.dtype == np.float32 and check_features(sparse.coo_matrix(np.eye(3)), 3).format == "csr"
    for bad, sentence in [(np.ones((2, 2)), "3 users as rows, got the shape \\(2, 2\\)"), (np.ones((3, 0)), "\\(3, 0\\)"), ([1], "shape None"),
                          (np.array([[np.nan], [1], [np.inf]]), "finite features, got 2")]:
        with pytest.raises(InputError, match=sentence):
            check_features(bad, 3)
