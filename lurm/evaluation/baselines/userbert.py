"""UserBERT, the contrastive one: masked behaviour prediction, behaviour sequence matching, and where their negatives come from.

In: the titles of a user's behaviours. Out: a pre-trained `SequenceModel` or its frozen vectors (models.md section 2; UserBERT eq. 1-3).

    MBP: 10 % of the behaviours are hidden, at least one; the hidden state at its place . candidate, over it and 4 negatives, softmax
    BSM: A and B are sequences of one user, all of A before all of B; A . candidate over B and 4 sequences of other users, softmax
    NBP: next K = 2 behaviours as in PTUM, from the user vector; for the comparison with BSM
    loss = the sum of the tasks that are on

Negatives are the K most similar (cosine, without gradient) in a pool of other users' behaviours or sequences, that are not the positive:

| negatives | behaviours | sequences |
|---|---|---|
| random | no choice: 4 drawn anew for each | no choice: 4 drawn anew for each of the batch |
| medium | of 1,000 drawn at each step | of 100 drawn and encoded every 50 steps; the chosen are encoded anew |
| hardest | of up to 20,000 items of the catalogue, encoded every 50 steps | of up to 1,000 sequences, encoded every 50 steps |

The last weights are taken: a held-out loss over negatives that move with the model says nothing of when to stop.
A negative sequence does not overlap A in time where the pool has 4 such; lives here are long and a pool may have fewer, then the most
similar overlapping ones fill up. Smaller than the paper: d = 64 for 256, `Budget.steps` steps at 0.001 for many more at 0.00001.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional

from lurm.evaluation.baselines.behaviours import rows_for, training_users
from lurm.evaluation.baselines.fitted import fitted
from lurm.evaluation.baselines.learning import embed_all, learn
from lurm.evaluation.baselines.method import Budget, History
from lurm.evaluation.baselines.sequence_models import SequenceModel, new_model
from lurm.evaluation.baselines.sequences import Bundle, TitleSequences, make_batch, others_items, title_sequences
from lurm.training import choose_device

MASKED, NEGATIVES, NEXT = 0.1, 4, 2
FEWEST = 2 + NEXT
REFRESH = 50  # steps between two drawings of the pools that are kept
BEHAVIOUR_POOL, SEQUENCE_POOL = {"random": 0, "medium": 1_000, "hardest": 20_000}, {"random": 100, "medium": 100, "hardest": 1_000}


class UserBert:
    """Frozen. tasks: some of mbp, bsm, nbp; negatives: random, medium, hardest."""

    def __init__(
        self, name: str, budget: Budget, seed: int, backbone: str = "hsa", tasks: Sequence[str] = ("mbp", "bsm"), negatives: str = "medium"
    ):  # fmt: skip
        self.name, self.budget, self.seed = name, budget, seed
        self.backbone, self.tasks, self.negatives = backbone, tuple(tasks), negatives
        self.details: dict = {}

    def fit(self, history: History) -> None:
        sequences = title_sequences(history)
        self._behaviours = sequences.behaviours
        model, cost = pretrained(history, self.budget, self.seed, self.backbone, self.tasks, self.negatives)
        self._matrix = embed_all(sequences, self.budget.max_behaviours, model)
        self.details = {"width": model.dim, **cost}

    def embed(self, users: Sequence[str]) -> np.ndarray:
        return rows_for(self._behaviours, users, self._matrix)


def pretrained(
    history: History, budget: Budget, seed: int, backbone: str, tasks: Sequence[str], negatives: str
) -> tuple[SequenceModel, dict]:  # fmt: skip
    """The model after pre-training, shared by all that start from it: copy it before training on."""
    key = ("userbert", budget, seed, backbone, tuple(tasks), negatives)
    return fitted(history, key, lambda: _pretrain(history, budget, seed, backbone, tuple(tasks), negatives))


def _pretrain(
    history: History, budget: Budget, seed: int, backbone: str, tasks: tuple[str, ...], negatives: str
) -> tuple[SequenceModel, dict]:  # fmt: skip
    sequences, model = title_sequences(history), new_model(history, backbone, budget.max_behaviours, seed)
    training = training_users(sequences.behaviours, FEWEST, budget.max_users, seed)
    pools = Pools(sequences, model, training, budget.max_behaviours, seed, negatives)

    def make(rng: np.random.Generator, step: int) -> Bundle:
        users = rng.choice(training, min(budget.batch_size, len(training)), replace=False)
        return Bundle(draw(sequences, users, training, budget.max_behaviours, rng, negatives), step=torch.tensor(step))

    cost = learn(model, budget, seed, make, lambda batch: task_loss(model, batch, tasks, pools))
    return model, cost | {"training_users": len(training), "tasks": list(tasks), "negatives": negatives}


def random_windows(
    sequences: TitleSequences, candidates: np.ndarray, most: int, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """n random (user, start, stop) of candidate users, each of at most `most` behaviours."""
    offsets = sequences.behaviours.offsets
    users = candidates[rng.integers(0, len(candidates), n)]
    begin, end = offsets[users], offsets[users + 1]
    stop = begin + 1 + (rng.random(n) * (end - begin)).astype(np.int64)
    return users, np.maximum(begin, stop - most), stop


def draw(
    sequences: TitleSequences, users: np.ndarray, candidates: np.ndarray, most: int, rng: np.random.Generator, negatives: str
) -> Bundle:  # fmt: skip
    """A moment of each user's life: A before it, B after it, what of A is hidden, and random candidates.

    mbp (B, c) and nbp (B, 2) are rows of A's items, negatives (B, c + 2, 4) likewise, of random behaviours of others; pool: the rows of
    medium-hard candidates. Where sequences are drawn at random: `others` of `candidates`, of which `chosen` (B, 4) are each user's negatives.
    """
    offsets, items = sequences.behaviours.offsets, sequences.behaviours.items
    begin, end = offsets[users], offsets[users + 1]
    now = begin + 2 + (rng.random(len(users)) * (end - NEXT - begin - 1)).astype(np.int64)
    start, stop = np.maximum(begin, now - most), np.minimum(end, now + most)
    n_hidden = np.maximum(1, np.floor(MASKED * (now - start)).astype(np.int64))
    order = rng.random((len(users), int((now - start).max())))
    order[np.arange(order.shape[1]) >= (now - start)[:, None]] = 2.0
    place = np.argsort(order, axis=1, kind="stable")[:, : int(n_hidden.max())]  # (B, c) places in A
    real = np.arange(place.shape[1]) < n_hidden[:, None]
    true = np.where(real, items[np.minimum(start[:, None] + place, now[:, None] - 1)] + 1, 0)
    following = np.stack([items[now + step] for step in range(NEXT)], axis=1) + 1
    n_columns = place.shape[1] + NEXT
    drawn = others_items(sequences, users, (n_columns, NEGATIVES), rng)
    drawn_pool = np.unique(items[rng.integers(0, len(items), BEHAVIOUR_POOL["medium"] if negatives == "medium" else 0)]) + 1
    asked = np.concatenate([true.ravel(), following.ravel(), drawn.ravel(), drawn_pool])
    left = make_batch(sequences, users, start, now, asked)
    sizes = np.cumsum([true.size, following.size, drawn.size])
    mbp, nbp, wrong, pool = np.split(left.extra.numpy(), sizes)
    micros = sequences.behaviours.micros
    spans = np.stack([micros[start], micros[now - 1]], axis=1)
    batch = Bundle(
        left=left, right=make_batch(sequences, users, now, stop), place=torch.from_numpy(place), real=torch.from_numpy(real),
        mbp=torch.from_numpy(mbp.reshape(true.shape)), nbp=torch.from_numpy(nbp.reshape(following.shape)),
        negatives=torch.from_numpy(wrong.reshape(drawn.shape)), pool=torch.from_numpy(pool),
        spans=torch.from_numpy(spans), items=torch.from_numpy(true), users=torch.from_numpy(users),
    )  # fmt: skip
    if negatives == "random":
        others = random_windows(sequences, candidates, most, SEQUENCE_POOL["random"], rng)
        apart = (micros[others[1]][None] > spans[:, 1:]) | (micros[others[2] - 1][None] < spans[:, :1])
        lots = rng.random(apart.shape) + ~apart + 2 * (others[0][None] == users[:, None])
        batch |= {"others": make_batch(sequences, *others), "chosen": torch.from_numpy(np.argsort(lots, axis=1, kind="stable")[:, :NEGATIVES])}
    return Bundle(batch)


def task_loss(model: SequenceModel, batch: Bundle, tasks: Sequence[str], pools: "Pools") -> torch.Tensor:
    """The sum of the tasks."""
    left, place, real = batch["left"], batch["place"], batch["real"]
    items = model.items(left)
    loss = items.new_zeros(())
    if "mbp" in tasks:
        hidden = torch.zeros(left.places.shape, dtype=torch.bool, device=items.device).scatter(1, place, real)
        states = model.users(left, items, hidden=hidden & (left.places > 0))[0]
        states = states.gather(1, place[..., None].expand(-1, -1, states.shape[2]))[real]  # (n, d)
        true = batch["mbp"][real]
        if pools.kind == "random":
            rows = batch["negatives"][:, : place.shape[1]][real]
            wrong, barred = items[rows], rows == true[:, None]
        else:
            wrong, barred = pools.behaviours(batch, items, items[true], batch["items"][real], int(batch["step"]))
        loss = loss + choose(states, items[true], wrong, barred)
    if "nbp" in tasks:
        users = model.users(left, items)[1]
        rows, true = batch["negatives"][:, place.shape[1] :], batch["nbp"]  # (B, 2, 4), (B, 2)
        repeated = users[:, None].expand(-1, true.shape[1], -1).flatten(0, 1)
        loss = loss + choose(repeated, items[true.flatten()], items[rows.flatten(0, 1)], (rows == true[..., None]).flatten(0, 1))
    if "bsm" in tasks:
        ours, theirs = model.users(left, items)[1], model(batch["right"])
        if pools.kind == "random":
            wrong = model(batch["others"])[batch["chosen"]]
            barred = batch["others"].users[batch["chosen"]] == batch["users"][:, None]
        else:
            wrong, barred = pools.sequences_of_others(batch, ours, int(batch["step"]))
        loss = loss + choose(ours, theirs, wrong, barred)
    return loss


def choose(queries: torch.Tensor, positives: torch.Tensor, negatives: torch.Tensor, barred: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the positive among itself and the negatives by dot product; (n, d), (n, d), (n, K, d), barred (n, K)."""
    right = (queries * positives).sum(1, keepdim=True)
    wrong = torch.einsum("nd,nkd->nk", queries, negatives).masked_fill(barred, -1e9)
    scores = torch.cat([right, wrong], dim=1)
    return functional.cross_entropy(scores, scores.new_zeros(len(scores)).long())


