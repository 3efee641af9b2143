"""SUMN, the self-supervised user modeling network, and its variants (models.md section 2; SUMN eq. 1-8).

In: the titles of a user's last behaviours. Out: the last hop of the multi-hop aggregation, (B, 256) float32.

    e_t = mean word vector of behaviour t,  k_t = LN(W_k e_t),  v_t = LN(W_v e_t)
    a = softmax_t(k_t . u),  m += sum_t a_t v_t,  u = LN(m);  5 hops, weights shared, m0 learned, u0 = m0
    loss = cross-entropy between softmax(o_w . ReLU(W_o u)) and the normalised log(1 + count) of words in later behaviours, mean over hops

Training input: a random moment of a life; the last behaviours before it are read, as many after it are the target.
Variants: ae (target = input), id (who is it, of the training users), mean and max (pooling instead of hops).
The paper's text is followed, not its released code. The gain of the keys' LayerNorm starts at 1 / sqrt(d): at 1 the scores have a spread of
sqrt(d), each hop sees one behaviour from the start, and so small a training does not recover from it. Words start from `word_start`.
Smaller than the paper: at most 20,000 words, `Budget.batch_size` users a step for 256.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from lurm.evaluation.baselines.attention import masked_softmax
from lurm.evaluation.baselines.behaviours import rows_for
from lurm.evaluation.baselines.learning import embed_all, held_out_batches, learn, seeded, train_and_held_out
from lurm.evaluation.baselines.method import Budget, History
from lurm.evaluation.baselines.sequences import Bundle, SequenceBatch, TitleSequences, make_batch, title_sequences
from lurm.evaluation.baselines.word_start import word_start

DIM, N_HOPS, FEWEST = 256, 5, 4
LATER, SAME, WHO = "later", "same", "who"


class Sumn:
    """Frozen. target: later, same (AE), who (ID); pooling: hops, mean, max."""

    def __init__(self, name: str, budget: Budget, seed: int, target: str = LATER, pooling: str = "hops"):
        self.name, self.budget, self.seed, self.target, self.pooling = name, budget, seed, target, pooling
        self.details: dict = {}

    def fit(self, history: History) -> None:
        sequences = title_sequences(history)
        self._behaviours = sequences.behaviours
        training, held_out = train_and_held_out(self._behaviours, FEWEST, self.budget, self.seed)
        known = np.zeros(len(self._behaviours.users), np.int64)
        known[training] = np.arange(len(training))
        with seeded(self.seed):
            network = SumnNetwork(sequences.n_words, self.pooling, len(training) if self.target == WHO else sequences.n_words)
            network.words.weight.data.copy_(torch.from_numpy(word_start(history, DIM, 0.1)))

        def make(users: np.ndarray, rng: np.random.Generator) -> Bundle:
            return self._batch(sequences, users, known, rng)

        self.details = {"width": DIM, "training_users": len(training)} | learn(
            network, self.budget, self.seed,
            lambda rng, step: make(rng.choice(training, min(self.budget.batch_size, len(training)), replace=False), rng),
            lambda batch: consistency_loss(network, batch["read"], batch["target"]),
            # Of users who are held out nobody knows who they are: ID stops by the training users' loss on other moments.
            held_out_batches(held_out if self.target != WHO else training[: len(held_out)], self.budget, self.seed, make),
        )  # fmt: skip
        self._matrix = embed_all(sequences, self.budget.max_behaviours, lambda batch: network(batch)[-1])

    def embed(self, users: Sequence[str]) -> np.ndarray:
        return rows_for(self._behaviours, users, self._matrix)

    def _batch(self, sequences: TitleSequences, users: np.ndarray, known: np.ndarray, rng: np.random.Generator) -> Bundle:
        offsets, most = sequences.behaviours.offsets, self.budget.max_behaviours
        begin, end = offsets[users], offsets[users + 1]
        now = begin + 1 + (rng.random(len(users)) * (end - begin - 1)).astype(np.int64)  # one behaviour at least on either side
        read = make_batch(sequences, users, np.maximum(begin, now - most), now)
        if self.target == WHO:
            return Bundle(read=read, target=torch.from_numpy(known[users]))
        starts, stops = (np.maximum(begin, now - most), now) if self.target == SAME else (now, np.minimum(end, now + most))
        return Bundle(read=read, target=word_shares(sequences, starts, stops))


class SumnNetwork(nn.Module):
    """(hops, B, 256) users; `n_targets` words or users to tell apart."""

    def __init__(self, n_words: int, pooling: str, n_targets: int, dim: int = DIM):
        super().__init__()
        self.pooling = pooling
        self.words = nn.Embedding(n_words, dim, padding_idx=0)
        nn.init.normal_(self.words.weight[1:], std=0.1)
        self.key, self.value = (nn.Linear(dim, dim, bias=False) for _ in range(2))
        self.norms = nn.ModuleList([nn.LayerNorm(dim) for _ in range(3)])  # of keys, values and users
        nn.init.constant_(self.norms[0].weight, dim**-0.5)
        self.start = nn.Parameter(0.1 * torch.randn(dim))
        self.hidden, self.output = nn.Linear(dim, dim, bias=False), nn.Linear(dim, n_targets, bias=False)

    def forward(self, batch: SequenceBatch) -> torch.Tensor:
        titles = self.words(batch.words).sum(1) / (batch.words > 0).sum(1, keepdim=True).clamp_min(1)
        sequence, mask = functional.embedding(batch.places, titles), batch.places > 0
        if self.pooling == "mean":
            return ((sequence * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1))[None]
        if self.pooling == "max":
            return torch.where(mask.any(1)[:, None], sequence.masked_fill(~mask[..., None], -1e9).amax(1), 0)[None]
        keys, values = self.norms[0](self.key(sequence)), self.norms[1](self.value(sequence))
        memory = user = self.start.expand(len(sequence), -1)
        hops = []
        for _ in range(N_HOPS):
            memory = memory + torch.einsum("bl,bld->bd", masked_softmax(torch.einsum("bld,bd->bl", keys, user), mask), values)
            user = self.norms[2](memory)
            hops.append(user)
        return torch.stack(hops)

    def logits(self, users: torch.Tensor) -> torch.Tensor:
        return self.output(functional.relu(self.hidden(users)))


def consistency_loss(network: SumnNetwork, read: SequenceBatch, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy to `target`, (B, words) shares or (B,) users, averaged over hops and users."""
    log_shares = torch.log_softmax(network.logits(network(read)), dim=-1)
    if target.dim() == 1:
        return -log_shares[:, torch.arange(len(target), device=target.device), target].mean()
    return -(log_shares * target).sum(-1).mean()


def word_shares(sequences: TitleSequences, starts: np.ndarray, stops: np.ndarray) -> torch.Tensor:
    """(B, n_words) float32: normalised log(1 + count) of the words in each window; zeros for a window without words."""
    lengths = stops - starts
    rows = np.repeat(np.arange(len(starts)), lengths)
    events = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths) + np.arange(lengths.sum())
    words = sequences.words[sequences.behaviours.items[events] + 1]
    cells = (rows[:, None] * sequences.n_words + words)[words > 0]
    counts = np.bincount(cells, minlength=len(starts) * sequences.n_words).reshape(len(starts), sequences.n_words)
    weights = np.log1p(counts)
    return torch.from_numpy((weights / np.maximum(weights.sum(1, keepdims=True), 1e-9)).astype(np.float32))
