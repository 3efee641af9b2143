"""Every layer sees what the mask shows and nothing else; an empty sequence is zero."""

import pytest
import torch
from torch import nn

from lurm.evaluation.baselines.attention import AttentionPool, Convolution, Recurrence, SelfAttention, TransformerBlock, masked_softmax

DIM = 8
LAYERS = {
    "pool": lambda: AttentionPool(DIM), "self": lambda: SelfAttention(DIM, 2), "block": lambda: TransformerBlock(DIM, 2),
    "convolution": lambda: Convolution(DIM), "lstm": lambda: Recurrence(nn.LSTM, DIM, True), "gru": lambda: Recurrence(nn.GRU, DIM),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_what_lies_behind_the_mask_changes_nothing(name):
    torch.manual_seed(0)
    layer = LAYERS[name]().eval()
    sequence, mask = torch.randn(3, 6, DIM), torch.arange(6) < torch.tensor([[6], [4], [0]])
    changed = torch.where(mask[..., None], sequence, 100.0)
    for left, right in zip(outputs(layer, sequence, mask), outputs(layer, changed, mask), strict=True):
        assert torch.allclose(left, right, atol=1e-5)
        assert not left[2].any()
        if left.dim() == 3:
            assert not left[1, 4:].any()
    alone = outputs(layer, sequence[1:2, :4], mask[1:2, :4])
    for left, right in zip(alone, outputs(layer, sequence, mask), strict=True):
        assert torch.allclose(left[0], right[1, : left.shape[1]] if left.dim() == 3 else right[1], atol=1e-5)


def outputs(layer: nn.Module, sequence: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
    found = layer(sequence, mask)
    return found if isinstance(found, tuple) else (found,)


def test_attention_pooling_by_hand():
    pool = AttentionPool(2, 1)
    with torch.no_grad():
        pool.key.weight.copy_(torch.tensor([[1.0, 0.0]]))
        pool.key.bias.zero_()
        pool.query.weight.copy_(torch.tensor([[2.0]]))
    sequence = torch.tensor([[[0.0, 4.0], [1.0, 8.0]]])
    share = torch.sigmoid(2 * torch.tanh(torch.tensor(1.0)))  # of the second
    assert torch.allclose(pool(sequence, torch.ones(1, 2, dtype=torch.bool)), torch.stack([share, 4 + 4 * share])[None])


def test_masked_softmax():
    scores, mask = torch.tensor([[1.0, 1.0, 9.0], [1.0, 2.0, 3.0]]), torch.tensor([[True, True, False], [False] * 3])
    assert masked_softmax(scores, mask).tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