@dataclass
class Pools:
    """Where hard negatives come from; what is kept between steps is drawn and encoded every REFRESH steps."""

    sequences: TitleSequences
    model: SequenceModel
    users: np.ndarray  # who may be a negative
    most: int
    seed: int
    kind: str
    kept: dict = field(default_factory=dict)  # name: (number of the refresh, things)

    def behaviours(self, batch: Bundle, items: torch.Tensor, positives: torch.Tensor, numbers: torch.Tensor, step: int):
        """(n, K, d) encoded negatives and what of them is barred, for positives (n, d) that are items `numbers` of the catalogue."""
        if self.kind == "medium":
            rows = batch["pool"]
            near = self._nearest(positives, items[rows], rows[None] == batch["mbp"][batch["real"]][:, None])
            return items[rows[near]], rows[near] == batch["mbp"][batch["real"]][:, None]
        catalogue, known = self._keep("catalogue", step, self._encode_catalogue)
        near = catalogue.to(numbers.device)[self._nearest(positives, known, catalogue.to(numbers.device)[None] == numbers[:, None])]
        distinct, rows = torch.unique(near, return_inverse=True)
        return self._encode_items(distinct.cpu().numpy())[rows], near == numbers[:, None]

    def sequences_of_others(self, batch: Bundle, ours: torch.Tensor, step: int):
        """(B, K, d) encoded negatives and what of them is barred: sequences near `ours` (B, d)."""
        (users, starts, stops), known = self._keep("sequences", step, self._encode_sequences)
        micros = self.sequences.behaviours.micros
        first, last = (torch.from_numpy(micros[place]).to(ours.device) for place in (starts, stops - 1))
        spans = batch["spans"]
        own = torch.from_numpy(users).to(ours.device)[None] == batch["users"][:, None]
        apart = (first[None] > spans[:, 1:]) | (last[None] < spans[:, :1])
        near = self._nearest(ours, known, own, penalty=(~apart).float() * 10)  # an overlapping one only where the others are used up
        distinct, rows = torch.unique(near, return_inverse=True)
        chosen = distinct.cpu().numpy()
        encoded = self.model(make_batch(self.sequences, users[chosen], starts[chosen], stops[chosen]).to(ours.device))
        return encoded[rows], own.gather(1, near)

    def _nearest(self, targets: torch.Tensor, known: torch.Tensor, barred: torch.Tensor, penalty: torch.Tensor | float = 0.0) -> torch.Tensor:
        """(n, K) rows of `known` most similar to each target."""
        with torch.no_grad():
            cosine = functional.normalize(targets, dim=1) @ functional.normalize(known, dim=1).T - penalty
            return cosine.masked_fill(barred, -1e9).topk(min(NEGATIVES, len(known)), dim=1).indices

    def _keep(self, name: str, step: int, encode):
        number = step // REFRESH
        if self.kept.get(name, (None,))[0] != number:
            with torch.no_grad():
                self.model.eval()
                self.kept[name] = (number, *encode(np.random.default_rng((self.seed, 1 << 41, number))))
                self.model.train()
        return self.kept[name][1:]

    def _encode_catalogue(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        n_items = len(self.sequences.words) - 1
        chosen = np.sort(rng.permutation(n_items)[: BEHAVIOUR_POOL[self.kind]]) + 1
        parts = [self._encode_items(chosen[start : start + 4_096]) for start in range(0, len(chosen), 4_096)]
        return torch.from_numpy(chosen), torch.cat(parts)

    def _encode_items(self, numbers: np.ndarray) -> torch.Tensor:
        nobody = np.zeros(0, np.int64)
        batch = make_batch(self.sequences, nobody, nobody, nobody, numbers).to(choose_device("auto"))
        return self.model.items(batch)[batch.extra]

    def _encode_sequences(self, rng: np.random.Generator) -> tuple[tuple[np.ndarray, ...], torch.Tensor]:
        windows = random_windows(self.sequences, self.users, self.most, SEQUENCE_POOL[self.kind], rng)
        device = choose_device("auto")
        parts = [self.model(make_batch(self.sequences, *(side[start : start + 128] for side in windows)).to(device))
                 for start in range(0, len(windows[0]), 128)]  # fmt: skip
        return windows, torch.cat(parts)
