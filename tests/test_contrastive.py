"""NT-Xent by hand, its masks, and what it does not depend on."""

import math

import pytest
import torch

from lurm.contrastive import nt_xent


def test_two_pairs_in_the_plane_by_hand():
    """left = (1,0), (0,1); right = (1,0), (-1,0); tau = 1.

    Cosines: l1.r1 = 1, l1.l2 = 0, l1.r2 = -1; l2 is orthogonal to all; r1 sees what l1 sees; r2.l2 = 0, r2.l1 = r2.r1 = -1.
    """
    left, right = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    e = math.e
    l1 = -math.log(e / (e + 1 + 1 / e))  # 0.4076
    l2 = -math.log(1 / 3)  # 1.0986
    r1 = l1
    r2 = -math.log(1 / (1 + 1 / e + 1 / e))  # 0.5514
    assert nt_xent(left, right, 1.0).item() == pytest.approx((l1 + l2 + r1 + r2) / 4, abs=1e-6)
    assert (l1 + l2 + r1 + r2) / 4 == pytest.approx(0.61631, abs=1e-5)


def test_length_of_vectors_and_order_of_pairs_do_not_matter():
    left, right = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    loss = nt_xent(left, right, 0.1)
    assert torch.allclose(loss, nt_xent(left * 7, right * 0.01, 0.1), atol=1e-5)
    assert torch.allclose(loss, nt_xent(left.flip(0), right.flip(0), 0.1), atol=1e-5)
    assert torch.allclose(loss, nt_xent(right, left, 0.1), atol=1e-5)


def test_temperature_divides_the_cosines():
    left = right = torch.eye(2)
    expected = -math.log(math.exp(2) / (math.exp(2) + 2))  # cosines 1 and 0, tau = 0.5
    assert nt_xent(left, right, 0.5).item() == pytest.approx(expected, abs=1e-6)


def test_the_same_item_as_the_positive_is_no_negative():
    """Pairs (a, b) and (c, b): for a the second b leaves the denominator, for c the first; the two b are no negatives of each other."""
    a, b, c = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([-1.0, 0.0])
    left, right = torch.stack([a, c]), torch.stack([b, b])
    loss = nt_xent(left, right, 1.0, torch.tensor([1, 3]), torch.tensor([2, 2]))
    of_a = -math.log(1 / (1 + math.exp(-1)))  # positive b (cosine 0), negative c (cosine -1)
    of_b = -math.log(1 / (1 + 1))  # positive a (0), negative c (0); the other b is masked
    assert loss.item() == pytest.approx((2 * of_a + 2 * of_b) / 4, abs=1e-6)
    assert loss.item() < nt_xent(left, right, 1.0).item()


def test_the_same_item_as_the_anchor_is_no_negative_and_distinct_ids_change_nothing():
    left, right = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    left[1] = left[0]
    masked = nt_xent(left[:2], right[:2], 1.0, torch.tensor([5, 5]), torch.tensor([6, 7]))
    first, second, third = (torch.nn.functional.normalize(x, dim=0) for x in (left[0], right[0], right[1]))
    p, q, s = first @ second, first @ third, second @ third
    # l1 keeps r1, r2 (l2 is the same item); r1 keeps its positive l1 and r2 (l2 is the same item as the positive); and so on.
    terms = [-torch.log(p.exp() / (p.exp() + q.exp())), -torch.log(q.exp() / (p.exp() + q.exp())),
             -torch.log(p.exp() / (p.exp() + s.exp())), -torch.log(q.exp() / (q.exp() + s.exp()))]
    assert torch.allclose(masked, torch.stack(terms).mean(), atol=1e-6)
    distinct = nt_xent(left, right, 0.1, torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5]))
    assert torch.allclose(distinct, nt_xent(left, right, 0.1))


def test_the_positive_always_stays_even_when_both_sides_have_one_id():
    vectors = torch.eye(2)
    assert torch.isfinite(nt_xent(vectors, vectors, 0.1, torch.tensor([1, 1]), torch.tensor([1, 1]))).item()
    assert nt_xent(vectors, vectors, 0.1, torch.tensor([1, 1]), torch.tensor([1, 1])).item() == pytest.approx(0.0)  # nothing else is left


def test_low_precision_inputs_are_computed_in_float32():
    left, right = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(2)).bfloat16()
    loss = nt_xent(left, right, 0.1)
    assert loss.dtype is torch.float32
    assert torch.allclose(loss, nt_xent(left.float(), right.float(), 0.1))
