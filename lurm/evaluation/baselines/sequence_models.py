"""User models over title sequences: a title encoder, a user encoder, and the published systems as pairs of them.

In: a `SequenceBatch`. Out: hidden states (B, L, d) of the behaviours and one vector (B, d) per user, exactly zero for a user without any.

| architecture | title | user | after |
|---|---|---|---|
| textcnn | convolutions over 3, 4, 5 words, maximum | maximum over titles | Kim 2014 |
| han | bidirectional LSTM, attention | bidirectional LSTM, attention | Yang et al. 2016, as in PTUM |
| hsa (NRMS) | positions, self-attention, attention | positions, self-attention, attention | Wu et al. 2019b |
| hura | CNN, attention | CNN, attention | Wu et al. 2019c |
| naml | CNN and attention of the title, dense layers of two category levels, attention over the views | attention | Wu et al. 2019a |
| lstur | CNN, attention, category embeddings added | GRU that starts from the user's own vector (LSTUR-ini) | An et al. 2019 |
| gru4rec | GRU | GRU, last state | Hidasi et al. 2016, as in PTUM |
| nativectr | CNN, attention | attention with positions | An et al. 2019, as in PTUM |
| bert4rec | positions, Transformer block, attention | positions, two Transformer blocks, attention | Sun et al. 2019, as in PTUM |
| mean | mean word vector | mean | the floor |

Sizes: d = 64 (the papers have 256 to 400), dropout 0.2, 4 heads. Words start from `word_start`.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from lurm.evaluation.baselines.attention import AttentionPool, Convolution, Recurrence, SelfAttention, TransformerBlock, glorot
from lurm.evaluation.baselines.learning import seeded
from lurm.evaluation.baselines.method import History
from lurm.evaluation.baselines.sequences import MAX_WORDS, SequenceBatch, TitleSequences, title_sequences
from lurm.evaluation.baselines.word_start import word_start

DIM, DROPOUT, N_HEADS, WORD_SPREAD = 64, 0.2, 4, 0.3
BUCKETS = (0, 4, 8, 12, 16, 22, MAX_WORDS)  # words of a title
ARCHITECTURES = ("textcnn", "han", "hsa", "hura", "naml", "lstur", "gru4rec", "nativectr", "bert4rec", "mean")
_TITLE = {"textcnn": "wide", "han": "lstm", "hsa": "self", "hura": "cnn", "naml": "cnn", "lstur": "cnn", "gru4rec": "gru", "nativectr": "cnn",
          "bert4rec": "transformer", "mean": "mean"}  # fmt: skip
_USER = {"textcnn": "maximum", "han": "lstm", "hsa": "self", "hura": "cnn", "naml": "attention", "lstur": "own", "gru4rec": "gru",
         "nativectr": "attention", "bert4rec": "transformer", "mean": "mean"}  # fmt: skip
_WITH_POSITIONS = {"hsa", "nativectr", "bert4rec"}


def new_model(history: History, architecture: str, most: int, seed: int) -> "SequenceModel":
    """A model of a history as training finds it."""
    with seeded(seed):
        return SequenceModel(architecture, title_sequences(history), most, words=word_start(history, DIM, WORD_SPREAD))


class SequenceModel(nn.Module):
    """One architecture over one catalogue; `most` is the longest window, for the positions."""

    def __init__(self, architecture: str, sequences: TitleSequences, most: int, dim: int = DIM, words: np.ndarray | None = None):
        """`most` is the longest window; `words` (n_words, dim) are the vectors that words start from."""
        super().__init__()
        self.architecture, self.dim = architecture, dim
        self.titles = TitleEncoder(_TITLE[architecture], sequences.n_words, dim)
        if words is not None:
            self.titles.words.weight.data.copy_(torch.from_numpy(words))
        self.categories = nn.Embedding(sequences.n_categories, dim, padding_idx=0) if architecture in ("naml", "lstur") else None
        self.views = nn.ModuleList([nn.Linear(dim, dim) for _ in range(2)] + [AttentionPool(dim)]) if architecture == "naml" else None
        self.positions = nn.Embedding(most, dim) if architecture in _WITH_POSITIONS else None
        self.masked = nn.Parameter(0.02 * torch.randn(dim))  # stands for a behaviour that is hidden
        self.context = ContextEncoder(_USER[architecture], dim, len(sequences.behaviours.users))
        self.dropout = nn.Dropout(DROPOUT)
        glorot(self)

    def items(self, batch: SequenceBatch) -> torch.Tensor:
        """(N, d) embeddings of the batch's distinct items; row 0 is zero."""
        vectors = self.titles(batch.words)
        if self.categories is not None:
            broad = self.categories(batch.categories)  # (N, levels, d)
            if self.views is None:
                vectors = vectors + broad.sum(1)
            else:
                views = torch.stack([vectors, *(functional.relu(self.views[level](broad[:, level])) for level in range(2))], dim=1)
                vectors = self.views[2](views, torch.ones(views.shape[:2], dtype=torch.bool, device=views.device))
        there = torch.arange(len(vectors), device=vectors.device) > 0
        return vectors * there[:, None]

    def users(
        self, batch: SequenceBatch, items: torch.Tensor, hidden: torch.Tensor | None = None, shown: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(hidden states (B, L, d), users (B, d)). `hidden` (B, L) marks behaviours replaced by the mask vector, `shown` (B, L) overrides
        which behaviours are there at all."""
        mask = batch.places > 0 if shown is None else shown
        sequence = functional.embedding(batch.places, items)
        if hidden is not None:
            sequence = torch.where(hidden[..., None], self.masked, sequence)
        if self.positions is not None:
            sequence = sequence + self.positions(torch.arange(sequence.shape[1], device=sequence.device))
        return self.context(self.dropout(sequence) * mask[..., None], mask, batch.users)

    def forward(self, batch: SequenceBatch) -> torch.Tensor:
        """(B, d) users."""
        return self.users(batch, self.items(batch))[1]


class TitleEncoder(nn.Module):
    """(N, W) word numbers to (N, d)."""

    def __init__(self, kind: str, n_words: int, dim: int):
        super().__init__()
        self.kind = kind
        self.words = nn.Embedding(n_words, dim, padding_idx=0)
        nn.init.normal_(self.words.weight[1:], std=0.1)
        self.dropout = nn.Dropout(DROPOUT)
        self.positions = nn.Embedding(MAX_WORDS, dim) if kind in ("self", "transformer") else None
        layers = {"cnn": lambda: Convolution(dim), "self": lambda: SelfAttention(dim, N_HEADS), "lstm": lambda: Recurrence(nn.LSTM, dim, True),
                  "gru": lambda: Recurrence(nn.GRU, dim), "transformer": lambda: TransformerBlock(dim, N_HEADS)}  # fmt: skip
        self.layer = layers[kind]() if kind in layers else None
        widths = [dim // 3, dim // 3, dim - 2 * (dim // 3)]
        self.windows = nn.ModuleList([nn.Conv1d(dim, n, window) for n, window in zip(widths, (3, 4, 5))]) if kind == "wide" else None
        self.pool = AttentionPool(dim) if kind in ("cnn", "self", "lstm", "transformer") else None

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """Titles of about the same length together: a third to a half of a catalogue is padding otherwise."""
        lengths = (words > 0).sum(1)
        found = self.words.weight.new_zeros(len(words), self.words.embedding_dim)
        for shortest, longest in zip(BUCKETS, BUCKETS[1:]):
            rows = ((lengths > shortest) & (lengths <= longest)).nonzero().squeeze(1)
            if len(rows):
                found = found.index_copy(0, rows, self.encode(words[rows, :longest]))
        return found

    def encode(self, words: torch.Tensor) -> torch.Tensor:
        mask = words > 0
        sequence = self.dropout(self.words(words))
        if self.positions is not None:
            sequence = (sequence + self.positions.weight[: words.shape[1]]) * mask[..., None]
        if self.kind == "mean":
            return sequence.sum(1) / mask.sum(1, keepdim=True).clamp_min(1)
        if self.kind == "wide":
            # Padded by hand: torch's "same" copies its input, and says so, where a window is even.
            sides = [functional.pad(sequence.transpose(1, 2), ((n - 1) // 2, n // 2)) for n in (window.kernel_size[0] for window in self.windows)]
            found = torch.cat([functional.relu(window(side)) for window, side in zip(self.windows, sides)], dim=1)
            return (found * mask[:, None]).amax(2)
        if self.kind == "gru":
            return self.layer(sequence, mask)[1]
        outputs = self.layer(sequence, mask)
        return self.pool(self.dropout(outputs[0] if self.kind == "lstm" else outputs), mask)


class ContextEncoder(nn.Module):
    """(B, L, d) behaviours with a mask to (hidden states, user vector)."""

    def __init__(self, kind: str, dim: int, n_users: int):
        super().__init__()
        self.kind = kind
        self.layers = nn.ModuleList({
            "cnn": lambda: [Convolution(dim)], "self": lambda: [SelfAttention(dim, N_HEADS)], "lstm": lambda: [Recurrence(nn.LSTM, dim, True)],
            "gru": lambda: [Recurrence(nn.GRU, dim)], "own": lambda: [Recurrence(nn.GRU, dim)],
            "transformer": lambda: [TransformerBlock(dim, N_HEADS), TransformerBlock(dim, N_HEADS)],
        }.get(kind, list)())  # fmt: skip
        self.pool = AttentionPool(dim) if kind in ("cnn", "self", "lstm", "transformer", "attention") else None
        if kind == "own":  # a user whose vector was never trained has none: zero
            self.own = nn.Embedding(n_users, dim)
            nn.init.zeros_(self.own.weight)
            self.forgetting = nn.Dropout1d(0.5)  # LSTUR hides the user's own vector half of the time

    def forward(self, sequence: torch.Tensor, mask: torch.Tensor, users: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.kind == "maximum":
            return sequence, (sequence * mask[..., None]).amax(1)
        if self.kind == "mean":
            return sequence, (sequence * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)
        if self.kind in ("gru", "own"):
            first = self.forgetting(self.own(users)[None].transpose(0, 1)).squeeze(1) if self.kind == "own" else None
            return self.layers[0](sequence, mask, first)
        for layer in self.layers:
            sequence = layer(sequence, mask)
            sequence = sequence[0] if self.kind == "lstm" else sequence
        return sequence, self.pool(sequence, mask)
