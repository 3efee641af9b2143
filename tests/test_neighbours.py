"""The nearest other centroids, with the compiled loop and without, against all products."""

import numpy as np
import pytest
from planted_directions import planted, unit

from lurm import cells as of_cells
from lurm.cells import Cells, cells_of
from lurm.dealt_blocks import DealtPool
from lurm.neighbours import N_CELLS, N_NEIGHBOURS, neighbours
from lurm.rough_products import one_thread_a_product


@pytest.fixture(params=["loops", "numpy"], autouse=True)
def path(request, monkeypatch) -> str:
    if request.param == "numpy":
        monkeypatch.setattr(of_cells, "available", lambda: False)
    return request.param


def found(cells: Cells) -> tuple[np.ndarray, np.ndarray]:
    with one_thread_a_product(2) as threads:
        return neighbours(cells, DealtPool(threads.map))


def test_they_are_the_nearest_of_the_cells_around(path):
    centroids = planted(3_000, 60, 1, d=64)
    cells = cells_of(centroids)
    near, similar = found(cells)
    of_cell = np.empty(3_000, int)
    of_cell[cells.order] = np.repeat(np.arange(len(cells.middles)), np.diff(cells.starts))
    around = np.argsort(-(cells.middles @ cells.middles.T), axis=1, kind="stable")[:, :N_CELLS]
    allowed = (around[of_cell][:, :, None] == of_cell[None, None, :]).any(axis=1)
    products = np.where(allowed, centroids @ centroids.T, -np.inf)
    np.fill_diagonal(products, -np.inf)
    expected = -np.sort(-products, axis=1)[:, :N_NEIGHBOURS]
    np.testing.assert_allclose(similar, expected, atol=4e-4)
    np.testing.assert_allclose(np.take_along_axis(products, near, axis=1), expected, atol=8e-4)
    assert (near != np.arange(3_000)[:, None]).all() and len(cells.middles) > N_CELLS


def test_few_have_few_neighbours():
    centroids = unit(np.random.default_rng(2).standard_normal((3, 64)))
    near, similar = found(cells_of(centroids))
    assert np.isfinite(similar).tolist() == [[True, True, False, False]] * 3
    assert [sorted(row[:2].tolist()) for row in near] == [[1, 2], [0, 2], [0, 1]]


def test_equal_centroids_are_each_others_neighbours():
    """Many middles are equal too, so that a cell's own need not be the nearest to itself."""
    centroids = np.repeat(planted(1, 1, 3, d=64), 400, axis=0)
    near, similar = found(cells_of(centroids))
    assert similar == pytest.approx(1, abs=4e-4) and (near != np.arange(400)[:, None]).all()
    assert all(len(set(row)) == N_NEIGHBOURS for row in near.tolist())
