"""Smaller numbers: codes and scales by hand, the error that theory allows, and the error measured as it is defined."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lurm.errors import InputError
from lurm.exporting.quantization import DTYPES, VectorError, quantize


def planted(n_rows: int = 50, n_anchors: int = 3, dim: int = 8) -> np.ndarray:
    """Anchors of very different lengths."""
    random = np.random.default_rng(5)
    return (random.standard_normal((n_rows, n_anchors, dim)) * [[[1e-3], [1.0], [50.0]]]).astype(np.float32).reshape(n_rows, -1)


def test_int8_by_hand():
    stored = quantize(np.array([[1.27, -0.64, 0.0, 0.0, 254.0, -3.0]], np.float32), "int8", 3)
    assert stored.codes.dtype == np.int8 and stored.codes.tolist() == [[127, -64, 0, 0, 127, -2]]  # -3 / 2 is -1.5, and half goes to even
    assert np.allclose(stored.scales, [[0.01, 0.0, 2.0]]) and stored.scales.dtype == np.float32
    assert np.allclose(stored.vectors(), [[1.27, -0.64, 0, 0, 254, -4]]) and stored.vectors().dtype == np.float32


def test_the_largest_number_of_an_anchor_is_kept_on_both_sides():
    stored = quantize(np.array([[5.0, -5.0], [-2.5, 0.1]], np.float32), "int8", 1)
    assert stored.codes.min() == -127 and stored.codes.max() == 127 and np.allclose(stored.vectors()[0], [5, -5])


def test_an_anchor_with_small_numbers_does_not_suffer_from_a_large_one():
    vectors = planted()
    error = np.abs(quantize(vectors, "int8", 3).vectors() - vectors).reshape(50, 3, 8)
    largest = np.abs(vectors).reshape(50, 3, 8).max(axis=2, keepdims=True)
    assert (error <= largest / 127 * 0.5 * 1.001).all(), "half a step of its own anchor"
    together = np.abs(quantize(vectors, "int8", 1).vectors() - vectors).reshape(50, 3, 8)
    assert (together[:, 0] == np.abs(vectors.reshape(50, 3, 8)[:, 0])).mean() > 0.9, "with one scale for all, the small anchor would be gone"


@given(cut=st.integers(0, 50), dtype=st.sampled_from(DTYPES))
def test_batches_change_nothing(cut, dtype):
    vectors = planted()
    whole, left, right = (quantize(part, dtype, 3) for part in (vectors, vectors[:cut], vectors[cut:]))
    assert np.array_equal(whole.codes, np.concatenate([left.codes, right.codes]))
    assert np.array_equal(whole.vectors(), np.concatenate([left.vectors(), right.vectors()]))


def test_float32_is_the_same_and_float16_nearly():
    vectors = planted()
    assert np.array_equal(quantize(vectors, "float32", 3).vectors(), vectors)
    stored = quantize(vectors, "float16", 3)
    assert stored.codes.dtype == np.float16 and stored.scales is None
    assert (np.abs(stored.vectors() - vectors) <= np.abs(vectors) * 2.0**-11 + 2.0**-25).all()


def test_mistakes_in_the_call():
    with pytest.raises(InputError, match="Expected a type of float32, float16, int8, got 'int4'"):
        quantize(planted(), "int4", 3)
    with pytest.raises(InputError, match="Expected numbers of at most 65,504 to store as float16, got 70000; use float32 or int8"):
        quantize(np.array([[1.0, -70_000.0]], np.float32), "float16", 1)


def test_the_error_by_hand():
    error = VectorError()
    error.add(np.array([[3.0, 4.0], [0.0, 2.0]]), np.array([[3.0, 4.0], [0.0, 1.0]]))  # 0, and 1/2 of the length
    error.add(np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[1.0, 1.0], [0.0, 0.0]]))  # 1, at 45 degrees; a zero vector does not count
    assert error.n_vectors == 3
    assert error.figures() == pytest.approx({"relative_l2_mean": 0.5, "relative_l2_max": 1.0, "cosine_mean": (2 + np.sqrt(0.5)) / 3})


def test_no_vector_no_error():
    assert VectorError().figures() == {"relative_l2_mean": None, "relative_l2_max": None, "cosine_mean": None}


@pytest.mark.parametrize(("dtype", "most"), [("float32", 0.0), ("float16", 2.0**-11), ("int8", 0.5 / 127 * np.sqrt(8))])
def test_the_error_is_within_theory(dtype, most):
    vectors, error = planted(2_000), VectorError()
    error.add(vectors, quantize(vectors, dtype, 3).vectors())
    figures = error.figures()
    assert figures["relative_l2_max"] <= most * 1.01 + 1e-9 and figures["relative_l2_mean"] <= figures["relative_l2_max"]
    assert figures["cosine_mean"] >= 1 - most**2 - 1e-9
