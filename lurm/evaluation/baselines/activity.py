"""Counts and recency: how much, how recently, how regularly, how broadly; alone, under gradient boosting, or beside another representation.

In: the events of a user before the cut. Out: some thirty statistics of the whole life, and for the most frequent categories (items, where
there are no categories) how often and how long ago. This is what most teams build first. `Counts` is the frozen row, every statistic
standardised over the users of the history; `BoostedCounts` learns on the labels with scikit-learn's histogram gradient boosting, 10 % of the
training users deciding when to stop. `fading_activity` is what LURM's own vector says of activity, for a baseline that is to know it too.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy import sparse
from sklearn.ensemble import HistGradientBoostingClassifier

from lurm.evaluation.baselines.behaviours import DAY, Behaviours, behaviours_of, rows_for
from lurm.evaluation.baselines.method import Budget, History
from lurm.evaluation.baselines.own_task import item_tags
from lurm.periods import end_month
from lurm.schema import MONTH
from lurm.smen.activity_traces import trace_weights, traces_of
from lurm.smen.batches import SparseBags

RECENT_DAYS = (7, 30, 90, 180, 365)
N_TAGS = 64
NEVER = 20 * 365.0  # days ago, of a category that a user never acted on


class Counts:
    """Frozen."""

    def __init__(self, name: str, budget: Budget, seed: int, n_tags: int = N_TAGS):
        self.name, self.budget, self.seed, self.n_tags = name, budget, seed, n_tags
        self.details: dict = {}

    def fit(self, history: History) -> None:
        self._behaviours = behaviours_of(history)
        statistics = np.hstack([life_statistics(self._behaviours), *tag_statistics(self._behaviours, self.n_tags)])
        spread = statistics.std(axis=0)
        self._matrix = ((statistics - statistics.mean(axis=0)) / np.where(spread > 0, spread, 1.0)).astype(np.float32)
        self.details = {"width": self._matrix.shape[1]}

    def embed(self, users: Sequence[str]) -> np.ndarray:
        return rows_for(self._behaviours, users, self._matrix)


class BoostedCounts:
    """Supervised: gradient boosting over the statistics, which need no scale."""

    def __init__(self, name: str, budget: Budget, seed: int, n_tags: int = N_TAGS):
        self.name, self.budget, self.seed, self.n_tags = name, budget, seed, n_tags
        self.details: dict = {}

    def fit(self, history: History) -> None:
        self._behaviours = behaviours_of(history)
        self._matrix = np.hstack([life_statistics(self._behaviours), *tag_statistics(self._behaviours, self.n_tags)]).astype(np.float32)
        self.details = {"width": self._matrix.shape[1]}

    def scores(self, users: Sequence[str], labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        rows = rows_for(self._behaviours, users, self._matrix)
        n_classes = int(labels.max()) + 1
        smallest = np.bincount(labels[train], minlength=n_classes)
        smallest = int(smallest[smallest > 0].min())
        model = HistGradientBoostingClassifier(
            learning_rate=0.05, max_iter=max(1, min(self.budget.steps, 500)), max_leaf_nodes=15, min_samples_leaf=min(20, max(1, len(train) // 20)),
            l2_regularization=1.0, max_features=0.5, early_stopping=len(train) >= 100 and smallest >= 10, n_iter_no_change=20, random_state=self.seed,
        )  # fmt: skip
        model.fit(rows[train], labels[train])
        found = np.zeros((len(test), n_classes))
        found[:, model.classes_] = model.predict_proba(rows[test])
        return found


def life_statistics(behaviours: Behaviours) -> np.ndarray:
    """(U, some thirty) float64: volume, recency, regularity, breadth and habits of time."""
    n_users, owners, micros = len(behaviours.users), behaviours.owners, behaviours.micros
    counts = np.diff(behaviours.offsets).astype(np.float64)
    ago = (behaviours.cut - micros) / DAY
    first, last = ago[behaviours.offsets[:-1]], ago[behaviours.offsets[1:] - 1]
    columns = [np.log1p(counts), np.log1p(last), np.log1p(first), np.log1p(first - last), np.log1p(counts / (first - last + 30))]
    recent = [np.bincount(owners[ago <= days], minlength=n_users) for days in RECENT_DAYS]
    columns += [np.log1p(number) for number in recent] + [number / counts for number in recent]
    inner = owners[1:] == owners[:-1]
    gaps, gap_owners = -np.diff(ago)[inner], owners[1:][inner]
    n_gaps = np.maximum(np.bincount(gap_owners, minlength=n_users), 1)
    mean_gap = np.bincount(gap_owners, gaps, n_users) / n_gaps
    spread = np.sqrt(np.maximum(np.bincount(gap_owners, gaps**2, n_users) / n_gaps - mean_gap**2, 0))
    longest = np.zeros(n_users)
    np.maximum.at(longest, gap_owners, gaps)
    columns += [np.log1p(mean_gap), np.log1p(spread), np.log1p(longest)]
    days = micros // DAY
    for units in (days, behaviours.months):
        active = _distinct(owners, units, n_users)
        columns += [np.log1p(active), active / counts]
    distinct = _distinct(owners, behaviours.items, n_users)
    columns += [np.log1p(distinct), distinct / counts, _entropy(owners, behaviours.items, n_users)]
    columns += [np.bincount(owners[(days + 3) % 7 >= 5], minlength=n_users) / counts]  # 1970-01-01 was a Thursday
    hours = micros // (DAY // 24) % 24
    columns += [np.bincount(owners[hours // 6 == quarter], minlength=n_users) / counts for quarter in range(4)]
    words = np.array([title.count(" ") + 1 if title else 0 for title in behaviours.titles], dtype=np.float64)
    columns += [np.bincount(owners, words[behaviours.items], n_users) / counts]
    return np.stack(columns, axis=1)


def tag_statistics(behaviours: Behaviours, n_tags: int) -> tuple[np.ndarray, np.ndarray]:
    """Of the `n_tags` categories (or items) that most users act on: (U, n) log1p of counts, and (U, n) log1p of days since the last time."""
    _, tags = item_tags(behaviours.categories, behaviours.item_ids)
    shape = (len(behaviours.users), len(behaviours.item_ids))
    counts = sparse.csr_matrix((np.ones(len(behaviours.items)), (behaviours.owners, behaviours.items)), shape=shape) @ tags
    chosen = np.sort(np.argsort(-np.diff(counts.tocsc().indptr), kind="stable")[:n_tags])
    counts = np.asarray(counts[:, chosen].todense())
    last = np.full((len(behaviours.users), len(chosen)), NEVER)
    slim = tags[:, chosen]
    owners, days = behaviours.owners, (behaviours.cut - behaviours.micros) / DAY
    lengths = np.diff(slim.indptr)[behaviours.items]
    events = np.repeat(np.arange(len(owners)), lengths)
    within = np.arange(len(events)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    columns = slim.indices[slim.indptr[behaviours.items[events]] + within]
    np.minimum.at(last, (owners[events], columns), days[events])
    return np.log1p(counts), np.log1p(last)


def fading_activity(behaviours: Behaviours, as_of: str, spread: float) -> np.ndarray:
    """(U, N_TRACES) float32: the traces of lurm.smen.activity_traces over months, with their weights beside a representation whose variances add
    up to `spread`."""
    first, end = int(behaviours.months.min()), end_month(as_of)
    months, counts = np.unique(behaviours.owners * (end - first) + behaviours.months - first, return_counts=True)
    users, steps = np.divmod(months, end - first)
    bags = SparseBags(
        torch.zeros(len(months), dtype=torch.int64), torch.from_numpy(counts).float(), torch.arange(len(months) + 1), torch.from_numpy(users),
        torch.from_numpy(steps), torch.full((len(behaviours.users),), end - first),
    )  # fmt: skip
    traces = traces_of(bags, MONTH).numpy()
    return (traces * trace_weights(traces.var(axis=0, dtype=np.float64), spread)).astype(np.float32)


def _distinct(owners: np.ndarray, values: np.ndarray, n_users: int) -> np.ndarray:
    return np.bincount(np.unique(np.stack([owners, values], axis=1), axis=0)[:, 0], minlength=n_users)


def _entropy(owners: np.ndarray, values: np.ndarray, n_users: int) -> np.ndarray:
    pairs, times = np.unique(np.stack([owners, values], axis=1), axis=0, return_counts=True)
    shares = times / np.bincount(owners, minlength=n_users)[pairs[:, 0]]
    return np.bincount(pairs[:, 0], -shares * np.log(shares), n_users)
