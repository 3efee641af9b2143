"""Wide&Deep, LSTM and Transformer trained on many tasks at once: the baselines of the masked multi-label UserBERT (models.md section 2).

In: `day_words` of a user, or his counts. Out: the combined representation before the task layers, frozen, (B, 128); fine-tuned on labels if asked.

Twelve tasks, as in the paper, but there are no other services to take labels from: they are made of the history itself. What was done in the
last 3 months before the cut is told from what lay before them: ten categories (items, where there are none) acted upon or not, and the
volumes of events and of active days in four classes. Loss: the sum of the cross-entropies. The model then reads everything up to the cut.

    wide-deep    deep: log counts of 1,000 words and 130 categories (1,130 numbers) through 512, 256, 256, 128; wide: the profile, linear
    lstm         one LSTM over day words, one over burst words, and the profile; joined to 128
    transformer  the same with two Transformers of two blocks and mean pooling
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy import sparse
from torch import nn
from torch.nn import functional

from lurm.evaluation.baselines.attention import Recurrence, TransformerBlock
from lurm.evaluation.baselines.behaviours import DAY, Behaviours, rows_for
from lurm.evaluation.baselines.day_words import N_PROFILE_CLASSES, WordBatch, word_batch
from lurm.evaluation.baselines.fitted import fitted
from lurm.evaluation.baselines.learning import held_out_batches, learn, seeded
from lurm.evaluation.baselines.masked_multi_label import WordInputs, embed_words, start_words
from lurm.evaluation.baselines.method import Budget, History
from lurm.evaluation.baselines.own_task import MONTHS, item_tags
from lurm.evaluation.baselines.sequences import Bundle, TitleSequences, title_sequences
from lurm.evaluation.baselines.supervised import Trained
from lurm.sampling import hash64_of_text, hash_of_text

DIM, N_WORDS, N_CATEGORIES, N_TASKS, N_CLASSES = 128, 1_000, 130, 10, 4
HELD_OUT = 0.1


class MultiTask:
    """Frozen."""

    def __init__(self, name: str, budget: Budget, seed: int, kind: str = "wide-deep"):
        self.name, self.budget, self.seed, self.kind = name, budget, seed, kind
        self.details: dict = {}

    def fit(self, history: History) -> None:
        sequences = title_sequences(history)
        self._behaviours = sequences.behaviours
        model, cost = pretrained(history, self.budget, self.seed, self.kind)
        self._matrix = embed_words(sequences, self.budget, model)
        self.details = {"width": DIM, **cost}

    def embed(self, users: Sequence[str]) -> np.ndarray:
        return rows_for(self._behaviours, users, self._matrix)


class MultiTaskTuned(Trained):
    """Supervised: fine-tuned end to end from the multi-task weights."""

    def __init__(self, name: str, budget: Budget, seed: int, kind: str = "wide-deep"):
        super().__init__(name, budget, seed)
        self.kind = kind

    def begin(self, history: History) -> tuple["Towers", dict]:
        return pretrained(history, self.budget, self.seed, self.kind)

    def batch_of(self, numbers: np.ndarray) -> WordBatch:
        return word_batch(self.sequences, numbers, self.budget.max_behaviours)


class Towers(nn.Module):
    """A tower for each kind of data, joined to (B, 128)."""

    def __init__(self, sequences: TitleSequences, kind: str, dim: int = DIM):
        super().__init__()
        self.kind, self.dim = kind, dim
        if kind == "wide-deep":
            widths = [N_WORDS + N_CATEGORIES, 512, 256, 256, dim]
            self.deep = nn.Sequential(*(layer for a, b in zip(widths, widths[1:]) for layer in (nn.Linear(a, b), nn.ReLU())))
            self.wide = nn.Linear(2 * N_PROFILE_CLASSES, dim)
            return
        self.inputs = WordInputs(sequences, dim)
        self.towers = nn.ModuleList([Recurrence(nn.LSTM, dim) if kind == "lstm" else nn.ModuleList([TransformerBlock(dim), TransformerBlock(dim)])
                                     for _ in range(2)])  # fmt: skip
        self.join = nn.Linear(3 * dim, dim)

    def forward(self, batch: WordBatch) -> torch.Tensor:
        if self.kind == "wide-deep":
            profile = functional.one_hot(batch.profile, N_PROFILE_CLASSES).flatten(1).float()
            return torch.relu(self.deep(self.counts(batch)) + self.wide(profile))
        words, profile = self.inputs(batch)
        half = words.shape[1] // 2
        parts = [profile.mean(1)]
        for tower, side in zip(self.towers, (slice(0, half), slice(half, None))):
            sequence, mask = words[:, side], batch.mask[:, side]
            if self.kind == "lstm":
                parts.append(tower(sequence, mask)[1])
                continue
            for block in tower:
                sequence = block(sequence, mask)
            parts.append((sequence * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1))
        return torch.relu(self.join(torch.cat(parts, dim=1)))

    def counts(self, batch: WordBatch) -> torch.Tensor:
        """(B, 1,130) log1p of counts over the long segment: the most frequent words and categories."""
        n_users, n_tokens = batch.mask.shape
        owners, places = batch.tokens // n_tokens, batch.tokens % n_tokens
        long = places < n_tokens // 2
        found = []
        for values, width in ((batch.words[batch.items[long]], N_WORDS), (batch.categories[batch.items[long]], N_CATEGORIES)):
            cells = owners[long][:, None] * (width + 1) + torch.where(values <= width, values, 0)
            found.append(torch.bincount(cells.flatten(), minlength=n_users * (width + 1)).view(n_users, width + 1)[:, 1:])
        return torch.log1p(torch.cat(found, dim=1).float())


def pretrained(history: History, budget: Budget, seed: int, kind: str) -> tuple[Towers, dict]:
    """The model after multi-task training, shared by all that start from it: copy it before training on."""
    key = ("multi-task", kind, budget, seed)
    return fitted(history, key, lambda: _pretrain(history, budget, seed, kind))


def _pretrain(history: History, budget: Budget, seed: int, kind: str) -> tuple[Towers, dict]:
    sequences = title_sequences(history)
    behaviours = sequences.behaviours
    moment, users, done, volumes = own_labels(behaviours)
    if budget.max_users is not None and len(users) > budget.max_users:
        kept = np.sort(np.argsort(hash64_of_text(behaviours.users[users], seed), kind="stable")[: budget.max_users])
        users, done, volumes = users[kept], done[kept], volumes[kept]
    with seeded(seed):
        model = Towers(sequences, kind)
        if kind != "wide-deep":
            start_words(model.inputs, history)
        both = nn.ModuleDict({"model": model, "done": nn.Linear(DIM, done.shape[1]), "volumes": nn.Linear(DIM, volumes.shape[1] * N_CLASSES)})
    apart = hash_of_text(behaviours.users[users], seed + 1) < HELD_OUT
    rows = np.arange(len(users))
    training, held_out = (rows[~apart], rows[apart][:256]) if (~apart).any() else (rows, rows[:0])

    def make(chosen: np.ndarray, rng: np.random.Generator) -> Bundle:
        read = word_batch(sequences, users[chosen], budget.max_behaviours, moment)
        return Bundle(read=read, done=torch.from_numpy(done[chosen].astype(np.float32)), volumes=torch.from_numpy(volumes[chosen]))

    def loss_of(batch: Bundle) -> torch.Tensor:
        joined = both["model"](batch["read"])
        loss = functional.cross_entropy(both["volumes"](joined).view(-1, N_CLASSES), batch["volumes"].flatten()) * batch["volumes"].shape[1]
        if batch["done"].shape[1]:
            loss = loss + functional.binary_cross_entropy_with_logits(both["done"](joined), batch["done"]) * batch["done"].shape[1]
        return loss

    cost = learn(
        both, budget, seed, lambda rng, step: make(rng.choice(training, min(budget.batch_size, len(training)), replace=False), rng), loss_of,
        held_out_batches(held_out, budget, seed, make),
    )  # fmt: skip
    return model, cost | {"training_users": len(training), "tasks": int(done.shape[1] + volumes.shape[1])}


def own_labels(behaviours: Behaviours) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """(instant, users with events before it, (n, <= 10) bool of what they do after it, (n, 2) int64 classes of how much)."""
    moment = int((np.datetime64(behaviours.cut, "us").astype("M8[M]") - MONTHS).astype("M8[us]").astype(np.int64))
    late, owners, n_users = behaviours.micros >= moment, behaviours.owners, len(behaviours.users)
    users = np.flatnonzero(np.bincount(owners[~late], minlength=n_users))
    _, tags = item_tags(behaviours.categories, behaviours.item_ids)
    cells = (np.ones(int(late.sum()), np.float32), (owners[late], behaviours.items[late]))
    done = (sparse.csr_matrix(cells, shape=(n_users, len(behaviours.item_ids))) @ tags)[users]
    holders = np.diff(done.tocsc().indptr)
    chosen = np.sort(np.argsort(np.abs(holders / max(1, len(users)) - 0.5), kind="stable")[:N_TASKS])
    days = np.unique(np.stack([owners[late], behaviours.micros[late] // DAY], axis=1), axis=0)[:, 0]
    volumes = []
    for counts in (np.bincount(owners[late], minlength=n_users)[users], np.bincount(days, minlength=n_users)[users]):
        edges = np.unique(np.quantile(counts[counts > 0], [1 / 3, 2 / 3])) if (counts > 0).any() else np.zeros(0)
        volumes.append(np.where(counts > 0, 1 + np.searchsorted(edges, counts), 0))
    return moment, users, np.asarray(done[:, chosen].todense()) > 0, np.stack(volumes, axis=1).astype(np.int64)
