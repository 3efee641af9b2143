"""CoLES, contrastive learning for event sequences (Babaev et al. 2022), written here over the same title sequences.

In: titles, categories and times of a user's last behaviours. Out: the last state of a GRU, (B, 128) float32 of unit norm.

    event = [mean word vector; embeddings of two category levels; log1p of the days since the event before, batch-normed]
    5 random slices of each user's life are positives of each other, all others of the batch negatives
    loss = mean over positive pairs of |x - y|^2 + mean over the hardest negatives (the nearest 5 of each) of max(0, 0.5 - |x - y|)^2

Slices have random lengths between a tenth of the longest window and all of it. The paper's encoder is a GRU of 800 to 1,024 units, here 128;
practitioners would take pytorch-lifestream, which brings another training stack along.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from lurm.evaluation.baselines.attention import Recurrence
from lurm.evaluation.baselines.behaviours import rows_for
from lurm.evaluation.baselines.learning import embed_all, held_out_batches, learn, seeded, train_and_held_out
from lurm.evaluation.baselines.method import Budget, History
from lurm.evaluation.baselines.sequences import SequenceBatch, TitleSequences, make_batch, title_sequences
from lurm.evaluation.baselines.word_start import word_start

DIM, WORDS, TAGS = 128, 64, 16
N_SLICES, MARGIN, HARDEST, FEWEST = 5, 0.5, 5, 4


class Coles:
    """Frozen."""

    def __init__(self, name: str, budget: Budget, seed: int):
        self.name, self.budget, self.seed = name, budget, seed
        self.details: dict = {}

    def fit(self, history: History) -> None:
        sequences = title_sequences(history)
        self._behaviours, most = sequences.behaviours, self.budget.max_behaviours
        with seeded(self.seed):
            network = ColesNetwork(sequences)
            network.words.weight.data.copy_(torch.from_numpy(word_start(history, WORDS, 1.0)))
        training, held_out = train_and_held_out(self._behaviours, FEWEST, self.budget, self.seed)
        n_users = max(2, min(self.budget.batch_size, len(training)))

        def make(users: np.ndarray, rng: np.random.Generator) -> SequenceBatch:
            return slices(sequences, users, most, rng)

        cost = learn(
            network, self.budget, self.seed, lambda rng, step: make(rng.choice(training, min(n_users, len(training)), replace=False), rng),
            lambda batch: slice_loss(network(batch), batch.users), held_out_batches(held_out, self.budget, self.seed, make),
        )  # fmt: skip
        self._matrix = embed_all(sequences, most, network)
        self.details = {"width": DIM, "training_users": len(training), **cost}

    def embed(self, users: Sequence[str]) -> np.ndarray:
        return rows_for(self._behaviours, users, self._matrix)


class ColesNetwork(nn.Module):
    """(B, 128) of unit norm; zero for an empty sequence."""

    def __init__(self, sequences: TitleSequences):
        super().__init__()
        self.words = nn.Embedding(sequences.n_words, WORDS, padding_idx=0)
        self.categories = nn.Embedding(sequences.n_categories, TAGS, padding_idx=0)
        self.ages = nn.BatchNorm1d(1)
        self.recurrence = Recurrence(nn.GRU, DIM)
        self.enter = nn.Linear(WORDS + 2 * TAGS + 1, DIM)

    def forward(self, batch: SequenceBatch) -> torch.Tensor:
        mask = batch.places > 0
        titles = self.words(batch.words).sum(1) / (batch.words > 0).sum(1, keepdim=True).clamp_min(1)
        things = torch.cat([titles, self.categories(batch.categories).flatten(1)], dim=1)
        gaps = torch.zeros_like(batch.ages)
        gaps[:, 1:] = torch.log1p((batch.ages[:, :-1] - batch.ages[:, 1:]).clamp_min(0))
        timed = self.ages((gaps * mask)[..., None].flatten(0, 1)).view(*mask.shape, 1)
        events = self.enter(torch.cat([functional.embedding(batch.places, things), timed], dim=2))
        return functional.normalize(self.recurrence(events, mask)[1], dim=1)


def slices(sequences: TitleSequences, users: np.ndarray, most: int, rng: np.random.Generator) -> SequenceBatch:
    """N_SLICES random windows of each user, those of one user side by side."""
    offsets = sequences.behaviours.offsets
    users = np.repeat(users, N_SLICES)
    begin, end = offsets[users], offsets[users + 1]
    longest = np.minimum(end - begin, most)
    shortest = np.maximum(1, longest // 10)
    length = shortest + (rng.random(len(users)) * (longest - shortest + 1)).astype(np.int64)
    start = begin + (rng.random(len(users)) * (end - begin - length + 1)).astype(np.int64)
    return make_batch(sequences, users, start, start + length)


def slice_loss(vectors: torch.Tensor, users: torch.Tensor) -> torch.Tensor:
    """The contrastive loss with a margin; vectors (n, d), users (n,)."""
    square = (2 - 2 * vectors @ vectors.T).clamp_min(1e-12)
    same = users[:, None] == users[None]
    pairs = same & ~torch.eye(len(users), dtype=torch.bool, device=users.device)
    near = (square.sqrt() + 10 * same).topk(min(HARDEST, len(users) - N_SLICES), dim=1, largest=False).values
    return square[pairs].mean() + torch.relu(MARGIN - near).square().mean()
