"""UserBERT, the masked multi-label one: a Transformer over behavioural words that fills in what was masked (models.md section 2).

In: `day_words`. Out: frozen vectors (B, 128), the mean of the last hidden states of a user's tokens; or, fine-tuned on labels, the hidden
state of the first token (a profile token), as in the paper.

    word = mean over its actions of [categories 48; title words 64; hour 16], + position, + segment;  profile tokens have no position
    15 % of the words are selected, 80 % of those zeroed (20 % stay); for each attribute a linear layer and a softmax over its vocabulary
    loss = sum over attributes of the cross-entropy to the normalised multi-hot, mean over the selected words

Transformer of L = 4 blocks, H = 128, A = 4 heads as in the paper; `Budget.max_behaviours` words a segment for 128; the profile is not masked.
Words of titles start from `word_start`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from lurm.evaluation.baselines.attention import TransformerBlock
from lurm.evaluation.baselines.behaviours import rows_for
from lurm.evaluation.baselines.day_words import (
    N_HOURS,
    N_LONG_POSITIONS,
    N_PROFILE_CLASSES,
    N_SHORT_POSITIONS,
    N_TARGET_WORDS,
    WordBatch,
    targets_of,
    word_batch,
)
from lurm.evaluation.baselines.fitted import fitted
from lurm.evaluation.baselines.learning import held_out_batches, learn, seeded, train_and_held_out
from lurm.evaluation.baselines.method import Budget, History
from lurm.evaluation.baselines.sequences import Bundle, TitleSequences, title_sequences
from lurm.evaluation.baselines.supervised import Trained
from lurm.evaluation.baselines.word_start import word_start
from lurm.training import choose_device

DIM, N_BLOCKS, N_HEADS = 128, 4, 4
SELECTED, ZEROED, FEWEST = 0.15, 0.8, 2


class MaskedMultiLabel:
    """Frozen."""

    def __init__(self, name: str, budget: Budget, seed: int):
        self.name, self.budget, self.seed = name, budget, seed
        self.details: dict = {}

    def fit(self, history: History) -> None:
        sequences = title_sequences(history)
        self._behaviours = sequences.behaviours
        model, cost = pretrained(history, self.budget, self.seed)
        self._matrix = embed_words(sequences, self.budget, model.mean_state)
        self.details = {"width": DIM, **cost}

    def embed(self, users: Sequence[str]) -> np.ndarray:
        return rows_for(self._behaviours, users, self._matrix)


class MaskedMultiLabelTuned(Trained):
    """Supervised: fine-tuned end to end from the pre-trained weights."""

    def begin(self, history: History) -> tuple["WordTransformer", dict]:
        return pretrained(history, self.budget, self.seed)

    def batch_of(self, numbers: np.ndarray) -> WordBatch:
        return word_batch(self.sequences, numbers, self.budget.max_behaviours)


class WordTransformer(nn.Module):
    """Words to hidden states; called alone it gives the first token's state."""

    def __init__(self, sequences: TitleSequences, dim: int = DIM):
        super().__init__()
        self.dim = dim
        self.inputs = WordInputs(sequences, dim)
        self.blocks = nn.ModuleList([TransformerBlock(dim, N_HEADS) for _ in range(N_BLOCKS)])
        self.outputs = nn.ModuleList([nn.Linear(dim, n) for n in (sequences.n_categories, N_TARGET_WORDS + 1, N_HOURS + 1)])

    def states(self, batch: WordBatch, zeroed: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states (B, 2 + T, d), the profile's two first, and the mask of what is there; `zeroed` (B, T) words are hidden."""
        words, profile = self.inputs(batch, zeroed)
        sequence, mask = torch.cat([profile, words], dim=1), torch.cat([torch.ones_like(batch.profile, dtype=torch.bool), batch.mask], dim=1)
        for block in self.blocks:
            sequence = block(sequence, mask)
        return sequence, mask

    def forward(self, batch: WordBatch) -> torch.Tensor:
        return self.states(batch)[0][:, 0]

    def mean_state(self, batch: WordBatch) -> torch.Tensor:
        """(B, d)."""
        sequence, mask = self.states(batch)
        return (sequence * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


class WordInputs(nn.Module):
    """(words (B, T, d), profile (B, 2, d)): what goes into a Transformer or a recurrence."""

    def __init__(self, sequences: TitleSequences, dim: int):
        super().__init__()
        tags, hours = dim * 3 // 8, dim // 8
        self.categories = nn.Embedding(sequences.n_categories, tags // 2, padding_idx=0)
        self.words = nn.Embedding(sequences.n_words, dim - 2 * (tags // 2) - hours, padding_idx=0)
        self.hours = nn.Embedding(N_HOURS, hours)
        self.long, self.short = nn.Embedding(N_LONG_POSITIONS, dim), nn.Embedding(N_SHORT_POSITIONS, dim)
        self.segments, self.profile = nn.Embedding(3, dim), nn.Embedding(2 * N_PROFILE_CLASSES, dim)
        for table in (self.long, self.short, self.segments, self.profile, self.hours):
            nn.init.normal_(table.weight, std=0.1)
        for table in (self.categories, self.words):
            nn.init.normal_(table.weight[1:], std=0.3)

    def forward(self, batch: WordBatch, zeroed: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        titles = self.words(batch.words).sum(1) / (batch.words > 0).sum(1, keepdim=True).clamp_min(1)
        things = torch.cat([self.categories(batch.categories).flatten(1), titles], dim=1)
        actions = torch.cat([things[batch.items], self.hours(batch.hours)], dim=1)
        n_users, n_tokens = batch.mask.shape
        sums = actions.new_zeros(n_users * n_tokens, actions.shape[1]).index_add(0, batch.tokens, actions)
        sizes = actions.new_zeros(n_users * n_tokens).index_add(0, batch.tokens, actions.new_ones(len(actions)))
        words = (sums / sizes.clamp_min(1)[:, None]).view(n_users, n_tokens, -1)
        if zeroed is not None:
            words = words.masked_fill(zeroed[..., None], 0)
        half = n_tokens // 2
        places = torch.cat([self.long(batch.positions[:, :half]) + self.segments.weight[0],
                            self.short(batch.positions[:, half:]) + self.segments.weight[1]], dim=1)  # fmt: skip
        kinds = torch.tensor([0, N_PROFILE_CLASSES], device=words.device)
        return (words + places) * batch.mask[..., None], self.profile(batch.profile + kinds) + self.segments.weight[2]


def start_words(inputs: "WordInputs", history: History) -> None:
    """Words start from `word_start`."""
    inputs.words.weight.data.copy_(torch.from_numpy(word_start(history, inputs.words.embedding_dim, 0.3)))


def pretrained(history: History, budget: Budget, seed: int) -> tuple[WordTransformer, dict]:
    """The model after pre-training, shared by all that start from it: copy it before training on."""
    key = ("masked multi-label", budget, seed)
    return fitted(history, key, lambda: _pretrain(history, budget, seed))


def _pretrain(history: History, budget: Budget, seed: int) -> tuple[WordTransformer, dict]:
    sequences = title_sequences(history)
    with seeded(seed):
        model = WordTransformer(sequences)
    start_words(model.inputs, history)
    training, held_out = train_and_held_out(sequences.behaviours, FEWEST, budget, seed)
    n_users = max(2, min(budget.batch_size, len(training)))

    def make(users: np.ndarray, rng: np.random.Generator) -> Bundle:
        batch = word_batch(sequences, users, budget.max_behaviours)
        return Bundle(read=batch, lots=torch.from_numpy(rng.random((2, *batch.mask.shape))))

    cost = learn(
        model, budget, seed, lambda rng, step: make(rng.choice(training, min(n_users, len(training)), replace=False), rng),
        lambda batch: masked_loss(model, batch["read"], batch["lots"], sequences.n_categories), held_out_batches(held_out, budget, seed, make),
    )  # fmt: skip
    return model, cost | {"training_users": len(training)}


def masked_loss(model: WordTransformer, batch: WordBatch, lots: torch.Tensor, n_categories: int) -> torch.Tensor:
    """Sum of the attributes' cross-entropies; lots (2, B, T) uniform numbers decide what is selected, and what of it is zeroed."""
    lowest = torch.where(batch.mask, lots[0], 2.0)
    selected = (lowest < SELECTED) | ((lowest == lowest.amin(1, keepdim=True)) & batch.mask)  # one word of everybody at least
    states, _ = model.states(batch, selected & (lots[1] < ZEROED))
    chosen = states[:, 2:][selected]
    losses = [
        -(torch.log_softmax(layer(chosen), dim=1) * target).sum(1).mean()
        for layer, target in zip(model.outputs, targets_of(batch, n_categories, selected), strict=True)
    ]
    return torch.stack(losses).sum()


@torch.no_grad()
def embed_words(sequences: TitleSequences, budget: Budget, embed) -> np.ndarray:
    """(U, d) float32 of all users."""
    device, n_users, parts = choose_device("auto"), len(sequences.behaviours.users), []
    for start in range(0, n_users, 256):
        batch = word_batch(sequences, np.arange(start, min(start + 256, n_users)), budget.max_behaviours)
        parts.append(embed(batch.to(device)).float().cpu().numpy())
    return np.concatenate(parts)
