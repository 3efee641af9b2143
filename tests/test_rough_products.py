"""Threads that compute products, and when rough ones are taken."""

import importlib.util

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from lurm import vector_code
from lurm.rough_products import available, one_thread_a_product


def test_without_numba_there_are_no_rough_products(monkeypatch):
    available.cache_clear()
    try:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        assert not available()
    finally:
        available.cache_clear()


def test_nor_without_the_instruction(monkeypatch):
    available.cache_clear()
    try:
        monkeypatch.setattr(vector_code, "HAS_AVX2", False)
        assert not available()
    finally:
        available.cache_clear()


def test_the_threads_of_the_pool_compute_alone_and_the_process_is_left_as_it_was():
    def threads_of_blas() -> set[int]:
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    np.ones((2, 2)) @ np.ones((2, 2))  # the library is there
    before = threads_of_blas()
    with pytest.raises(ValueError, match="stop"), one_thread_a_product(2) as pool:
        assert list(pool.map(lambda number: (number, threads_of_blas()), range(4))) == [(number, {1}) for number in range(4)]
        raise ValueError("stop")
    assert threads_of_blas() == before
