"""The compiled search against numpy's products: nothing that rounding could hide is missed, and a row hangs on itself alone."""

import numpy as np
import pytest
from planted_directions import planted, unit

from lurm import matrix_unit, rough_products
from lurm.rough_loops import BLOCK_ROWS, MOST_ROWS, error_of, nearest_rough, search_cells
from lurm.rough_products import packed
from lurm.rough_tiles import LANES, SCALE


def searched(rows: np.ndarray, middles: np.ndarray, groups: list[np.ndarray], look: float, most: int = 100_000):
    """search_cells over cells that are given as the numbers of their centroids and the centroids."""
    sizes = [len(numbers) for numbers, _ in groups]
    starts, order = np.concatenate([[0], np.cumsum(sizes)]), np.concatenate([numbers for numbers, _ in groups]).astype(np.int32)
    centroids = np.concatenate([vectors for _, vectors in groups])
    inside, ids, best = packed(centroids, starts), np.zeros(len(rows), np.int32), np.full(len(rows), -np.inf, np.float32)
    of_middles = packed(middles, np.array([0, len(middles)]))
    search_cells(rows, of_middles.packs, inside.packs, inside.starts, starts, order, centroids, inside.in_bytes, look, most, ids, best)
    return ids, best


@pytest.fixture(params=["vectors", "bytes"], autouse=True)
def in_bytes(request, monkeypatch) -> bool:
    """Everything here on the processor's matrix unit too, where it has one and the width is one of its own."""
    if request.param == "bytes" and not matrix_unit.usable():
        pytest.skip("this processor has no matrix unit")
    monkeypatch.setattr(rough_products, "takes_bytes", lambda width: request.param == "bytes" and width % 64 == 0)
    return request.param == "bytes"


