"""CP: two augmented views of one sequence are a positive pair (Xie et al. 2020, as compared with in UserBERT; models.md section 2).

In: the titles of a user's last behaviours. Out: a pre-trained `SequenceModel` or its frozen vectors, (B, 64).

A view is made by one of the operations that are on, drawn anew for each side of each user:
    crop     a random run of 60 % of the behaviours
    mask     30 % of the behaviours are replaced by the mask vector
    reorder  a random run of 60 % of the behaviours is shuffled
Loss: NT-Xent over the 2B views of a batch, temperature 0.5, on a projection that is dropped afterwards. The shares are those of the paper's
best single settings.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from lurm.contrastive import nt_xent
from lurm.evaluation.baselines.behaviours import rows_for
from lurm.evaluation.baselines.fitted import fitted
from lurm.evaluation.baselines.learning import embed_all, held_out_batches, learn, seeded, train_and_held_out
from lurm.evaluation.baselines.method import Budget, History
from lurm.evaluation.baselines.sequence_models import SequenceModel, new_model
from lurm.evaluation.baselines.sequences import Bundle, TitleSequences, make_batch, title_sequences

CROP, MASK, REORDER, TEMPERATURE, FEWEST = 0.6, 0.3, 0.6, 0.5, 3


class Augmented:
    """Frozen. operations: some of crop, mask, reorder."""

    def __init__(self, name: str, budget: Budget, seed: int, backbone: str = "hsa", operations: Sequence[str] = ("crop", "mask", "reorder")):
        self.name, self.budget, self.seed, self.backbone, self.operations = name, budget, seed, backbone, tuple(operations)
        self.details: dict = {}

    def fit(self, history: History) -> None:
        sequences = title_sequences(history)
        self._behaviours = sequences.behaviours
        model, cost = pretrained(history, self.budget, self.seed, self.backbone, self.operations)
        self._matrix = embed_all(sequences, self.budget.max_behaviours, model)
        self.details = {"width": model.dim, "operations": list(self.operations), **cost}

    def embed(self, users: Sequence[str]) -> np.ndarray:
        return rows_for(self._behaviours, users, self._matrix)


def pretrained(history: History, budget: Budget, seed: int, backbone: str, operations: Sequence[str]) -> tuple[SequenceModel, dict]:
    """The model after pre-training, shared by all that start from it: copy it before training on."""
    key = ("cp", budget, seed, backbone, tuple(operations))
    return fitted(history, key, lambda: _pretrain(history, budget, seed, backbone, tuple(operations)))


def _pretrain(history: History, budget: Budget, seed: int, backbone: str, operations: tuple[str, ...]) -> tuple[SequenceModel, dict]:
    sequences, model = title_sequences(history), new_model(history, backbone, budget.max_behaviours, seed)
    with seeded(seed):
        both = nn.ModuleDict({"model": model, "head": nn.Linear(model.dim, model.dim)})
    training, held_out = train_and_held_out(sequences.behaviours, FEWEST, budget, seed)

    def make(users: np.ndarray, rng: np.random.Generator) -> Bundle:
        return draw(sequences, users, budget.max_behaviours, operations, rng)

    def loss_of(batch: Bundle) -> torch.Tensor:
        read, places, hidden = batch["read"], batch["places"], batch["hidden"]
        items = model.items(read)
        twice = type(read)(read.words, read.categories, places, read.ages.repeat(2, 1), read.users.repeat(2), read.extra)
        return nt_xent(*both["head"](model.users(twice, items, hidden=hidden)[1]).chunk(2), TEMPERATURE)

    cost = learn(
        both, budget, seed, lambda rng, step: make(rng.choice(training, min(budget.batch_size, len(training)), replace=False), rng), loss_of,
        held_out_batches(held_out, budget, seed, make),
    )  # fmt: skip
    return model, cost | {"training_users": len(training)}


def draw(sequences: TitleSequences, users: np.ndarray, most: int, operations: Sequence[str], rng: np.random.Generator) -> Bundle:
    """A random window of each user's life, and the places (2B, L) and hidden behaviours (2B, L) of its two views, all left ones first."""
    offsets = sequences.behaviours.offsets
    begin, end = offsets[users], offsets[users + 1]
    stop = np.minimum(end, begin + FEWEST + (rng.random(len(users)) * (end - begin - FEWEST + 1)).astype(np.int64))
    start = np.maximum(begin, stop - most)
    read = make_batch(sequences, users, start, stop)
    whole = read.places.numpy()
    places, hidden = np.zeros((2 * len(users), whole.shape[1]), np.int64), np.zeros((2 * len(users), whole.shape[1]), bool)
    for row in range(2 * len(users)):
        view, masked = augment(whole[row % len(users), : stop[row % len(users)] - start[row % len(users)]], operations, rng)
        places[row, : len(view)], hidden[row, : len(view)] = view, masked
    return Bundle(read=read, places=torch.from_numpy(places), hidden=torch.from_numpy(hidden))


def augment(sequence: np.ndarray, operations: Sequence[str], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(one view of a sequence (n,), which of it is hidden) by one random operation."""
    operation, n = operations[rng.integers(len(operations))], len(sequence)
    hidden = np.zeros(n, bool)
    if operation == "crop":
        length = max(1, int(CROP * n))
        first = rng.integers(0, n - length + 1)
        return sequence[first : first + length], hidden[:length]
    if operation == "mask":
        hidden[rng.permutation(n)[: int(MASK * n)]] = True
        return sequence, hidden
    length = int(REORDER * n)
    first = rng.integers(0, n - length + 1)
    view = sequence.copy()
    view[first : first + length] = rng.permutation(view[first : first + length])
    return view, hidden
