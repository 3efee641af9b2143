"""Equations 1 and 2, once by hand, and the titles that have no words."""

import numpy as np
import torch

from lurm.item_encoder.model import ItemEncoder, ResidualBlock


def test_block_by_hand():
    """x = (3, 1): LayerNorm gives (1, -1), W1 = I and ReLU give (1, 0), W2 = [[2, 0], [4, 0]] gives (2, 4), and x + that is (5, 5)."""
    block = ResidualBlock(2)
    with torch.no_grad():
        for layer, weight in ((block.first, [[1.0, 0.0], [0.0, 1.0]]), (block.second, [[2.0, 0.0], [4.0, 0.0]])):
            layer.weight.copy_(torch.tensor(weight))
            layer.bias.zero_()
        np.testing.assert_allclose(block(torch.tensor([[3.0, 1.0]])), [[5.0, 5.0]], atol=1e-4)


def test_encoder_by_hand():
    """Words (6, 0) and (0, 2) have the mean (3, 1); the first block gives (5, 5), the second, all zero, nothing; so (1, 1)/sqrt(2)."""
    encoder = ItemEncoder(3, dim=2)
    with torch.no_grad():
        for parameter in encoder.projection.parameters():
            parameter.zero_()
        encoder.words.weight.copy_(torch.tensor([[6.0, 0.0], [0.0, 2.0], [0.0, -5.0]]))
        encoder.projection[0].norm.weight.fill_(1.0)
        encoder.projection[0].first.weight.copy_(torch.eye(2))
        encoder.projection[0].second.weight.copy_(torch.tensor([[2.0, 0.0], [4.0, 0.0]]))
        vectors = encoder(torch.tensor([0, 1, 2]), torch.tensor([0, 2, 2, 3]))
    np.testing.assert_allclose(vectors[0], [2**-0.5, 2**-0.5], atol=1e-5)
    assert vectors[1].tolist() == [0.0, 0.0]  # no words: exactly zero
    np.testing.assert_allclose(vectors[2].norm(), 1.0, atol=1e-6)


def test_zero_titles_have_zero_vectors_and_finite_gradients():
    torch.manual_seed(0)
    encoder = ItemEncoder(5, dim=8)
    vectors = encoder(torch.tensor([1, 2]), torch.tensor([0, 0, 2, 2]))
    assert vectors[[0, 2]].abs().sum() == 0
    vectors.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in encoder.parameters())


def test_a_title_does_not_depend_on_its_neighbours_nor_on_the_order_of_words():
    torch.manual_seed(0)
    encoder = ItemEncoder(10, dim=16)
    together = encoder(torch.tensor([1, 2, 3, 7, 8]), torch.tensor([0, 3, 5]))
    alone = encoder(torch.tensor([3, 1, 2]), torch.tensor([0, 3]))
    torch.testing.assert_close(together[:1], alone, atol=1e-6, rtol=0)


def test_sparse_gradients_are_the_same_numbers():
    gradients = []
    for sparse in (False, True):
        torch.manual_seed(0)
        encoder = ItemEncoder(10, dim=4, sparse_gradients=sparse)
        encoder(torch.tensor([1, 1, 2]), torch.tensor([0, 2, 3]))[:, 0].sum().backward()
        assert encoder.words.weight.grad.is_sparse is sparse
        gradients.append(encoder.words.weight.grad.to_dense())
    torch.testing.assert_close(*gradients)
    assert gradients[0][0].abs().sum() == 0 and gradients[0][1].abs().sum() > 0


def test_shape_and_size():
    encoder = ItemEncoder(1_000)
    assert encoder.dim == 128
    assert sum(parameter.numel() for parameter in encoder.projection.parameters()) == 2 * (2 * (128 * 128 + 128) + 2 * 128)
