"""Threads that compute products, and when rough ones are taken: that the process is left as it was."""

import importlib.util

import pytest
import torch

from lurm import rough_products
from lurm.rough_products import available, one_thread_a_product


def test_without_numba_there_are_no_rough_products(monkeypatch):
    available.cache_clear()
    try:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        assert not available()
    finally:
        available.cache_clear()


def test_the_process_is_left_as_it_was():
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="stop"):
        with one_thread_a_product(2):
            raise ValueError("stop")
    assert torch.get_num_threads() == before


def test_the_threads_of_the_pool_compute_alone(monkeypatch):
    with one_thread_a_product(2) as pool:
        assert set(pool.map(lambda _: torch.get_num_threads(), range(4))) == {1}
    monkeypatch.setattr(rough_products.importlib.util, "find_spec", lambda name: None)  # numpy alone
    with one_thread_a_product(2) as pool:
        assert list(pool.map(abs, [-1, 2])) == [1, 2]
