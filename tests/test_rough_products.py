"""Products in bfloat16: how far they are from those in float32, and that the process is left as it was."""

import numpy as np
import pytest
import torch
from planted_directions import planted

from lurm import rough_products
from lurm.rough_products import MARGIN, bits, one_thread_a_product, products, to_bits


@pytest.fixture(scope="module")
def sides() -> tuple[np.ndarray, np.ndarray]:
    return planted(700, 30, 1, d=128), planted(500, 30, 2, d=128)


def test_bits_are_the_products_and_their_order(sides):
    rough, exact = bits(*map(to_bits, sides)), sides[0] @ sides[1].T
    assert rough.dtype == np.int16 and rough.shape == exact.shape
    as_float = (rough.astype(np.int32) << 16).view(np.float32)
    assert np.abs(as_float - exact).max() < 0.006
    best = exact.argmax(axis=1)
    chosen = rough[np.arange(len(rough)), best]
    assert (rough.max(axis=1).astype(int) - chosen).max() <= MARGIN, "the nearest is never further from the top than the margin"


def test_products_are_near_those_of_float32_inside_and_plain_outside(sides):
    exact = sides[0] @ sides[1].T
    assert np.abs(products(*sides) - exact).max() < 2e-6
    with one_thread_a_product():
        assert np.abs(products(*sides) - exact).max() < 2e-3
    assert np.abs(products(*sides) - exact).max() < 2e-6


def test_the_process_is_left_as_it_was():
    before = torch.get_num_threads(), torch.backends.mkldnn.matmul.fp32_precision
    with pytest.raises(ValueError, match="stop"):
        with one_thread_a_product(2):
            raise ValueError("stop")
    assert (torch.get_num_threads(), torch.backends.mkldnn.matmul.fp32_precision) == before


def test_without_torch_it_is_numpy(sides, monkeypatch):
    monkeypatch.setattr(rough_products, "available", lambda: False)
    with one_thread_a_product(2) as pool:
        found = list(pool.map(lambda rows: products(rows, sides[1]), np.array_split(sides[0], 3)))
    assert np.concatenate(found).tobytes() == np.concatenate([rows @ sides[1].T for rows in np.array_split(sides[0], 3)]).tobytes()


def test_vectors_of_a_read_only_file(tmp_path, sides):
    np.save(tmp_path / "v.npy", sides[0])
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    np.testing.assert_array_equal(to_bits(mapped), to_bits(sides[0]))
