"""Sums of rows by hand, by compiled loops and without, of a file that is read only."""

import numpy as np
import pytest

from lurm import row_sums
from lurm.row_sums import sums_by_number, weighted_sums


@pytest.fixture(params=["loops", "numpy"], autouse=True)
def either(request, monkeypatch):
    if request.param == "numpy":
        monkeypatch.setattr(row_sums, "_compiles", lambda: False)


def test_sums_by_hand():
    """Numbers 2, 0, 2 and nobody's: row 0 alone, nothing of 1, rows 0 and 2 together."""
    rows = np.array([[1, 2], [3, 4], [5, 6], [7, 8]], np.float32)
    assert sums_by_number(rows, np.array([2, 0, 2, 3]), 3).tolist() == [[3, 4], [0, 0], [6, 8]]
    assert weighted_sums(rows, np.array([[0, 1], [3, 3]]), np.array([[1, 0.5], [2, 1]])).tolist() == [[2.5, 4], [21, 24]]


@pytest.mark.parametrize("n", [50, 70_000])
def test_they_are_those_of_float64(n, tmp_path):
    rng = np.random.default_rng(0)
    rows, numbers = rng.standard_normal((3_000, 8)).astype(np.float32), rng.integers(0, n + 1, 3_000)
    np.save(tmp_path / "rows.npy", rows)
    expected = np.zeros((n + 1, 8))
    np.add.at(expected, numbers, rows.astype(np.float64))
    for given in (rows, np.load(tmp_path / "rows.npy", mmap_mode="r")):
        found = sums_by_number(given, numbers, n)
        assert found.dtype == np.float32 and found.shape == (n, 8)
        np.testing.assert_allclose(found, expected[:n], atol=1e-4)


def test_nobody_at_all():
    assert sums_by_number(np.ones((2, 3), np.float32), np.array([4, 4]), 4).tolist() == [[0, 0, 0]] * 4
