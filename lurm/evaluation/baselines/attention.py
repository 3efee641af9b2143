"""The layers that the sequence models are built of: masks, attention pooling, self-attention, a convolution and recurrences over sequences.

In: sequences (B, L, d) float32 with a mask (B, L), true where there is something. Out: sequences of the same length, or one vector (B, d) per
sequence. What lies behind a mask never changes anything, and an empty sequence pools to exactly zero.
"""

import torch
from torch import nn
from torch.nn import functional


class AttentionPool(nn.Module):
    """sum_t a_t x_t with a = softmax_t(q . tanh(W x_t + b)): the additive attention of HAN (Yang et al. 2016), NAML and NRMS."""

    def __init__(self, dim: int, query: int = 64):
        super().__init__()
        self.key, self.query = nn.Linear(dim, query), nn.Linear(query, 1, bias=False)

    def forward(self, sequence: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        weights = masked_softmax(self.query(torch.tanh(self.key(sequence))).squeeze(-1), mask)
        return torch.einsum("bl,bld->bd", weights, sequence)


class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017) without anything around it."""

    def __init__(self, dim: int, n_heads: int = 4):
        super().__init__()
        self.n_heads = n_heads
        self.project, self.output = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, sequence: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        n, length, dim = sequence.shape
        parts = self.project(sequence).view(n, length, 3, self.n_heads, dim // self.n_heads).permute(2, 0, 3, 1, 4)
        visible = mask[:, None, None, :] | ~mask.any(1)[:, None, None, None]  # an empty sequence may look anywhere: it is dropped later
        mixed = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=visible)
        return self.output(mixed.transpose(1, 2).reshape(n, length, dim)) * mask[..., None]


class TransformerBlock(nn.Module):
    """Self-attention and a feed-forward layer of four times the width, each with a residual and a LayerNorm after it (BERT)."""

    def __init__(self, dim: int, n_heads: int = 4, dropout: float = 0.1):
        super().__init__()
        self.attention, self.norms = SelfAttention(dim, n_heads), nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(dim)])
        self.forward_layer = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, sequence: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        sequence = self.norms[0](sequence + self.dropout(self.attention(sequence, mask)))
        return self.norms[1](sequence + self.dropout(self.forward_layer(sequence))) * mask[..., None]


class Convolution(nn.Module):
    """ReLU of a convolution over `window` neighbours; the same length comes out."""

    def __init__(self, dim: int, window: int = 3):
        super().__init__()
        self.layer = nn.Conv1d(dim, dim, window, padding="same")

    def forward(self, sequence: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        shown = (sequence * mask[..., None]).transpose(1, 2)
        return functional.relu(self.layer(shown)).transpose(1, 2) * mask[..., None]


class Recurrence(nn.Module):
    """A GRU or LSTM over the real part of each sequence: its outputs (B, L, d) and its last state (B, d)."""

    def __init__(self, kind: type[nn.RNNBase], dim: int, both_ways: bool = False):
        super().__init__()
        self.layer = kind(dim, dim // 2 if both_ways else dim, batch_first=True, bidirectional=both_ways)

    def forward(self, sequence: torch.Tensor, mask: torch.Tensor, first: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """first: (B, d), the state to start from (a GRU that runs one way)."""
        lengths = mask.sum(1)
        packed = nn.utils.rnn.pack_padded_sequence(sequence, lengths.clamp_min(1).cpu(), batch_first=True, enforce_sorted=False)
        outputs, state = self.layer(packed, None if first is None else first[None].contiguous())
        outputs, _ = nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True, total_length=sequence.shape[1])
        state = state[0] if isinstance(state, tuple) else state
        state = torch.cat(list(state), dim=1) if self.layer.bidirectional else state[-1]
        return outputs * mask[..., None], state * (lengths > 0)[:, None]


def glorot(module: nn.Module) -> None:
    """Start dense layers and convolutions as Keras does, in which these models were written: what passes through keeps its size.

    torch's own start shrinks it by 0.58 a layer, and averages over words and behaviours leave little to shrink.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def masked_softmax(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Softmax over the last dimension among what the mask shows; zeros where it shows nothing."""
    weights = torch.softmax(scores.masked_fill(~mask, -1e9), dim=-1)
    return weights * mask
