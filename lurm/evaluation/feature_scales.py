"""Two ways to bring features to a scale that a probe can read: one number for all dimensions, or one for each.

In: features (n, d), dense or sparse, of all evaluated users. Out: (n, min(d, n)) float64 rows of mean squared length 1, turned into their principal
directions, where a regression with an L2 penalty gives the same scores in fewer steps (`logistic`). The probe decides
who wins: dividing each dimension by its own deviation blows up those that carry least, so one scale for the whole block is the main one,
and the papers' standardisation is shown beside it. Scales are taken from all evaluated users, without their labels.
"""

import numpy as np
from scipy import sparse

from lurm.errors import InputError
from lurm.evaluation.probe import one_scale

BLOCK, DIMENSION = "block", "dimension"


def scaled(features: np.ndarray | sparse.spmatrix, scale: str = BLOCK) -> np.ndarray:
    """Centred rows on one scale (BLOCK), or with equal deviations in each dimension before that (DIMENSION); constant columns become 0."""
    if scale == DIMENSION:
        features = features * (1 / _deviations(features)) if not sparse.issparse(features) else features @ sparse.diags(1 / _deviations(features))
    if features.shape[1] > features.shape[0]:
        return one_scale(features)  # in principal directions already
    rows = one_scale(features.toarray() if sparse.issparse(features) else np.asarray(features, np.float64))
    return rows @ np.linalg.eigh(rows.T @ rows)[1][:, ::-1]


def check_features(features: np.ndarray | sparse.spmatrix, n_users: int) -> np.ndarray | sparse.csr_matrix:
    """Features as a method must give them, float32; raises InputError for another shape or for a number that is none."""
    if getattr(features, "ndim", 0) != 2 or features.shape[0] != n_users or features.shape[1] < 1:
        raise InputError(f"Expected features of {n_users} users as rows, got the shape {getattr(features, 'shape', None)}; mend the method's embed.")
    numbers = features.data if sparse.issparse(features) else np.asarray(features)
    if not np.isfinite(numbers).all():
        raise InputError(f"Expected finite features, got {np.count_nonzero(~np.isfinite(numbers))} that are not; mend the method's embed.")
    return sparse.csr_matrix(features, dtype=np.float32) if sparse.issparse(features) else np.asarray(features, np.float32)


def _deviations(features: np.ndarray | sparse.spmatrix) -> np.ndarray:
    if sparse.issparse(features):
        wide = features.astype(np.float64)
        mean, squares = np.asarray(wide.mean(axis=0)).ravel(), np.asarray(wide.multiply(wide).mean(axis=0)).ravel()
    else:
        wide = np.asarray(features, np.float64)
        mean, squares = wide.mean(axis=0), (wide**2).mean(axis=0)
    found = np.sqrt(np.maximum(squares - mean**2, 0))
    return np.where(found > 1e-6 * np.sqrt(squares), found, np.inf)
