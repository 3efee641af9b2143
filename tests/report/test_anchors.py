"""Anchors: alpha, the interests of each, their use, and histograms of norms over users."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lurm.report import anchors
from lurm.report.anchors import NormCounts, anchor_weights, count_norms, entropy, shares_of_use, strongest_interests


def test_alpha_is_that_of_the_model(small, monkeypatch):
    monkeypatch.setattr(anchors, "CHUNK", 5)
    alpha = anchor_weights(small.smen)
    assert np.allclose(alpha, small.smen.anchor_weights(torch.arange(12)).numpy(), atol=1e-7) and np.allclose(alpha.sum(axis=1), 1)


def test_strongest_interests_leave_out_what_few_users_have():
    alpha = np.array([[0.9, 0.1], [0.8, 0.2], [0.95, 0.05], [0.8, 0.2]])
    assert strongest_interests(alpha, np.array([20, 30, 19, 40]), 20, 3) == [[0, 3, 1], [3, 1, 0]], "of equal ones that with more users first"
    assert strongest_interests(alpha, np.zeros(4, int), 1, 3) == [[], []]


def test_shares_and_entropy_by_hand():
    alpha = np.array([[1.0, 0.0], [0.5, 0.5]], np.float32)
    assert shares_of_use(alpha, np.array([6, 4])).tolist() == [0.8, 0.2]
    assert shares_of_use(alpha, np.zeros(2, int)).tolist() == [0, 0]
    assert entropy(np.array([0.5, 0.5])) == pytest.approx(math.log(2)) and entropy(np.array([1.0, 0.0])) == 0


@given(st.lists(st.lists(st.floats(0, 1e4), min_size=1, max_size=20), min_size=1, max_size=6))
def test_counts_are_exact_however_the_norms_come(batches):
    found = NormCounts.empty(1)
    for batch in batches:
        found.add(np.array(batch)[:, None])
    norms = np.concatenate([np.array(batch) for batch in batches])
    assert found.counts.sum() == len(norms)
    edges = np.arange(anchors.N_BINS + 1) * found.width
    expected, _ = np.histogram(np.floor(norms / found.width) * found.width + found.width / 2, edges)
    assert np.abs(np.cumsum(found.counts[0]) - np.cumsum(expected)).max() <= 1, "but for what lies on an edge"
    assert found.quantiles([0.5])[0, 0] == pytest.approx(np.quantile(norms, 0.5, method="inverted_cdf"), abs=2 * found.width)


def test_norms_of_vectors_by_anchor():
    vectors = np.array([[3, 4, 0, 0], [0, 0, 6, 8], [0, 0, 0, 1]], np.float32)
    batch = pa.record_batch({"embedding": pa.array(list(vectors), pa.list_(pa.float32()))})
    found = count_norms([batch, batch.slice(2, 1)], 2)
    assert found.counts.sum(axis=1).tolist() == [4, 4]
    assert found.counts[0, 0] == 3 and found.counts[0, int(5 / found.width)] == 1 and found.counts[1, int(10 / found.width)] == 1
    bars, end = found.histograms(10)
    assert bars.sum(axis=1).tolist() == [4, 4] and end == pytest.approx(10, rel=0.01) and bars[1, 9] == 1


def test_nobody():
    bars, end = count_norms([], 2).histograms(4)
    assert bars.tolist() == [[0] * 4] * 2 and end == 1.0
