"""Products in bfloat16: how far they are from those in float32, and that the process is left as it was."""

import numpy as np
import pytest
import torch
from planted_directions import planted

from lurm import rough_products
from lurm.rough_products import MARGIN, bits, one_thread_a_product, to_bits


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


def test_the_process_is_left_as_it_was():
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="stop"):
        with one_thread_a_product(2):
            raise ValueError("stop")
    assert torch.get_num_threads() == before


def test_the_threads_of_the_pool_compute_alone(monkeypatch):
    with one_thread_a_product(2) as pool:
        assert set(pool.map(lambda _: torch.get_num_threads(), range(4))) == {1}
    monkeypatch.setattr(rough_products, "available", lambda: False)  # numpy alone
    with one_thread_a_product(2) as pool:
        assert list(pool.map(abs, [-1, 2])) == [1, 2]


def test_vectors_of_a_read_only_file(tmp_path, sides):
    np.save(tmp_path / "v.npy", sides[0])
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    np.testing.assert_array_equal(to_bits(mapped), to_bits(sides[0]))
