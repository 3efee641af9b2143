"""The item encoder (paper equations 1 and 2): a title's words in, a unit vector out.

    e_x = proj( mean_i W[w_i] ),   proj = two residual blocks x + W2 ReLU(W1 LayerNorm(x)), then L2 normalisation

W: (V, dim) word vectors learned from scratch. The mean runs over the title's real words; no padding exists, for titles come in CSR form.
The paper leaves the block open; docs/decisions.md argues for this reading. A title without words gives exactly the zero vector.
"""

import torch
from torch import nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """x + W2 ReLU(W1 LayerNorm(x)); (n, dim) to (n, dim)."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.first = nn.Linear(dim, dim)
        self.second = nn.Linear(dim, dim)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors + self.second(functional.relu(self.first(self.norm(vectors))))


class ItemEncoder(nn.Module):
    """Titles in CSR form to (n, dim) float32 of unit norm, or all zero where a title has no words."""

    def __init__(self, vocabulary_size: int, dim: int = 128, sparse_gradients: bool = False):
        super().__init__()
        self.vocabulary_size, self.dim = vocabulary_size, dim
        self.words = nn.EmbeddingBag(vocabulary_size, dim, mode="mean", include_last_offset=True, sparse=sparse_gradients)
        # Only directions matter, and a step of Adam is as long for any vector: small ones turn sooner. Held-out loss on the Amazon titles
        # after 200 steps: 7.36 with torch's std of 1, 7.14 with 0.09, 6.98 with 0.03, 6.88 with 0.01.
        nn.init.normal_(self.words.weight, std=0.01)
        self.projection = nn.Sequential(ResidualBlock(dim), ResidualBlock(dim))

    def forward(self, token_ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """token_ids (nnz,) int64; offsets (n+1,) int64: the words of title i are token_ids[offsets[i]:offsets[i+1]]."""
        projected = self.projection(self.words(token_ids, offsets)).float()
        has_words = (offsets[1:] > offsets[:-1])[:, None]  # the blocks' biases would give an empty title a direction
        return functional.normalize(projected, dim=1) * has_words