@pytest.fixture(scope="module")
def world():
    """700 rows and 333 centroids in 21 cells of 1 to 40, whose numbers are mixed."""
    rng = np.random.default_rng(3)
    centroids, rows = planted(333, 40, 1, d=64), planted(700, 40, 2, d=64)
    where = np.sort(np.concatenate([np.arange(21), rng.integers(0, 21, 312) ** 2 // 20]))
    numbers = rng.permutation(333)
    groups = [(np.sort(numbers[where == cell]), centroids[np.sort(numbers[where == cell])]) for cell in range(21)]
    return rows, centroids, unit(np.stack([own.mean(axis=0) for _, own in groups])), groups


def whole(vectors: np.ndarray) -> np.ndarray:
    return np.rint(vectors * np.float32(SCALE)).astype(np.int16)


def test_packs_hold_whole_numbers(in_bytes):
    columns = planted(2 * LANES + 5, 9, 0, d=64)
    sizes = [3, LANES + 2, LANES]
    found = packed(columns, np.concatenate([[0], np.cumsum(sizes)]))
    assert found.starts.tolist() == [0, 1, 3, 4] and found.packs.ctypes.data % 64 == 0
    last = [2] * (LANES - 2), [LANES + 4] * (LANES - 1)  # a pack is filled up with its last column
    numbers = np.concatenate([[0, 1], last[0], np.arange(3, LANES + 4), last[1], np.arange(LANES + 5, 2 * LANES + 5)])
    if in_bytes:
        high, low = found.packs.view(np.uint8).reshape(4, 2, 16, LANES, 4).transpose(1, 0, 3, 2, 4).reshape(2, 4 * LANES, 64)
        held = (high.astype(np.uint16) << 8 | low).view(np.int16)
    else:
        held = found.packs.view(np.int16).reshape(4, 32, LANES, 2).transpose(0, 2, 1, 3).reshape(4 * LANES, 64)
    np.testing.assert_array_equal(held, whole(columns)[numbers])


def test_all_cells_are_exact(world):
    rows, centroids, middles, groups = world
    ids, best = searched(rows, middles, groups, look=21)
    exact = rows @ centroids.T
    np.testing.assert_array_equal(ids, exact.argmax(axis=1))
    np.testing.assert_allclose(best, exact.max(axis=1), atol=1e-6)


@pytest.mark.parametrize("look", [1, 3, 20, 0.05, 0.4])
def test_only_the_cells_asked_for_are_looked_into(world, look):
    rows, centroids, middles, groups = world
    near = rows @ middles.T
    limit = near.max(axis=1) - look if look < 1 else np.sort(near, axis=1)[:, -look]
    sure = np.abs(near - limit[:, None]).min(axis=1, where=near != limit[:, None], initial=1) > error_of(64)  # rounding cannot change which
    of_cell = np.empty(len(centroids), int)
    for cell, (numbers, _) in enumerate(groups):
        of_cell[numbers] = cell
    allowed = (near >= limit[:, None])[:, of_cell]
    expected = np.where(allowed, rows @ centroids.T, -np.inf)
    assert sure.sum() > 20
    ids, best = searched(rows, middles, groups, look)
    np.testing.assert_array_equal(ids[sure], expected.argmax(axis=1)[sure])
    np.testing.assert_allclose(best[sure], expected.max(axis=1)[sure], atol=1e-6)


def test_a_row_hangs_on_itself_alone(world):
    """However many come with it, and however few pairs are held at once."""
    rows, _, middles, groups = world
    whole = searched(rows, middles, groups, 0.3)
    for part in (slice(0, 1), slice(3, 12), slice(100, 700)):
        for found, expected in zip(searched(rows[part], middles, groups, 0.3), whole, strict=True):
            np.testing.assert_array_equal(found, expected[part])
    for found, expected in zip(searched(rows, middles, groups, 0.3, most=MOST_ROWS * len(middles)), whole, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_more_rows_than_a_block(world):
    _, _, middles, groups = world
    rows = planted(BLOCK_ROWS + 77, 40, 4, d=64)
    ids, best = searched(rows, middles, groups, 2)
    again = searched(rows[BLOCK_ROWS - 5 :], middles, groups, 2)
    np.testing.assert_array_equal(ids[BLOCK_ROWS - 5 :], again[0])
    assert (best > -1).all()


def test_what_rounding_hides_is_found():
    """Pairs of centroids, the nearer of which is the further one once numbers are rounded."""
    rng = np.random.default_rng(5)
    rows = unit(rng.standard_normal((400, 64)))
    near = unit(np.repeat(rows, 4, axis=0) + 0.001 * rng.standard_normal((1_600, 64)))
    exact = rows.astype(np.float64) @ near.T.astype(np.float64)
    rough = (whole(rows).astype(np.int64) @ whole(near).T.astype(np.int64)) / SCALE**2
    assert 20 < (rough.argmax(axis=1) != exact.argmax(axis=1)).sum() and np.abs(rough - exact).max() < error_of(64)
    ids, _ = searched(rows, unit(near[:1]), [(np.arange(1_600), near)], 1)
    assert (exact[np.arange(400), ids] > exact.max(axis=1) - 1e-6).all()


def test_everything_may_be_far_away_and_equal_ones_have_an_order():
    away = unit(-np.abs(np.random.default_rng(6).standard_normal((5, 16))))
    rows = unit(np.abs(np.random.default_rng(7).standard_normal((9, 16))))
    twice = [(np.array([4, 9]), away[[0, 0]]), (np.array([1, 3, 7]), away[[0, 1, 1]])]
    ids, best = searched(rows, unit(np.stack([away[0], away[1]])), twice, 2)
    expected = rows @ away[:2].T
    assert (best < 0).all() and ids.tolist() == np.where(expected[:, 0] >= expected[:, 1], 1, 3).tolist()
    np.testing.assert_allclose(best, expected.max(axis=1), atol=1e-6)


@pytest.mark.parametrize("n", [1, 7, 8, 30])
def test_the_nearest_of_a_few(n):
    rows, columns = planted(n, 9, 1, d=64), np.concatenate([planted(37, 9, 2, d=64), planted(37, 9, 2, d=64)])
    ids = np.empty(n, np.int64)
    own = packed(columns, np.array([0, 74]))
    nearest_rough(rows, own.packs, 74, own.in_bytes, ids)
    products = rows @ columns.T
    assert (products[np.arange(n), ids] > products.max(axis=1) - 2 * error_of(64)).all() and ids.max() < 37, "of equal ones the lowest"


def test_rooms_are_kept_as_long_as_they_are_used():
    """Of more than 32 MB, which the system takes back at once when they are let go of too early: then this process ends here."""
    rng = np.random.default_rng(8)
    columns, rows = unit(rng.standard_normal((1_100_000, 16))), unit(rng.standard_normal((8, 16)))
    exact, ids = rows @ columns.T, np.empty(8, np.int64)
    own = packed(columns, np.array([0, len(columns)]))
    nearest_rough(rows, own.packs, len(columns), own.in_bytes, ids)
    assert (exact[np.arange(8), ids] > exact.max(axis=1) - 2 * error_of(16)).all()
    found, _ = searched(rows, columns[:1], [(np.arange(len(columns)), columns)], 1)
    np.testing.assert_array_equal(found, exact.argmax(axis=1))


def test_more_may_be_the_nearest_than_there_is_room_for():
    """Every centroid as near as every other: all are kept, and compared when the room is full; the lowest number wins."""
    one = planted(1, 1, 9, d=64)
    rows, numbers = np.repeat(one, 300, axis=0), np.random.default_rng(9).permutation(4_000)
    ids, best = searched(rows, one.repeat(40, axis=0), [(np.sort(part), one.repeat(100, axis=0)) for part in np.split(numbers, 40)], 40)
    assert not ids.any() and best == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("width", [16, 64, 4_096])
def test_the_bound_is_kept_by_vectors_that_round_badly(width):
    """Numbers a little more than half-way between two whole ones, whose errors all have one sign, in one of the vectors and in both."""
    bad = np.full(width, (int(SCALE / width**0.5) - 0.49) / SCALE)
    bad[-1] = np.sqrt(1 - (bad[:-1] ** 2).sum())
    good = unit(np.ones((1, width)))[0].astype(np.float64)
    for other in (good, bad):
        rough = (whole(bad.astype(np.float32)).astype(np.int64) @ whole(other.astype(np.float32)).astype(np.int64)) / SCALE**2
        assert error_of(width) / 3 < abs(rough - bad @ other) < error_of(width)
