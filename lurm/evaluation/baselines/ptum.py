"""PTUM: pre-training of a user model by masked behaviour prediction and next-K behaviours prediction (models.md section 2; PTUM eq. 1-3).

In: the titles of a user's behaviours. Out: a pre-trained `SequenceModel` (for `supervised` to fine-tune) or its frozen vectors (B, 64).

    MBP: one random behaviour is hidden; user . candidate over it and 4 behaviours of other users, softmax, cross-entropy
    NBP: the same for each of the next K = 2 behaviours, averaged; loss = MBP + lambda NBP, lambda = 1

Training input: a random moment of a life, the last behaviours before it; the next two after it. A hidden behaviour is not there at all: the
user vector is told no position. A negative that is the same item as the positive is no candidate. Backbones are those of `sequence_models`
(hsa, han, hura in the paper).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from lurm.evaluation.baselines.behaviours import rows_for
from lurm.evaluation.baselines.fitted import fitted
from lurm.evaluation.baselines.learning import embed_all, held_out_batches, learn, train_and_held_out
from lurm.evaluation.baselines.method import Budget, History
from lurm.evaluation.baselines.sequence_models import SequenceModel, new_model
from lurm.evaluation.baselines.sequences import Bundle, TitleSequences, make_batch, others_items, title_sequences
from lurm.training import choose_device

NEXT, NEGATIVES, WEIGHT = 2, 4, 1.0
FEWEST = 2 + NEXT  # behaviours of a user to train on: one read, one hidden, the next


class Ptum:
    """Frozen; mbp and nbp both false is the backbone as it was initialised."""

    def __init__(self, name: str, budget: Budget, seed: int, backbone: str = "hsa", mbp: bool = True, nbp: bool = True):
        self.name, self.budget, self.seed = name, budget, seed
        self.backbone, self.mbp, self.nbp = backbone, mbp, nbp
        self.details: dict = {}

    def fit(self, history: History) -> None:
        sequences = title_sequences(history)
        self._behaviours = sequences.behaviours
        model, cost = pretrained(history, self.budget, self.seed, self.backbone, self.mbp, self.nbp)
        self._matrix = embed_all(sequences, self.budget.max_behaviours, model)
        self.details = {"width": model.dim, **cost}

    def embed(self, users: Sequence[str]) -> np.ndarray:
        return rows_for(self._behaviours, users, self._matrix)


def pretrained(
    history: History, budget: Budget, seed: int, backbone: str, mbp: bool = True, nbp: bool = True
) -> tuple[SequenceModel, dict]:  # fmt: skip
    """The model after pre-training, shared by all that start from it: copy it before training on."""
    key = ("ptum", budget, seed, backbone, mbp, nbp)
    return fitted(history, key, lambda: _pretrain(history, budget, seed, backbone, mbp, nbp))


def _pretrain(history: History, budget: Budget, seed: int, backbone: str, mbp: bool, nbp: bool) -> tuple[SequenceModel, dict]:
    sequences, model = title_sequences(history), new_model(history, backbone, budget.max_behaviours, seed)
    if not (mbp or nbp):
        return model.eval().to(choose_device("auto")), {"steps": 0}
    training, held_out = train_and_held_out(sequences.behaviours, FEWEST, budget, seed)

    def make(users: np.ndarray, rng: np.random.Generator) -> Bundle:
        return draw(sequences, users, budget.max_behaviours, rng)

    cost = learn(
        model, budget, seed, lambda rng, step: make(rng.choice(training, min(budget.batch_size, len(training)), replace=False), rng),
        lambda batch: prediction_loss(model, batch, mbp, nbp), held_out_batches(held_out, budget, seed, make),
    )  # fmt: skip
    return model, cost | {"training_users": len(training)}


def draw(sequences: TitleSequences, users: np.ndarray, most: int, rng: np.random.Generator) -> Bundle:
    """A moment of each user's life: the window before it, the place of the hidden behaviour, and candidates (B, 1 + K, 1 + 4), the true first."""
    offsets, items = sequences.behaviours.offsets, sequences.behaviours.items
    begin, end = offsets[users], offsets[users + 1]
    now = begin + 2 + (rng.random(len(users)) * (end - NEXT - begin - 1)).astype(np.int64)
    start = np.maximum(begin, now - most)
    hidden = (rng.random(len(users)) * (now - start)).astype(np.int64)
    true = np.stack([items[start + hidden], *(items[now + step] for step in range(NEXT))], axis=1) + 1
    candidates = np.concatenate([true[..., None], others_items(sequences, users, (1 + NEXT, NEGATIVES), rng)], axis=2)
    return Bundle(read=make_batch(sequences, users, start, now, candidates), hidden=torch.from_numpy(hidden))


def prediction_loss(model: SequenceModel, batch: Bundle, mbp: bool, nbp: bool) -> torch.Tensor:
    """MBP + lambda NBP, each where it is asked for."""
    read, hidden = batch["read"], batch["hidden"]
    items = model.items(read)
    candidates = functional.embedding(read.extra, items)  # (B, 1 + K, 1 + 4, d)
    same = read.extra[..., 1:] == read.extra[..., :1]
    same = torch.cat([torch.zeros_like(same[..., :1]), same], dim=2)
    there = read.places > 0
    loss = items.new_zeros(())
    for wanted, shown, columns, weight in (
        (mbp, there & (torch.arange(there.shape[1], device=there.device) != hidden[:, None]), slice(0, 1), 1.0),
        (nbp, there, slice(1, None), WEIGHT),
    ):
        if wanted:
            users = model.users(read, items, shown=shown)[1]
            scores = torch.einsum("bd,bkcd->bkc", users, candidates[:, columns]).masked_fill(same[:, columns], -1e9)
            loss = loss + weight * functional.cross_entropy(scores.flatten(0, 1), scores.new_zeros(scores.shape[0] * scores.shape[1]).long())
    return loss
