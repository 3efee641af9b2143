"""Unit vectors around planted directions, and both ways of multiplying them, for the tests of k-means with many clusters."""

import numpy as np
import pytest

from lurm import cells


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def planted(n: int, n_centres: int, seed: int, spread: float = 0.6, d: int = 32) -> np.ndarray:
    """Vectors around random directions, which are the same for every seed."""
    centres, rng = np.random.default_rng(0).standard_normal((n_centres, d)), np.random.default_rng(seed)
    return unit(unit(centres)[rng.integers(0, n_centres, n)] + spread / d**0.5 * rng.standard_normal((n, d)))


@pytest.fixture(params=["float32", "whole numbers"])
def either(request, monkeypatch) -> str:
    """The plain path, and that of the compiled loops."""
    monkeypatch.setattr(cells, "available", lambda: request.param == "whole numbers")
    return request.param
